"""Occasional quantization: one copy of the weights, wide in between, zero where pruned."""

import functools

import hypothesis as hp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from qtrain import optim
from qtrain.quantize.binary_codes import BinaryCodes
from qtrain.zoo import multi_bit
from qtrain.zoo.iterative import METHODS, Iterative, IterativeState, largest

SHAPE = (32, 4)
STEPS, PERIOD = 24, 8
SEEDS = st.integers(0, 10**6)
FEW = hp.settings(max_examples=8)
survivors = jax.jit(
    lambda w, prune: largest(jnp.abs(w), round((1 - prune) * w.size)), static_argnums=1
)


@functools.partial(jax.jit, static_argnums=0)
def quantize(quantizer, w, mask=None):
    return quantizer.quantize(w, mask)


def weights(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)


def curvature(w: jax.Array) -> jax.Array:
    """A quadratic loss around weights that no few levels have."""
    want = jnp.asarray(weights(7))
    return jnp.mean((w - want) ** 2)


@functools.partial(jax.jit, static_argnums=(0, 3))
def train(constraint: Iterative | None, w: jax.Array, rate: float = 1.0, steps: int = STEPS):
    """Weights before each step's projection, those its gradient is taken at, and the last; the
    losses that the state had in each step; what would be shipped.
    """
    constraints = {} if constraint is None else {"w": constraint}
    decayed = optax.chain(optax.add_decayed_weights(1e-3), optax.sgd(rate, momentum=0.9))
    transform = optim.constrained(decayed, constraints, steps)
    state = transform.init({"w": w})

    def step(carry, i):
        params, state = carry
        at, state = optim.project(params, state, constraints, i, steps)
        grads = jax.grad(lambda p: curvature(p["w"]))(at)
        updates, state = transform.update(grads, state, at)
        seen = params["w"], at["w"], _loss(state)
        return (optax.apply_updates(at, updates), state), seen

    (params, state), (before, at, loss) = jax.lax.scan(
        step, ({"w": w}, state), jnp.arange(steps, dtype=jnp.int32)
    )
    return before, at, params["w"], loss, optim.deploy(params, state, constraints)["w"]


def _loss(state) -> jax.Array:
    return state.kept["w"].loss if state.kept else jnp.zeros(())


def levels(w) -> int:
    """The most distinct values of a column."""
    return max(len(np.unique(column)) for column in np.asarray(w).T)


@FEW
@hp.given(SEEDS)
def test_quantized_where_a_period_begins_and_wide_in_between(seed):
    """At most 2^k values a channel at steps 0, N, 2 N, ..., exactly Q of what training left; at the
    other steps the weights are what training left, and lie on no few levels.

    Kills: zoo/iterative.py: `step % self.period == 0` -> `step % self.period == 1`; -> `step >= 0`.
    """
    quantizer = BinaryCodes(bits=2)
    before, at, last, loss, shipped = map(
        np.asarray, train(Iterative(quantizer=quantizer, period=PERIOD), weights(seed))
    )
    for i in range(STEPS):
        if i % PERIOD == 0:
            np.testing.assert_array_equal(at[i], quantize(quantizer, before[i]))
            assert levels(at[i]) <= 4
        else:
            np.testing.assert_array_equal(at[i], before[i])
            assert levels(at[i]) == SHAPE[0]
        start = i - i % PERIOD
        moved = np.mean((before[start].astype(float) - at[start]) ** 2)
        np.testing.assert_allclose(loss[i], moved, rtol=2.0**-20)
    assert levels(last) == SHAPE[0]
    np.testing.assert_array_equal(shipped, quantize(quantizer, last))


@FEW
@hp.given(SEEDS, st.sampled_from((0.25, 0.5, 0.9)))
def test_pruned_weights_stay_zero(seed, prune):
    """After each distortion and in each step after it, in spite of momentum and decay; the largest
    survive, 2^k + 1 values at most.

    Kills: zoo/iterative.py: `jnp.where(state.mask, g, jnp.zeros_like(g))` -> `g`; `-jnp.abs(w)` ->
    `-w`; `quantize(w, state.mask)` -> `quantize(w)`; `quantize(w, mask)` -> `quantize(w)`.
    """
    w = weights(seed)
    constraint = Iterative(quantizer=BinaryCodes(bits=1), period=PERIOD, prune=prune)
    before, at, last, _, shipped = map(np.asarray, train(constraint, w))
    gone = ~np.asarray(survivors(w, prune))
    assert gone.sum() == w.size - round((1 - prune) * w.size)
    assert abs(w[gone]).max() < abs(w[~gone]).min()
    for found in (*at, *before[1:], last, shipped):
        np.testing.assert_array_equal(found[gone], 0)
    assert (last[~gone] != 0).all()
    assert levels(shipped) <= 3


