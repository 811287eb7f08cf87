"""Quantizers that learn: their numbers in the model, their rates, first values, whole layers."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from train import tiny

import qtrain as qt
from qtrain.nn import Learned, Rule, calibrate, quantize_model
from qtrain.recipes.base import Adam, At, Momentum, Update
from qtrain.train.state import create
from qtrain.train.step import train_step

X = jax.random.normal(jax.random.key(0), (16, 8))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scaled:
    """Times a learned number, and, if asked, calibrated by the largest operand."""

    rate: float = 0.1
    decay: bool = False
    calibrated: bool = False
    needs_key = False
    sources = ("none",)

    def describe(self):
        return "scaled"

    def module(self, kernel):
        return (Calibrated if self.calibrated else Module)(self)


class Module(nnx.Module):
    def __init__(self, settings):
        self.scale = Learned(jnp.ones(()), rate=settings.rate, decay=settings.decay)

    def __call__(self, x, key=None):
        return self.scale[...] * x


class Calibrated(Module):
    def calibrate(self, x):
        self.scale[...] = jnp.max(jnp.abs(x))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Twice:
    """The whole layer, twice."""

    needs_key = False
    sources = ("none",)

    def describe(self):
        return "twice"

    def module(self, kernel):
        return TwiceModule()


class TwiceModule(nnx.Module):
    def layer(self, op, x, kernel, key):
        return op(x, kernel) + op(2 * x, kernel)


def recipe(optimizer, **changes):
    weight = (At(".*", Scaled(**changes.pop("scaled", {}))),)
    return dataclasses.replace(tiny.float32(optimizer=optimizer), weight=weight, **changes)


def step(one):
    data = tiny.dataset()
    program, state = create(one, data, seed=0, steps=12)
    do = jax.jit(functools.partial(train_step, program))
    batch = jnp.asarray(data.train_x[:16]), jnp.asarray(data.train_y[:16])
    return state, do(state, *batch)[0]


def scales(state):
    return np.array([v for p, v in nnx.to_flat_state(state.params) if p[-1] == "scale"])


def weights(state):
    return [np.asarray(v[...]) for p, v in nnx.to_flat_state(state.params) if p[-1] == "kernel"]


@pytest.mark.parametrize("optimizer", [Momentum(lr=0.1), Adam(lr=0.1)], ids=["momentum", "adam"])
def test_learned_numbers_move_at_their_own_rate(optimizer):
    """A tenth of the rate is a tenth of the first step; weights move all the same.

    Kills: train/optimizer.py: `lambda u, f: f * u` -> `lambda u, f: u`.
    """
    one = recipe(optimizer, scaled={"rate": 1.0})
    begin, full = step(one)
    _, tenth = step(recipe(optimizer, scaled={"rate": 0.1}))
    moved = scales(full) - scales(begin)
    assert np.all(moved != 0)
    # each float32 sum near 1 rounds by 2^-24 at most
    np.testing.assert_allclose(scales(tenth) - scales(begin), 0.1 * moved, atol=2.0**-22)
    jax.tree.map(np.testing.assert_array_equal, weights(tenth), weights(full))


@pytest.mark.parametrize("update", [None, Update(fmt="e8m21", rounding="nearest")], ids=str)
@pytest.mark.parametrize("optimizer", [Momentum(lr=0.1), Adam(lr=0.1)], ids=["momentum", "adam"])
def test_decay_is_for_those_that_ask(optimizer, update):
    """In float32 and in rounded updates.

    Kills: train/optimizer.py: `decayed(params) if learns else None` -> `None`; `decay if m else
    0.0` -> `decay`.
    """
    strong = dataclasses.replace(optimizer, weight_decay=0.5)
    without = scales(step(recipe(strong, update=update))[1])
    decays = scales(step(recipe(strong, update=update, scaled={"decay": True}))[1])
    assert np.all(decays < without)
    none = dataclasses.replace(optimizer, weight_decay=0.0)
    np.testing.assert_array_equal(without, scales(step(recipe(none, update=update))[1]))


def test_quantizers_alone_are_trained():
    """Kills: train/optimizer.py: `weights=0.0 if only` -> `weights=1.0 if only`."""
    begin, after = step(recipe(Momentum(), trains="quantizers"))
    jax.tree.map(np.testing.assert_array_equal, weights(after), weights(begin))
    assert np.all(scales(after) != scales(begin))
    with pytest.raises(ValueError, match="trains quantizers only, and none of them learns"):
        step(dataclasses.replace(tiny.float32(), trains="quantizers"))


def test_rounded_updates_keep_their_grid():
    """A learned number, too, ends on the grid of the master weights."""
    _, after = step(recipe(Momentum(lr=0.1), update=Update(fmt="e5m6")))
    np.testing.assert_array_equal(scales(after), qt.cast(jnp.asarray(scales(after)), "e5m6"))


def mlp():
    return nnx.Sequential(
        nnx.Linear(8, 8, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(8, 4, rngs=nnx.Rngs(1))
    )


def test_calibration_sees_the_float32_model():
    """The second layer's operand is that of the model without any quantizer.

    Kills: nn/hooks.py: `lhs_module = rhs_module = None` in `__call__` removed.
    """
    plain, model = mlp(), mlp()
    hidden = nnx.relu(plain.layers[0](X))
    config = qt.DotConfig(lhs=Scaled(calibrated=True), rhs=Scaled(calibrated=True))
    quantize_model(model, [Rule(".*", config)])
    calibrate(model, X)
    hooks = [model.layers[i].dot_general for i in (0, 2)]
    for hook, operand in zip(hooks, (X, hidden), strict=True):
        np.testing.assert_array_equal(hook.lhs.scale[...], jnp.max(jnp.abs(operand)))
        assert not hook.calibrating
    for i, hook in zip((0, 2), hooks, strict=True):
        np.testing.assert_array_equal(hook.rhs.scale[...], jnp.max(jnp.abs(plain.layers[i].kernel)))


def test_a_whole_layer():
    """Kills: nn/hooks.py: `if hasattr(rhs_module, "layer"):` -> `if False:`."""
    plain, model = mlp(), mlp()
    quantize_model(model, [Rule("layers/0", qt.DotConfig(rhs=Twice()))])
    bias = plain.layers[0].bias[...]
    once = plain.layers[0](X) - bias
    np.testing.assert_allclose(model.layers[0](X), 3 * once + bias, rtol=1e-6, atol=1e-6)
