"""Scopes of nnx modules: their names, and that nothing else changes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import qtrain as qt
from qtrain.models import CifarResNet
from qtrain.nn import Rule, paths, quantize_model
from qtrain.nn.scopes import with_scopes
from qtrain.workload import trace

X = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)


def resnet():
    """Abstract: nothing but shapes is asked of it."""
    make = functools.partial(CifarResNet, depth=8, num_classes=10, in_shape=(8, 8, 3))
    return nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0)))


def call(model, x):
    return model(x)


def names(fn, *args):
    return [g.path for g in trace(fn, *args)]


ORDER = [
    "stem", *(f"stage{s}/0/conv{i}" for s in (1, 2, 3) for i in (1, 2)), "head",
]  # fmt: skip


def test_paths_are_those_of_rules():
    model = with_scopes(resnet())
    assert names(call, model, X) == ORDER
    assert set(ORDER) == set(paths(model))


def test_scopes_survive_splitting_and_transformations():
    model = with_scopes(resnet())
    graphdef, state = nnx.split(model)
    assert names(lambda s, x: nnx.merge(graphdef, s)(x), state, X) == ORDER
    assert names(call, with_scopes(model), X) == ORDER
    assert names(call, nnx.clone(model), X) == ORDER
    assert names(nnx.jit(call), model, X) == ORDER
    assert nnx.graphdef(with_scopes(resnet())) == graphdef  # equal models share a compilation


def test_gradients():
    def loss(model, x):
        return jnp.sum(model(x) ** 2)

    found = trace(loss, with_scopes(resnet()), X, grad=True)
    assert [g.path for g in found.role("weight_grad")] == ORDER[::-1]
    assert [g.path for g in found.role("input_grad")] == ORDER[:0:-1]
    assert [
        g.path for g in trace(nnx.grad(loss), with_scopes(resnet()), X).role("weight_grad")
    ] == (ORDER[::-1])


class Tower(nnx.Module):
    """A parent with a method besides its call, and a child that is called twice."""

    def __init__(self, rngs):
        self.embed = nnx.Linear(4, 4, rngs=rngs)
        self.inner = nnx.Sequential(nnx.Linear(4, 4, rngs=rngs), nnx.Linear(4, 4, rngs=rngs))

    def encode(self, x):
        return self.inner(self.embed(self.embed(x)))

    def __call__(self, x):
        return self.encode(x)


class Pair(nnx.Module):
    def __init__(self, rngs):
        self.a = Tower(rngs)
        self.b = Tower(rngs)

    def __call__(self, x):
        return self.b.encode(self.a(x))


def test_model_is_left_as_it_was():
    model, x = Pair(nnx.Rngs(0)), jax.random.normal(jax.random.key(0), (2, 4))
    before = nnx.graphdef(model)
    copy = with_scopes(model)
    assert nnx.graphdef(model) == before
    assert set(names(call, model, x)) == {""}
    assert (type(copy.a).__name__, isinstance(copy.a, Tower)) == ("Tower", True)
    np.testing.assert_array_equal(copy(x), model(x))
    states = (jax.tree.leaves(nnx.state(m)) for m in (copy, model))
    for a, b in zip(*states, strict=True):
        np.testing.assert_array_equal(a, b)


def test_paths_do_not_depend_on_who_calls():
    model = with_scopes(Pair(nnx.Rngs(0)))
    x = jnp.ones((2, 4))
    tower = lambda t: [f"{t}/embed"] * 2 + [f"{t}/inner/layers/{i}" for i in (0, 1)]  # noqa: E731
    assert names(call, model, x) == tower("a") + tower("b")
    assert names(lambda m, x: m.a.embed(x), model, x) == ["a/embed"]


def test_scan_over_layers():
    @nnx.vmap(in_axes=0, out_axes=0)
    def layers(key):
        return nnx.Linear(4, 4, rngs=nnx.Rngs(key))

    class Stack(nnx.Module):
        def __init__(self):
            self.layers = layers(jax.random.split(jax.random.key(0), 3))

        def __call__(self, x):
            step = nnx.scan(lambda x, layer: layer(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
            return step(x, self.layers)

    (gemm,) = trace(call, with_scopes(Stack()), jnp.ones((2, 4)))
    assert (gemm.path, gemm.count) == ("layers", 3)


@pytest.mark.parametrize("stochastic", [False, True])
def test_hooks_lie_within_their_layer(stochastic):
    cast = functools.partial(qt.Cast, "e5m2", rounding="stochastic" if stochastic else "nearest")
    model = quantize_model(resnet(), [Rule(".*", qt.DotConfig(lhs=cast()))])
    assert names(call, with_scopes(model), X) == ORDER
