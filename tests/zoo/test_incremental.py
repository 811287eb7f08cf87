"""INQ: its powers of two, what is frozen when, and that nothing moves it."""

import functools
import re

import hypothesis as hp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from qtrain.optim import constrained, deploy, project
from qtrain.zoo import incremental
from qtrain.zoo.incremental import METHODS, NOT_BUILT, PORTIONS, Inq, power, powers_of_two

N = 40
BITS = st.sampled_from([2, 3, 4, 5])
round_ = jax.jit(powers_of_two, static_argnums=2)
power_ = jax.jit(power)


def weights(seed: int, size: int = 256) -> np.ndarray:
    """Heavy tails, some exactly at ties and powers, at any scale."""
    rng = np.random.default_rng(seed)
    w = rng.standard_t(3, size)
    w[:32] = 2.0 ** rng.integers(-9, 3, 32) * rng.choice([1, 0.75, 1.5, -1, -0.75], 32)
    return (w * 2.0 ** rng.integers(-12, 6)).astype(np.float32)


def exact(w: np.ndarray, bits: int) -> np.ndarray:
    """The paper's intervals, one by one, in float64: a tie goes to the larger magnitude."""
    n1 = np.floor(np.log2(4 * np.abs(w).max().astype(float) / 3))
    n2 = n1 + 1 - 2 ** (bits - 1) / 2
    betas = 2.0 ** np.arange(n2, n1 + 1)
    out = np.zeros(w.shape)
    for alpha, beta in zip([0, *betas], betas, strict=False):
        out[np.abs(w) >= (alpha + beta) / 2] = beta
    return np.sign(w) * out


@hp.given(seed=st.integers(0, 999), bits=BITS)
def test_rounding_is_that_of_the_intervals(seed, bits):
    """Bit for bit, jitted or not, on a level set of 2^(b-1) + 1 values [zhou2017inq].

    The logarithm of the float64 oracle is safe: 4 s / 3 is a power of two for s = 3/4 2^n alone,
    where s and 4 s / 3 are exact. Kills: zoo/incremental.py: `"nearest_away"` -> `"nearest"`;
    `>= 0.75` -> `> 0.75`; `2 ** (bits - 2)` -> `2 ** (bits - 2) + 1`.
    """
    w = weights(seed)
    top = power_(jnp.max(jnp.abs(w)))
    got = np.asarray(round_(w, top, bits))
    np.testing.assert_array_equal(got, exact(w, bits))
    np.testing.assert_array_equal(got, powers_of_two(jnp.asarray(w), top, bits))


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_levels(bits):
    """All 2^(b-1) + 1 of them, and no other; rounding again changes nothing, 2^n1 held fixed."""
    w = np.concatenate([np.linspace(-1, 1, 4001), 2.0 ** -np.arange(12.0)]).astype(np.float32)
    got = np.asarray(round_(w, power_(jnp.float32(1)), bits))
    assert len(np.unique(got)) == 2 ** (bits - 1) + 1
    np.testing.assert_array_equal(round_(got, power_(jnp.float32(1)), bits), got)


@hp.given(seed=st.integers(0, 999), bits=BITS)
def test_relative_error_is_at_most_a_third(seed, bits):
    """For 3/4 2^n2 <= |w| <= 3/2 2^n1; odd, ascending.

    Kills: zoo/incremental.py: `cast(w.astype(jnp.float32) / top` -> `cast(w.astype(jnp.float32)`.
    """
    w = np.sort(weights(seed))
    top = np.asarray(power_(jnp.max(jnp.abs(w))), float)
    got = np.asarray(round_(w, jnp.float32(top), bits), float)
    least = top * 2.0 ** (1 - 2 ** (bits - 2))
    inside = (np.abs(w) >= 0.75 * least) & (np.abs(w) <= 1.5 * top)
    assert inside.any()
    assert (np.abs(got - w)[inside] <= np.abs(w.astype(float))[inside] / 3).all()
    assert (np.diff(got) >= 0).all()
    np.testing.assert_array_equal(round_(-w, jnp.float32(top), bits), -got)


