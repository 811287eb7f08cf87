"""Layers: shapes, roles, lengths, and flops as XLA counts them."""

import functools
import math

import hypothesis as hp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import pytest
from jax import lax

from qtrain.workload import trace


def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def roles(workload):
    return [(g.role, g.layer) for g in workload]


def conv(x, w, stride=1, padding="SAME", groups=1):
    return lax.conv_general_dilated(
        x, w, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )  # fmt: skip


# Layers


def mlp(p, x):
    for w in p:
        x = jnp.tanh(x @ w)
    return jnp.sum(x**2)


def test_dense():
    w = trace(mlp, [array(5, 7), array(7, 3)], array(11, 5), grad=True)
    assert [(g.role, g.k, g.layer) for g in w] == [
        ("forward", 5, 0),
        ("forward", 7, 1),
        ("weight_grad", 11, 1),
        ("input_grad", 3, 1),
        ("weight_grad", 11, 0),  # the data has no gradient
    ]
    assert w[0].bytes == 4 * (11 * 5 + 5 * 7 + 11 * 7)
    assert w[0].dtypes == ("float32",) * 3
    assert w.flops == 2 * 11 * (5 * 7 * 2 + 7 * 3 * 3)
    assert {k: len(v) for k, v in w.layers().items()} == {0: 2, 1: 3}
    assert w.role("input_grad") == (w[3],)


DIFFERENTIATED = {
    "grad=True": functools.partial(trace, grad=True),
    "own grad": lambda fn, *a: trace(jax.grad(fn), *a),
    "jit outside": lambda fn, *a: trace(jax.jit(jax.value_and_grad(fn)), *a),
    "jit inside": lambda fn, *a: trace(jax.value_and_grad(jax.jit(fn)), *a),
}


@hp.given(
    how=st.sampled_from(sorted(DIFFERENTIATED)),
    sides=st.lists(st.booleans(), min_size=1, max_size=4),
    linear=st.booleans(),
)
def test_square_layers_need_origins(how, sides, linear):
    """All operands are 4x4, so shapes tell nothing; the linear one's error has no data in it.

    Mutants: `return tuple(fits)` in roles._operands (order alone decides); `return 0` for the
    seed in walk._merge; roles from live code alone; marks of the innermost name stack alone.
    """

    def loss(p, x):
        for w, left in zip(p, sides, strict=True):
            x = w @ x if left else x @ w
        return jnp.sum(x) if linear else jnp.mean(jnp.tanh(x))

    found = roles(DIFFERENTIATED[how](loss, [array(4, 4)] * len(sides), array(4, 4)))
    backward = [pair for pair in found if pair[0] != "forward"]
    expected = [("weight_grad", i) for i in range(len(sides))]
    expected += [("input_grad", i) for i in range(1, len(sides))]
    assert sorted(backward) == sorted(expected)


def attention(p, x):
    with jax.named_scope("attention"):
        q, k, v = (x @ p[name] for name in "qkv")
        scores = jax.nn.softmax(jnp.einsum("bqd,bkd->bqk", q, k))
        return jnp.einsum("bqk,bkd->bqd", scores, v) @ p["o"]


@pytest.mark.parametrize("d", [8, 4])  # at 8 all operands are equally large
def test_attention_products_have_no_weight(d):
    def loss(p, x):
        return jnp.sum(attention(p, x) ** 2)

    w = trace(loss, {name: array(d, d) for name in "qkvo"}, array(1, 8, d), grad=True)
    assert {g.path for g in w} == {"attention"}
    count = lambda role: sum(g.role == role for g in w)  # noqa: E731
    assert (count("forward"), count("weight_grad"), count("input_grad")) == (6, 4, 5)
    for position, gemms in w.layers().items():
        if position in (3, 4):  # scores, values
            assert [g.role for g in gemms[1:]] == ["input_grad", "input_grad"]
            assert (gemms[0].k, gemms[0].batch) == ((d if position == 3 else 8), 1)


@hp.given(
    kernel=st.sampled_from([(1, 1), (3, 3), (3, 2)]),
    stride=st.integers(1, 3),
    padding=st.sampled_from(["SAME", "VALID"]),
    groups=st.sampled_from([1, 2, 4]),
    widths=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    batch=st.integers(1, 3),
)
def test_conv_lengths(kernel, stride, padding, groups, widths, batch):
    """Forward kernel x Cin, input gradient kernel x Cout, weight gradient batch x output.

    Mutant: k without the division by the groups (kernel positions x lhs channels in
    gemm._conv_shape).
    """
    c_in, c_out = (4 * w for w in widths)
    x, w = array(batch, 7, 6, c_in), array(*kernel, c_in // groups, c_out)
    apply = functools.partial(conv, stride=stride, padding=padding, groups=groups)
    y = jax.eval_shape(apply, x, w).shape

    def loss(w, x):
        return jnp.sum(apply(x, w) ** 2)

    gemms = trace(loss, w, x, grad=True, argnums=(0, 1))
    assert sorted(g.role for g in gemms) == ["forward", "input_grad", "weight_grad"]
    found = {g.role: g for g in gemms}
    assert {role: g.k for role, g in found.items()} == {
        "forward": math.prod(kernel) * c_in // groups,
        "input_grad": math.prod(kernel) * c_out // groups,
        "weight_grad": math.prod(y[:3]),
    }
    assert (found["forward"].m, found["forward"].n) == (math.prod(y[:3]), c_out // groups)
    assert found["input_grad"].m * found["input_grad"].n * groups == math.prod(x.shape)
    weights = found["weight_grad"]
    assert weights.m * weights.n * groups == math.prod(w.shape)
    assert weights.groups == groups


# Flops against XLA


def pullback(fn):
    return lambda args, error: jax.vjp(fn, *args)[1](error)


def xla_flops(fn, *args):
    return jax.jit(fn).lower(*args).compile().cost_analysis()["flops"]


FUNCTIONS = {
    "chain": (lambda a, b, c: a @ b @ c, (array(5, 7), array(7, 3), array(3, 11))),
    "batched": (
        lambda a, b: jnp.einsum("bij,bkj->bik", a, b),
        (array(3, 5, 7), array(3, 2, 7)),
    ),
    "two contracted": (
        lambda a, b: jnp.einsum("ijk,kjl->il", a, b),
        (array(5, 3, 4), array(4, 3, 6)),
    ),
    "vmapped": (jax.vmap(lambda a, b: a @ b, in_axes=(0, None)), (array(3, 5, 7), array(7, 2))),
}


@pytest.mark.parametrize(("fn", "args"), FUNCTIONS.values(), ids=FUNCTIONS.keys())
def test_flops_of_gemms_are_xlas(fn, args):
    assert trace(fn, *args).flops == xla_flops(fn, *args)
    error = jax.eval_shape(fn, *args)
    back = pullback(fn)
    assert trace(back, args, error).flops == xla_flops(back, args, error)


def test_flops_of_unpadded_convolution_are_xlas():
    """XLA leaves out products with padding and holes, so only a dense one agrees."""
    x, w = array(2, 8, 8, 6), array(3, 3, 6, 4)
    fn = functools.partial(conv, stride=2, padding="VALID")
    assert trace(fn, x, w).flops == xla_flops(fn, x, w)
