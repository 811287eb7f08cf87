"""HWGQ: nearest positive level, gates, and steps that are best for half of a Gaussian."""

import functools

import hypothesis as hp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from qtrain.zoo.half_wave import METHODS, STEPS, HalfWave, uniform_centres
from qtrain.zoo.xnor import BWN

N = 64
UNIT = 2.0**-24
LLOYD = HalfWave(bits=2, centres=(0.453, 1.51))  # [cai2017hwgq, code]
PUBLISHED = HalfWave(bits=2, centres=uniform_centres(2, 0.538))  # [cai2017hwgq, code]
ALL = [HalfWave(bits=b) for b in STEPS] + [LLOYD, PUBLISHED]
NAMES = ["1", "2", "3", "4", "lloyd", "published"]
PICK = hp.settings(max_examples=20)
run = functools.partial(jax.jit, static_argnums=0)(lambda quantizer, x: quantizer(x))
gradient = functools.partial(jax.jit, static_argnums=0)(
    lambda quantizer, x: jax.grad(lambda x: quantizer(x).sum())(x)
)


def inputs(seed: int, levels) -> np.ndarray:
    """Normals, levels and thresholds, the least positive number, numbers beside 0 and the top."""
    x = np.random.default_rng(seed).normal(size=N) * 1.5
    x[:8] = 0, -0.0, 2.0**-126, -(2.0**-126), 1e-6, levels[-1], np.nextafter(levels[-1], 9), 1e30
    x[8 : 8 + len(levels)] = levels
    return x.astype(np.float32)


@pytest.mark.parametrize("quantizer", ALL, ids=NAMES)
@PICK
@hp.given(seed=st.integers(0, 999))
def test_positive_numbers_go_to_the_nearest_positive_level(quantizer, seed):
    """0 for x <= 0 and nothing else; the distance is the least of all levels above 0.

    Kills: zoo/half_wave.py: `jnp.maximum(x.astype(jnp.float32), ...)` -> `x`, so that small ones
    become 0; `x <= 0` -> `x < 0`.
    """
    centres = np.float64(quantizer.levels[1:])
    x = inputs(seed, quantizer.levels)
    y = np.asarray(run(quantizer, x))
    np.testing.assert_array_equal(y, quantizer(jnp.asarray(x)))
    np.testing.assert_array_equal(y == 0, x <= 0)
    assert np.isin(y[x > 0], centres).all()
    distance = np.abs(x[:, None].astype(np.float64) - centres)
    excess = np.abs(x.astype(np.float64) - y) - distance.min(1)
    assert (excess[(x > 0) & (x < 9)] <= 4 * UNIT).all()  # a threshold is a rounded midpoint
    assert y[2] == y[4] == centres[0]
    assert (np.diff(y[np.argsort(x)]) >= 0).all()
    np.testing.assert_array_equal(run(quantizer, y), y)
    assert len(quantizer.levels) <= 2**quantizer.bits


@pytest.mark.parametrize("backward", ["clip", "log", "relu"])
def test_gates(backward):
    """1{0 < x <= q}; beyond q 0, 1 / (x - q + 1), or 1.

    Kills: zoo/half_wave.py: `x > top` -> `x >= top`; `jnp.where(x <= 0, 0, ` -> `x < 0`;
    `jnp.maximum(x - top, 0) + 1` -> without the 1.
    """
    quantizer = HalfWave(bits=2, backward=backward)
    x, q = inputs(0, quantizer.levels), np.float32(quantizer.levels[-1])
    beyond = {"clip": 0, "log": 1 / np.maximum(x.astype(np.float64) - q + 1, 1), "relu": 1}
    want = np.where(x <= 0, 0, np.where(x > q, beyond[backward], 1))
    np.testing.assert_allclose(gradient(quantizer, x), want, rtol=4 * UNIT)


def error(step: float, bits: int) -> float:
    """E (x - q(x))^2 over x > 0 of N(0, 1), by the moments of each cell."""
    centres = step * np.arange(1, 2**bits)
    edges = np.concatenate([[0], (centres[:-1] + centres[1:]) / 2, [np.inf]])
    density = norm.pdf(edges)
    first = density[:-1] - density[1:]
    mass = np.diff(norm.cdf(edges))
    moment = np.where(np.isinf(edges), 0, edges) * density
    second = mass + moment[:-1] - moment[1:]
    return float((second - 2 * centres * first + centres**2 * mass).sum())


@pytest.mark.parametrize("bits", STEPS)
def test_steps_are_best_for_a_half_gaussian(bits):
    """Minimized in float64; printed to three digits.

    Kills: zoo/half_wave.py: `2: 0.539` -> `2: 0.549`, `4: 0.184` -> `4: 0.193`; `j * step` ->
    `(j + 1) * step`.
    """
    best = minimize_scalar(error, (0.1, STEPS[bits]), args=(bits,), tol=1e-10).x
    assert abs(best - STEPS[bits]) <= 6e-4
    centres = np.asarray(HalfWave(bits=bits).levels[1:])
    np.testing.assert_allclose(centres, STEPS[bits] * np.arange(1, 2**bits), rtol=UNIT)


def test_levels_of_the_source():
    """Its two centres are the means of their cells, to the digits printed; its step is best to
    within 1e-3.
    """
    middle = (0.453 + 1.51) / 2
    below = (norm.pdf(0) - norm.pdf(middle)) / (norm.cdf(middle) - 0.5)
    above = norm.pdf(middle) / norm.sf(middle)
    assert abs(below - 0.453) < 1e-3
    assert abs(above - 1.51) < 1e-3
    assert error(0.538, 2) < error(STEPS[2], 2) * (1 + 1e-5)
    np.testing.assert_allclose(PUBLISHED.levels, [0, 0.538, 1.076, 1.614], rtol=UNIT)


@pytest.mark.parametrize("quantizer", ALL, ids=NAMES)
def test_nan_stays(quantizer):
    """Kills: zoo/half_wave.py: `where(x <= 0, 0, nearest)` -> `where(x > 0, nearest, 0)`."""
    got = np.asarray(run(quantizer, jnp.array([np.nan, np.inf, -np.inf, 0])))
    np.testing.assert_array_equal(got, [np.nan, np.float32(quantizer.levels[-1]), 0, 0])
    assert quantizer(jnp.ones(3, jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 5}, "half-wave bits must be 1 to 4, not 5: or give centres"),
        ({"backward": "none"}, "unknown backward 'none': clip, log or relu"),
        ({"bits": 1, "centres": (1.0, 2.0)}, "1 bits hold 1 to 1 positive centres, not 2"),
        ({"centres": (2.0, 1.0)}, "levels must be two or more, ascending"),
        ({"centres": (-1.0, 1.0)}, "levels must be two or more, ascending"),
    ],
)
def test_mistakes(settings, message):
    with pytest.raises(ValueError, match=message) as error:
        HalfWave(**settings)
    assert "\n" not in str(error.value)


def test_methods():
    (hwgq,) = METHODS
    assert hwgq.settings() == {"weight": BWN(), "activation": HalfWave(bits=2)}
    assert LLOYD.describe() == "half-wave, 2 given levels above 0"
    log = HalfWave(bits=3, backward="log")
    assert log.describe() == "half-wave, 7 evenly spaced levels above 0, log gradient"
