"""DoReFa: weights on the [0, 1] code, their gradient in float64, errors without bias."""

import functools

import hypothesis as hp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtrain.quantize.binary_codes import BinaryCodes
from qtrain.zoo.dorefa import METHODS, SampleError, TanhWeight, weight

UNIT = 2.0**-24
SHAPE = (4, 16)
BITS = (2, 3, 4, 8)
DRAWS = 100_000
PICK = hp.settings(max_examples=20)
run = functools.partial(jax.jit, static_argnums=0)(lambda quantizer, *x: quantizer(*x))


@functools.partial(jax.jit, static_argnums=0)
def gradient(quantizer, w, g):
    """Of the sum of g w'."""
    return jax.grad(lambda w: (g * quantizer(w)).sum())(w)


def weights(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=SHAPE) * 10.0 ** rng.uniform(-2, 1)).astype(np.float32)


def unit(w: np.ndarray) -> np.ndarray:
    """The squeezed weights in float64."""
    t = np.tanh(w.astype(np.float64))
    return t / (2 * np.abs(t).max()) + 0.5


@pytest.mark.parametrize("bits", BITS)
@PICK
@hp.given(seed=st.integers(0, 999))
def test_weights_are_the_code_of_the_squeezed_ones(bits, seed):
    """w' = 2 j / n - 1 for the j nearest to n x, up to the rounding of x: tanh, its maximum, the
    quotient and the sum err by 8 u (measured: XLA's tanh is within 5 u), and j / n by u.

    Kills: zoo/dorefa.py: `jnp.tanh(w.astype(jnp.float32))` without tanh; `2 * jnp.where(most`
    without the 2.
    """
    w, n = weights(seed), 2**bits - 1
    got = np.asarray(run(TanhWeight(bits=bits), w), np.float64)
    np.testing.assert_array_equal(got, TanhWeight(bits=bits)(jnp.asarray(w)))
    code = (got + 1) / 2
    assert np.abs(code * n - np.rint(code * n)).max() <= 2 * n * UNIT
    assert np.abs(code - unit(w)).max() <= 1 / (2 * n) + 12 * UNIT
    largest = np.unravel_index(np.abs(w).argmax(), SHAPE)
    assert got[largest] == np.sign(w[largest])
    assert (np.diff(got.ravel()[np.argsort(w.ravel())]) >= 0).all()
    clear = np.abs(unit(w) * n % 1 - 0.5) > 16 * n * UNIT
    mirrored = np.asarray(run(TanhWeight(bits=bits), -w))
    np.testing.assert_allclose(mirrored[clear], -got[clear], rtol=0, atol=2 * UNIT)


@PICK
@hp.given(seed=st.integers(0, 999))
def test_gradient_goes_through_tanh_and_the_maximum(seed):
    """d sum g w' / dw = g (1 - t^2) / m, and at the largest also -sign(t) (1 - t^2) sum g t / m^2.

    In float64, from w' = t / m without the rounding. 1 - t^2 loses to cancellation, a few u of 1;
    the sum has 64 terms: 80 u of its largest parts.

    Kills: zoo/dorefa.py: `most = jnp.max` with a stop_gradient.
    """
    w = weights(seed)
    g = np.random.default_rng(seed + 1).normal(size=SHAPE).astype(np.float32)
    t = np.tanh(w.astype(np.float64))
    m, slope = np.abs(t).max(), 1 - np.tanh(w.astype(np.float64)) ** 2
    want = g * slope / m
    at = np.abs(t) == m
    hp.assume(at.sum() == 1 and m < 0.99)
    want[at] -= (np.sign(t) * slope)[at] * (g * t).sum() / m**2
    scale = (np.abs(g) / m).max() + np.abs(g * t).sum() / m**2
    got = gradient(TanhWeight(bits=3), w, g)
    np.testing.assert_allclose(got, want, rtol=0, atol=80 * UNIT * scale)


def test_one_bit_is_one_scale_for_the_layer():
    """sign(w) mean|w| over the whole layer, gradient of the identity [zhou2016dorefa, code].

    Kills: zoo/dorefa.py: `per="layer"` -> `per="channel"`.
    """
    w = weights(3)
    got = np.asarray(run(weight(1), w))
    assert weight(1) == BinaryCodes(per="layer")
    np.testing.assert_array_equal(np.sign(got), np.sign(w))
    np.testing.assert_allclose(np.abs(got), np.abs(w).mean(dtype=np.float64), rtol=70 * UNIT)
    np.testing.assert_array_equal(gradient(weight(1), w, w), w)


