"""q_k and what is cut to a fixed range: levels, errors, gates."""

import functools

import hypothesis as hp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtrain.zoo.uniform import METHODS, Clipped, Filled, q_k

UNIT = 2.0**-24  # unit roundoff of float32
N = 64
BITS = (1, 2, 3, 4, 8, 16)
ALL = [Clipped(bits=b) for b in BITS] + [Clipped(bits=b, signed=True) for b in BITS[1:]]
PICK = hp.settings(max_examples=20)
compiled = functools.partial(jax.jit, static_argnums=1)(q_k)
run = functools.partial(jax.jit, static_argnums=0)(lambda quantizer, x: quantizer(x))
gradient = functools.partial(jax.jit, static_argnums=0)(
    lambda quantizer, x: jax.grad(lambda x: quantizer(x).sum())(x)
)


def shares(seed: int, n: int) -> np.ndarray:
    """Float32 numbers of [0, 1], with its ends and points beside ties of n steps."""
    rng = np.random.default_rng(seed)
    ties = (rng.integers(0, n, N // 2) + 0.5) / n
    x = np.concatenate([rng.uniform(size=N // 2 - 2), ties, [0, 1]]).astype(np.float32)
    return np.nextafter(x, rng.choice(np.float32([0, 1]), N))


def spread(seed: int) -> np.ndarray:
    """Numbers in and around [-1, 1], with the ends of both ranges."""
    x = np.random.default_rng(seed).normal(size=N).astype(np.float32)
    x[:6] = 0, 1, -1, -0.0, np.nextafter(np.float32(1), np.float32(2)), -1.0000001
    return x


def level_set(n: int, low: int) -> np.ndarray:
    """The float32 numbers nearest to j / n."""
    return (np.arange(low * n, n + 1) / n).astype(np.float32)


@pytest.mark.parametrize("bits", BITS)
@PICK
@hp.given(seed=st.integers(0, 999))
def test_q_k_goes_to_a_level_half_a_step_away_at_most(bits, seed):
    """Levels are the numbers nearest to j / n, jitted and not; the second time nothing changes.

    |x - q| <= 1 / (2 n); n x is rounded, by half an ulp of n x <= n, which may move a tie by u,
    and the level by u.

    Kills: zoo/uniform.py: the divisor as a constant, which jit turns into a product; `2**bits - 1`
    -> `2**bits`.
    """
    n = 2**bits - 1
    x = shares(seed, n)
    q = np.asarray(compiled(x, bits))
    np.testing.assert_array_equal(q, q_k(jnp.asarray(x), bits))
    assert np.isin(q, level_set(n, 0)).all()
    assert np.abs(q - x.astype(np.float64)).max() <= 1 / (2 * n) + 2 * UNIT
    np.testing.assert_array_equal(compiled(q, bits), q)
    assert (np.diff(q[np.argsort(x)]) >= 0).all()


@pytest.mark.parametrize("bits", BITS)
def test_ties_go_to_the_even_code(bits):
    """Powers of two times n / n are exact: 1/2 is a tie of n = 2^k - 1 steps, and becomes the even
    one of its neighbours.

    Kills: zoo/uniform.py: `lax.RoundingMethod.TO_NEAREST_EVEN` -> `AWAY_FROM_ZERO`.
    """
    n = 2**bits - 1
    want = 2 * round(n / 4) / n  # the even number nearest to n / 2
    assert float(q_k(jnp.float32(0.5), bits)) == np.float32(want)


@pytest.mark.parametrize("quantizer", ALL, ids=Clipped.describe)
@PICK
@hp.given(seed=st.integers(0, 999))
def test_cut_and_rounded(quantizer, seed):
    """2^bits levels from 0, or an odd number of them around it; ends for all beyond; odd if signed.

    Kills: zoo/uniform.py: `2 ** (self.bits - self.signed)` -> `2**self.bits`; `jnp.clip(x, low,
    1.0)` -> `x`.
    """
    x, signed = spread(seed), quantizer.signed
    q = np.asarray(run(quantizer, x))
    np.testing.assert_array_equal(q, quantizer(jnp.asarray(x)))
    levels = level_set(2 ** (quantizer.bits - signed) - 1, -signed)
    assert len(levels) == 2**quantizer.bits - signed
    assert np.isin(q, levels).all()
    assert (np.diff(q[np.argsort(x)]) >= 0).all()
    step = 1 / quantizer.steps
    assert np.abs(q - np.clip(x, -float(signed), 1)).max() <= step / 2 + 2 * UNIT
    np.testing.assert_array_equal(run(quantizer, q), q)
    if signed:
        np.testing.assert_array_equal(run(quantizer, -x), -q)


@pytest.mark.parametrize("quantizer", ALL[3:9], ids=Clipped.describe)
def test_gate_is_the_closed_range(quantizer):
    """1{low <= x <= 1} exactly, at the ends too.

    Kills: zoo/uniform.py: `clip=(low, 1.0)` removed.
    """
    x = spread(1)
    inside = (x >= -float(quantizer.signed)) & (x <= 1)
    np.testing.assert_array_equal(gradient(quantizer, x), inside.astype(np.float32))


@pytest.mark.parametrize("quantizer", ALL, ids=Clipped.describe)
def test_nan_stays_and_zeros_stay(quantizer):
    """A zero keeps its value, an infinity goes to an end, a NaN is no end."""
    got = np.asarray(run(quantizer, jnp.array([np.nan, 0.0, -0.0, np.inf, -np.inf])))
    np.testing.assert_array_equal(got, [np.nan, 0, 0, 1, -1 if quantizer.signed else 0])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_types_round_in_float32(dtype):
    x = jnp.linspace(-1, 1, N).astype(dtype)
    got = Clipped(bits=4, signed=True)(x)
    assert got.dtype == dtype
    wide = Clipped(bits=4, signed=True)(x.astype(jnp.float32))
    np.testing.assert_array_equal(got, wide.astype(dtype))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 0}, "unsigned bits must be 1 to 16, not 0"),
        ({"bits": 17}, "unsigned bits must be 1 to 16, not 17"),
        ({"bits": 1, "signed": True}, "signed bits must be 2 to 16, not 1"),
    ],
)
def test_mistakes(settings, message):
    with pytest.raises(ValueError, match=message) as error:
        Clipped(**settings)
    assert "\n" not in str(error.value)


def test_wrpn_is_signed_weights_on_a_wide_model():
    """Kills: zoo/uniform.py: `widen=2` removed."""
    (wrpn,) = METHODS
    weight = Filled(quantizer=Clipped(bits=2, signed=True))
    want = {"weight": weight, "activation": Clipped(bits=8)}
    assert wrpn.settings(2, 8) == want
    assert wrpn.widen == 2
    assert Clipped(bits=4).describe() == "4 bits in [0, 1]"


@PICK
@hp.given(st.integers(0, 2**32), st.sampled_from([0.0, 1e-20, 0.3, 1.0, 7.0]))
def test_weights_fill_their_range(seed, size):
    """Once, and then each step is as many times as long; nothing leaves the range.

    Kills: zoo/uniform.py: `(w - state.last) * state.gain` -> `(w - state.last)`; `last=w` ->
    `last=0 * w`.
    """
    filled = Filled(quantizer=Clipped(bits=4, signed=True))
    w = jnp.asarray(spread(seed)) * jnp.float32(size)
    first, state = filled.project(w, filled.init(w, 9), jnp.int32(0), 9)
    most = np.max(np.abs(w)) or 1
    np.testing.assert_allclose(first, w / most, rtol=2.0**-22)
    step = np.random.default_rng(seed).normal(size=w.shape).astype(np.float32)
    second, _ = filled.project(first + step, state, jnp.int32(1), 9)
    # the sum rounds the step by 2^-24 of what is added, at most
    want = np.clip(first + step.astype(float) / most, -1, 1)
    slack = 2.0**-22 * (1 + np.abs(step)) / min(most, 1)
    assert np.all(np.abs(second - want) <= slack)
    np.testing.assert_array_equal(filled.deploy(first + step, state), second)
