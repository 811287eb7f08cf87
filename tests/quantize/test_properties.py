"""What every rounding to every format promises, and the mutants that break each promise."""

import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from strategies import arrays, assert_same, float_formats, formats, integer_formats, same

from qtrain.formats import Codebook, Float
from qtrain.quantize import cast
from qtrain.quantize.cast import ROUNDINGS, cast_with_bits

DETERMINISTIC = [r for r in ROUNDINGS if r != "stochastic"]


@functools.lru_cache(maxsize=256)
def jitted(fmt, rounding):
    return jax.jit(lambda x: cast(x, fmt, rounding=rounding))


def run(x, fmt, rounding="nearest") -> np.ndarray:
    return np.asarray(jitted(fmt, rounding)(x))


@pytest.mark.parametrize("rounding", DETERMINISTIC)
@given(st.data())
def test_idempotent(rounding, data):
    """A value of the format stays. Kills: cast.py `_nearest`: one ulp more."""
    fmt = data.draw(formats())
    once = run(data.draw(arrays(fmt)), fmt, rounding)
    once = once[np.isfinite(once)]
    once = np.resize(once, 64) if once.size else np.zeros(64, np.float32)
    assert_same(run(once, fmt, rounding), once, once)


@pytest.mark.parametrize("rounding", DETERMINISTIC)
@given(st.data())
def test_monotone(rounding, data):
    """A larger number never ends below a smaller one (to_odd too, between grid points).

    Kills: cast.py `_finish`: what saturates becomes 0.
    """
    fmt = data.draw(formats())
    x = np.sort(data.draw(arrays(fmt, specials=False)))
    y = run(x, fmt, rounding)
    y = y[~np.isnan(y)]  # overflow of formats without infinity
    assert (np.diff(y) >= 0).all() or not np.isfinite(y).all()
    finite = y[np.isfinite(y)]
    assert (np.diff(finite) >= 0).all()


@given(st.data(), st.sampled_from(DETERMINISTIC))
def test_odd(data, rounding):
    """cast(-x) = -cast(x), signed zeros included where there are any.

    Kills: cast.py `_finish`: the sign bit is not put back.
    """
    fmt = data.draw(float_formats())
    x = data.draw(arrays(fmt))
    y, z = run(x, fmt, rounding), run(-x, fmt, rounding)
    y = np.where(y == 0, np.float32(0), -y) if fmt.top == "fnuz" else -y
    z = np.where(z == 0, np.float32(0), z) if fmt.top == "fnuz" else z
    assert_same(z, y, x)


@given(st.data(), st.sampled_from(DETERMINISTIC))
def test_error_is_bounded(data, rounding):
    """At most half an ulp for the nearest modes, one for the others, between the ends.

    Kills: cast.py `_nearest`: 23 - man -> 22 - man; reference.py: nearest_away truncates.
    """
    fmt = data.draw(float_formats(subnormals=True))
    x = data.draw(arrays(fmt, specials=False))
    x = x[np.abs(x) <= fmt.max]
    x = np.resize(x, 64) if x.size else np.zeros(64, np.float32)
    y, exact = run(x, fmt, rounding).astype(np.float64), x.astype(np.float64)
    exponent = np.maximum(np.floor(np.log2(np.maximum(np.abs(exact), 2.0**-149))), fmt.emin)
    ulp = 2.0 ** (exponent - fmt.man)
    error = np.abs(y - exact) / ulp
    assert (error <= (0.5 if "nearest" in rounding else 1)).all()


@given(st.data())
def test_toward_zero_never_grows(data):
    """Kills: reference.py: toward_zero rounds away."""
    fmt = data.draw(formats())
    if isinstance(fmt, Codebook) and 0.0 not in fmt.levels:
        return
    x = data.draw(arrays(fmt, specials=False))
    y = run(x, fmt, "toward_zero")
    assert (np.abs(y) <= np.abs(x)).all()


@given(st.data())
def test_stochastic_ends_at_a_neighbour(data):
    """Between rounding toward zero and one ulp further; exact values stay.

    Kills: cast.py `_stochastic`: the mask one bit shorter.
    """
    fmt = data.draw(float_formats(22) | integer_formats())
    x = data.draw(arrays(fmt, specials=False))
    down = run(x, fmt, "toward_zero")
    got = np.asarray(cast(x, fmt, jax.random.key(data.draw(st.integers(0, 9)))))
    inside = np.abs(x) < fmt.max
    away = np.abs(got) >= np.abs(down)
    assert (away | np.isnan(got) | ~inside).all()
    exact = same(down, x)
    assert_same(got[exact & inside], x[exact & inside], x[exact & inside])


@pytest.mark.parametrize("variant", "ABC")
@pytest.mark.parametrize(
    ("fmt", "nbits"), [(Float(4, 3), 4), (Float(5, 2), 8), (Float(6, 9), 7), (Float(5, 10), 13)]
)
def test_odds_are_exact(fmt, nbits, variant):
    """Over all 2^N words: as many go up as delta 2^N, truncated (A), rounded half up (B) or half
    to even (C). For delta of at most N bits all three are delta 2^N: no bias at all.

    Kills: reference.py: variant A adds one to the word.
    """
    words = np.arange(2**nbits, dtype=np.uint32)
    for low in (1.0, fmt.min_normal, 3 * fmt.min_subnormal, -fmt.max / 2):
        ulp = abs(np.spacing(np.float32(low))) * 2.0 ** (23 - fmt.man)
        ulp = max(ulp, fmt.min_subnormal)
        for k in (1, 2 ** (nbits - 1), 2**nbits - 1):
            x = np.float32(np.copysign(abs(low) + k * 2.0**-nbits * ulp, low))
            y = cast_with_bits(jnp.full(words.size, x), fmt, "stochastic", words, nbits, variant)
            assert int((np.abs(y) > abs(low)).sum()) == k


@pytest.mark.parametrize("fmt", ["e5m2", "e6m9", "int8", "fixed4.4", "ternary"])
def test_stochastic_is_unbiased(fmt):
    """The mean of 2^18 roundings of each of eight numbers is the number, within 6 standard
    errors of a coin between the neighbours (at most half their distance over 2^9).

    Kills: cast.py: words >> 32 - nbits -> words >> 33 - nbits.
    """
    x = jnp.asarray([0.3, -0.7, 0.07, -0.9, 0.51, 0.125, 0.999, -0.33], jnp.float32)
    y = cast(jnp.broadcast_to(x[:, None], (8, 2**18)), fmt, jax.random.key(4))
    y = np.asarray(y, np.float64)
    spread = y.max(1) - y.min(1)
    bias = np.abs(y.mean(1) - np.asarray(x, np.float64))
    quantum = np.where(spread > 0, spread, 1) * 2.0**-13  # of the random bits: 14 at least
    assert (bias <= 6 * spread / 2 / 2**9 + quantum).all()