@pytest.mark.parametrize("bits", [1, *BITS])
def test_zeros_and_nan(bits):
    """Zeros land beside 0, on a level; a NaN is seen in all weights.

    Kills: zoo/dorefa.py: `jnp.where(most == 0, 1, most)` -> `most`, and -> `jnp.where(most > 0,
    most, 1)`.
    """
    zeros = jnp.zeros(SHAPE)
    got = np.asarray(run(weight(bits), zeros))
    assert (np.abs(got) <= 1 / (2**bits - 1) + UNIT).all()
    assert np.isfinite(gradient(weight(bits), zeros, zeros + 1)).all()
    assert np.isnan(run(weight(bits), zeros.at[1, 2].set(jnp.nan))).all()


def shares_of_errors() -> np.ndarray:
    """An example: both ends, points just inside of them, zero, and the rest at random."""
    x = np.random.default_rng(0).uniform(-1, 1, 12)
    x[:8] = 1, -1, 0.999, -0.999, 1 - 2.0**-20, 2.0**-20 - 1, 0, 1e-3
    return x.astype(np.float32)


@pytest.mark.parametrize("bits", [2, 3, 6])
@pytest.mark.parametrize("scale", [1.0, 3e-7])
def test_errors_have_no_bias_on_the_whole_range(bits, scale):
    """The mean of 1e5 examples is g within five standard errors (12 numbers: chance 1e-5).

    A draw is one of two levels beside g, step = 2 m / n apart: the variance is p (1 - p) step^2.
    (g + m) / step has an error of 3 u n, is rounded to 2^-24, and the level errs by 2 u m.

    Kills: zoo/dorefa.py: `rounding="stochastic"` removed; `within(g, -most, most` -> half of it.
    """
    g = shares_of_errors() * np.float32(scale)
    n, m = 2**bits - 1, np.abs(g).max().astype(np.float64)
    key = jax.random.key(bits)
    got = np.asarray(run(SampleError(bits=bits), np.tile(g, (DRAWS, 1)), key), np.float64)
    step = 2 * m / n
    codes = (got + m) / step
    assert np.abs(codes - np.rint(codes)).max() <= 4 * n * UNIT
    assert np.abs(got - g).max() <= step * (1 + 8 * n * UNIT)
    p = (g.astype(np.float64) + m) / step % 1
    slack = (4 * n + 1) * UNIT * step + 2 * UNIT * m
    error = np.sqrt(p * (1 - p) / DRAWS + 1 / DRAWS**2) * step
    assert (np.abs(got.mean(0) - g) <= 5 * error + slack).all()


def test_each_example_has_its_own_range():
    """Largest values stay, whatever other examples hold; zeros stay; a NaN stays in its example.

    Kills: zoo/dorefa.py: `range(1, g.ndim)` -> `range(g.ndim)`.
    """
    g = np.random.default_rng(1).normal(size=(4, 3, 5)).astype(np.float32)
    g *= np.float32([1, 1e-6, 0, 1])[:, None, None]
    g[3, 0, 0] = np.nan
    got = np.asarray(run(SampleError(bits=2), g, jax.random.key(0)))
    for example, rounded in zip(g[:2], got[:2], strict=True):
        top = np.abs(example).max()
        np.testing.assert_allclose(np.abs(rounded).max(), top, rtol=4 * UNIT)
        assert len(np.unique(rounded)) <= 4
    np.testing.assert_array_equal(got[2], 0)
    assert np.isnan(got[3]).all()
    np.testing.assert_array_equal(got, SampleError(bits=2)(jnp.asarray(g), jax.random.key(0)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TanhWeight(bits=1), "weight bits must be 2 to 16, not 1"),
        (lambda: SampleError(bits=1), "error bits must be 2 to 16, not 1"),
        (lambda: SampleError(bits=17), "error bits must be 2 to 16, not 17"),
        (lambda: SampleError()(jnp.ones((2, 2))), "stochastic rounding needs a key"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_methods():
    plain, errors = METHODS
    assert plain.settings(4, 2).keys() == {"weight", "activation"}
    assert errors.settings()["error"] == SampleError(bits=6)
    assert errors.settings()["weight"] == weight(1)
    assert TanhWeight(bits=3).describe() == "3 bits after tanh"
    assert SampleError().describe() == "6 bits stochastic, per sample"