@pytest.mark.parametrize("steps", [1, 5, 40, 1000])
@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_stages_are_equally_long(bits, steps):
    """All but the last, which acts after the last step.

    Kills: zoo/incremental.py: `step * last //` -> `step * (last + 1) //`.
    """
    inq = Inq(bits=bits)
    stages = np.asarray(inq.stage(np.arange(steps + 1), steps))
    last = len(inq.portions) - 1
    assert stages[0] == 0
    assert stages[steps - 1] < stages[steps] == last
    assert inq.portions[last] == 1
    lengths = np.bincount(stages[:steps], minlength=last)
    assert lengths.max() - lengths.min() <= 1


@functools.lru_cache
def run(optimizer: str, bits: int, steps: int = N):
    """For each step, what the optimizer left, what the step began with, and the frozen mask; then
    what is shipped. The gradient pulls to targets at random.
    """
    tx = {
        "momentum": optax.sgd(0.1, momentum=0.9),
        "adamw": optax.adamw(0.05, weight_decay=0.1),
    }[optimizer]
    rng = np.random.default_rng(bits)
    draw = lambda: jnp.asarray(rng.standard_t(3, (3, 3, 4, 8)), jnp.float32)  # noqa: E731
    params, targets = {"w": draw(), "b": draw()}, {"w": draw(), "b": draw()}
    constraints = {"w": Inq(bits=bits)}
    tx = constrained(tx, constraints, steps)

    @jax.jit
    def step(carry, i):
        given, state = carry
        params, state = project(given, state, constraints, i, steps)
        grads = jax.tree.map(lambda p, t: p - t, params, targets)
        updates, after = tx.update(grads, state, params)
        seen = (given["w"], params["w"], state.kept["w"].frozen)
        return (optax.apply_updates(params, updates), after), seen

    (params, state), seen = jax.lax.scan(step, (params, tx.init(params)), jnp.arange(steps))
    shipped = jax.jit(lambda p, s: deploy(p, s, constraints))(params, state)
    return *map(np.asarray, seen), np.asarray(shipped["w"]), np.asarray(params["w"])


RUNS = [("momentum", 5), ("momentum", 2), ("adamw", 3)]


@pytest.mark.parametrize(("optimizer", "bits"), RUNS)
def test_frozen_weights_keep_their_bits(optimizer, bits):
    """From the step that freezes them to what is shipped, though the optimizer pushes them.

    The free ones do move. Kills: zoo/incremental.py: `return jnp.where(state.frozen, state.values,
    w)` -> `return w`.
    """
    given, seen, masks, shipped, last = run(optimizer, bits)
    for i in range(N - 1):
        assert (masks[i] <= masks[i + 1]).all()
        np.testing.assert_array_equal(seen[i][masks[i]], seen[i + 1][masks[i]])
        assert (seen[i] != seen[i + 1])[~masks[i + 1]].all()
    np.testing.assert_array_equal(seen[-1][masks[-1]], shipped[masks[-1]])
    pushed = [(given[i + 1] != seen[i])[masks[i]].any() for i in range(N - 1)]
    assert any(pushed)
    assert (last != shipped)[~masks[-1]].all()
    top = np.abs(exact(given[0], bits)).max()
    sizes = [0, *(top * 2.0**-i for i in range(2 ** (bits - 2)))]
    assert set(np.unique(np.abs(shipped))) <= set(sizes)