@FEW
@hp.given(SEEDS, st.sampled_from((0.0, 0.5)))
def test_without_periods_it_is_quantized_once(seed, prune):
    """period 0 trains as float32 does, bit for bit, and ships Q of that; a period beyond the run
    distorts the first weights alone. With pruning, the zeros are there from step 0 on.

    Kills: zoo/iterative.py: `if self.period else step == 0` -> `if self.period else step < 0`; `if
    self.period:` of `_distort` left out.
    """
    w, quantizer = weights(seed), BinaryCodes(bits=2)
    once = train(Iterative(quantizer=quantizer, period=0, prune=prune), w)
    first = w if not prune else jnp.where(survivors(w, prune), w, 0)
    mask = None if not prune else survivors(w, prune)
    np.testing.assert_array_equal(once[1][0], first)
    if not prune:
        free = train(None, w)
        for ours, plain in zip(once[:3], free[:3], strict=True):
            np.testing.assert_array_equal(ours, plain)
    np.testing.assert_array_equal(once[4], quantize(quantizer, once[2], mask))
    late = train(Iterative(quantizer=quantizer, period=STEPS + 1, prune=prune), w)
    quantized = quantize(quantizer, w, mask)
    np.testing.assert_array_equal(late[1][0], quantized)
    np.testing.assert_array_equal(late[1][1:], late[0][1:])


def test_no_steps_is_float32():
    """A run of no cycles: the weights are those that it began with, Q of them is shipped."""
    w = weights(0)
    _, _, last, _, shipped = train(Iterative(period=PERIOD), w, 1.0, 0)
    np.testing.assert_array_equal(last, w)
    assert levels(shipped) == 2


def test_gradients_are_plain_and_nothing_else_is_kept():
    """No rounding, sign, sort or comparison in the loss's graph; no float copy of the weights in
    the state: a mask of bools and a number.

    Kills: a forward quantizer in place of the constraint; an IterativeState with `w` in it.
    """
    w = jnp.asarray(weights(0))
    constraint = Iterative(period=PERIOD, prune=0.5)
    assert not callable(constraint)  # no forward pass has it
    state = constraint.init(w, STEPS)
    kinds = [(x.shape, x.dtype.name) for x in jax.tree.leaves(state)]
    assert kinds == [(SHAPE, "bool"), ((), "float32")]
    assert [x.shape for x in jax.tree.leaves(Iterative().init(w, STEPS))] == [()]
    g = jax.grad(curvature)(w)
    free = constraint.gradient(g, w, IterativeState(None, jnp.zeros(())))
    np.testing.assert_array_equal(free, g)
    text = str(jax.make_jaxpr(constraint.gradient)(g, w, state))
    for operation in ("round", "sign", "sort", "cond", "lt"):
        assert f" {operation}" not in text, text
    step = str(jax.make_jaxpr(constraint.project, static_argnums=3)(w, state, jnp.int32(3), STEPS))
    assert " cond[" in step  # rare work is not done in the other steps


def test_every_step_stalls():
    """Steps below a level's distance are rounded away each time [derived]: with period 1 the codes
    stay those of the start, with a longer one they do not.

    With momentum an update is at most 10 x 0.5 x 2 |w - want| / 128, less than a tenth of |w -
    want|; zero, where the code changes, is 0.8 away.
    """
    w = weights(7) + 0.7 * weights(3)
    start = np.sign(np.asarray(quantize(BinaryCodes(bits=1), w)))
    stalled, moved = (train(Iterative(period=n), w, 0.5)[4] for n in (1, STEPS // 2))
    np.testing.assert_array_equal(np.sign(stalled), start)
    assert (np.sign(moved) != start).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"period": -1}, "period must be at least 0 steps, not -1"),
        ({"prune": 1.0}, "prune must be at least 0 and below 1, not 1.0"),
        ({"prune": -0.1}, "prune must be at least 0 and below 1, not -0.1"),
    ],
)
def test_mistakes(settings, message):
    with pytest.raises(ValueError, match=message) as error:
        Iterative(**settings)
    assert "\n" not in str(error.value)


def test_in_words():
    codes = BinaryCodes(bits=2, rule="alternating", per="layer")
    one = Iterative(quantizer=codes, period=31, prune=0.7)
    assert one.describe() == "2-bit alternating codes, per layer, every 31 steps, 70 % pruned"
    assert Iterative(period=0).describe() == "1-bit greedy codes, per channel, after training"
    assert hash(one) == hash(Iterative(quantizer=codes, period=31, prune=0.7))


@pytest.mark.parametrize("method", [*METHODS, *multi_bit.METHODS], ids=lambda m: m.name)
def test_methods(method):
    """Each of its widths gives so many codes, by its own rule."""
    for bits in method.weight_bits:
        places = method.settings(bits)
        assert places.keys() == {"weight"}
        setting = places["weight"]
        quantizer = setting if isinstance(setting, BinaryCodes) else setting.quantizer
        assert (quantizer.bits, quantizer.per) == (bits, "channel")
        assert method.name in (quantizer.rule, "iterative")