@pytest.mark.parametrize(("optimizer", "bits"), RUNS)
def test_portions_are_frozen_the_largest_first(optimizer, bits):
    """round(portion n) after each stage begins; of the free ones, none that stays free is larger.

    Kills: zoo/incremental.py: `jnp.inf, jnp.abs(w)` -> `jnp.inf, -jnp.abs(w)`;
    `jnp.where(state.frozen, jnp.inf, jnp.abs(w))` -> `jnp.abs(w)`; `round(p * w.size)` -> `round(p
    * w.size / 2)`.
    """
    given, _, masks, _, _ = run(optimizer, bits)
    inq = Inq(bits=bits)
    before = np.zeros_like(masks[0])
    for i, mask in enumerate(masks):
        portion = inq.portions[i * (len(inq.portions) - 1) // N]
        assert mask.sum() == round(portion * mask.size)
        new = mask & ~before
        if new.any():
            assert np.abs(given[i][new]).min() >= np.abs(given[i][~mask]).max()
        before = mask


@functools.partial(jax.jit, static_argnums=0)
def begin(inq: Inq, w: jax.Array):
    """A layer's first of ten steps, its state, a gradient of 3, and what would be shipped."""
    got, state = inq.project(w, inq.init(w, 10), jnp.int32(0), 10)
    return got, state, inq.gradient(jnp.full_like(w, 3), got, state), inq.deploy(got, state)


SIX = Inq(bits=5, portions=(0.5, 1.0))


def test_one_step_by_hand():
    """Ties are frozen in order of index; the largest power stays when a free weight outgrows it;
    a frozen weight is shipped as it was, wherever the last step left it.

    Kills: zoo/incremental.py: `jnp.where(state.frozen, jnp.zeros_like(g), g)` -> `g`; `_held(w,
    state)` -> `w` in `deploy`; `jnp.where(state.frozen.any(), state.top, power(s))` -> `power(s)`.
    """
    got, state, g, shipped = begin(SIX, jnp.array([0.1, -0.9, 0.3, 0.3, -0.3, 0.05]))
    np.testing.assert_array_equal(state.frozen, [False, True, True, True, False, False])
    np.testing.assert_array_equal(got, np.float32([0.1, -1.0, 0.25, 0.25, -0.3, 0.05]))
    np.testing.assert_array_equal(g, [3.0, 0.0, 0.0, 0.0, 3.0, 3.0])
    np.testing.assert_array_equal(shipped, [0.125, -1.0, 0.25, 0.25, -0.25, 2.0**-4])
    assert SIX.deploy(got.at[5].set(100.0), state)[5] == 1.0
    assert SIX.deploy(got.at[1].set(0.3), state)[1] == -1.0


def test_zeros_and_what_is_not_finite():
    """A zero tensor stays zero; one NaN or infinity is seen, in training and when shipped.

    Kills: zoo/incremental.py: `jnp.where(jnp.isfinite(s), jnp.ldexp(jnp.float32(1), n1), jnp.nan)`
    -> `jnp.ldexp(jnp.float32(1), n1)`.
    """
    zeros = jnp.zeros(6)
    got, _, _, shipped = begin(SIX, zeros)
    np.testing.assert_array_equal(got, zeros)
    np.testing.assert_array_equal(shipped, zeros)
    for bad in (np.nan, np.inf):
        got, _, _, shipped = begin(SIX, jnp.ones(6).at[3].set(bad))
        assert not np.isfinite(got).all()
        assert np.isnan(shipped).all()


def test_narrow_dtype():
    w = jnp.linspace(-1, 1, 6).astype(jnp.bfloat16)
    got, _, _, shipped = begin(SIX, w)
    assert got.dtype == shipped.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 1}, "bits must be 2 to 5, not 1"),
        ({"portions": (0.5, 0.5, 1.0)}, "must ascend from above 0 to 1, not (0.5, 0.5, 1.0)"),
        ({"portions": (0.5, 0.9)}, "portions must ascend from above 0 to 1, not (0.5, 0.9)"),
        ({"portions": (0.0, 1.0)}, "portions must ascend from above 0 to 1, not (0.0, 1.0)"),
    ],
)
def test_mistakes(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Inq(**settings)


def test_in_the_list_of_methods():
    (method,) = METHODS
    for bits in method.weight_bits:
        setting = method.settings(bits)["weight"]
        assert setting == Inq(bits=bits) == Inq(bits=bits, portions=PORTIONS[bits])
        assert hash(setting) == hash(Inq(bits=bits))
    assert Inq().describe() == "INQ, 5 bits, in 4 stages"
    assert NOT_BUILT["elq"]
    assert incremental.METHODS[0].source == "zhou2017inq"
