"""Cosines integrated over the cells of a grid: quadrature, closed forms, simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import integrate, stats

from theory import angle_derivation as derivation
from theory.angle_integral import Grid, given_extremes, over_grid, span, uniform
from theory.element_law import GAUSSIAN, LAPLACE, LogNormal

ROUNDINGS = ("nearest", "stochastic")
BINARY = math.sqrt(2 / math.pi)  # of signs


def quantized(w, bits, kind, rounding, rng):
    """The grids written with numpy, rows of w each on its own."""
    if kind == "affine":
        low = w.min(-1, keepdims=True)
        step = (w.max(-1, keepdims=True) - low) / (2**bits - 1)
    else:
        low = 0
        levels = 2 ** (bits - 1) - 1 if kind == "signed" else 2**bits
        step = np.abs(w).max(-1, keepdims=True) / levels
    steps = (w - low) / step
    steps = np.rint(steps) if rounding == "nearest" else np.floor(steps + rng.random(w.shape))
    return steps * step + low


def cosines(w, q):
    return (w * q).sum(-1) / np.sqrt((w * w).sum(-1) * (q * q).sum(-1))


@given(
    st.sampled_from([GAUSSIAN, LAPLACE]),
    st.floats(-3, 0.5),
    st.floats(0.1, 2),
    st.integers(1, 6),
    st.sampled_from(ROUNDINGS),
)
@example(GAUSSIAN, -1.0, 2.0, 2, "nearest")
@example(LAPLACE, -1.0, 2.0, 2, "stochastic")
def test_integral_against_quadrature(law, low, step, count, rounding):
    """1e-7, the quadrature's. Kills: outer cells left out, `below * above` with a plus, middles
    one half step off."""
    grid = Grid(low=low, step=step, count=count)
    pdf = stats.norm.pdf if law == GAUSSIAN else stats.laplace(scale=math.sqrt(0.5)).pdf
    levels = low + step * np.arange(count)
    edges = levels if rounding == "stochastic" else (levels[:-1] + levels[1:]) / 2
    breaks = sorted({-30.0, *edges, 0.0, 30.0})

    def rounded(w):  # E[q | w], E[q^2 | w]
        place = min(max((w - low) / step, 0), count - 1)
        if rounding == "nearest":
            return low + step * round(place), (low + step * round(place)) ** 2
        mean = low + step * place
        return mean, mean**2 + step**2 * (place % 1) * (1 - place % 1)

    def total(f):
        return sum(integrate.quad(f, *p, limit=200)[0] for p in itertools.pairwise(breaks))

    product = total(lambda w: w * rounded(w)[0] * pdf(w))
    square = total(lambda w: rounded(w)[1] * pdf(w))
    if square > 1e-6:
        found = over_grid(law, grid, rounding)
        assert found == pytest.approx(product / math.sqrt(square), abs=1e-7 / square)


@pytest.mark.parametrize("edge", [0.5, 2.0, 3.8, 6.0])
def test_two_bits_in_closed_form(edge):
    by_quadrature, closed = derivation.two_bits(edge)
    assert abs(by_quadrature - closed) < 1e-14
    found = over_grid(GAUSSIAN, span("affine", 2, -edge, edge))
    assert found == pytest.approx(float(closed), rel=1e-13)


def test_one_bit_and_no_bits_are_signs():
    assert over_grid(GAUSSIAN, span("affine", 1, -2.0, 2.0)) == pytest.approx(BINARY)
    coarse = span("affine", 4, -1000.0, 1000.0)  # steps so long that only the sign is left
    assert over_grid(GAUSSIAN, coarse) == pytest.approx(BINARY)


def test_simulated():
    """Means of Gaussian tensors of 1000, within 4 standard errors."""
    rng, trials = np.random.default_rng(0), 500
    w = rng.normal(size=(trials, 1000))
    for bits in (1, 2, 4, 8):
        for rounding in ROUNDINGS:
            found = cosines(w, quantized(w, bits, "affine", rounding, rng))
            expected = uniform(bits, 1000, rounding=rounding)
            assert abs(found.mean() - expected) < 4 * found.std() / math.sqrt(trials)


@pytest.mark.parametrize("kind", ["affine", "signed", "magnitude"])
def test_simulated_at_given_extremes(kind):
    """Tensors of 4096 against their own extremes: within 4 standard errors and kurtosis / n of
    what is lost of the cosine, the stated bias of sums replaced by expectations."""
    rng, trials, n = np.random.default_rng(1), 60, 4096
    sign = rng.choice([-1, 1], (trials, n))
    samples = {
        GAUSSIAN: rng.normal(size=(trials, n)),
        LAPLACE: rng.laplace(size=(trials, n)) * math.sqrt(0.5),
        LogNormal(spread=0.7): sign * np.exp(0.7 * rng.normal(size=(trials, n)) - 0.49),
    }
    for law, w in samples.items():
        ends = np.stack([w.min(-1), w.max(-1)], -1).tolist()
        for bits in (2, 4, 8):
            for rounding in ROUNDINGS:
                found = cosines(w, quantized(w, bits, kind, rounding, rng))
                expected = np.array(
                    [given_extremes(bits, n, *e, law, kind, rounding) for e in ends]
                )
                error = found - expected
                allowed = law.kurtosis / n * (1 - expected.mean())
                assert abs(error.mean()) < 4 * error.std() / math.sqrt(trials) + allowed


def test_two_elements_are_levels_of_an_affine_grid():
    """Kills: the extremes left out of the sums."""
    for bits in (1, 2, 5):
        for rounding in ROUNDINGS:
            assert uniform(bits, 2, rounding=rounding) == pytest.approx(1, rel=1e-12)


def test_three_elements_between_given_extremes():
    """One Gaussian between -1 and 1, levels -1 and 1, by hand. Kills: / mass dropped."""
    phi, mass = stats.norm.pdf([0, 1]), 1 - 2 * stats.norm.sf(1)
    square, product = 3 - 2 * phi[1] / mass, 2 + 2 * (phi[0] - phi[1]) / mass
    found = given_extremes(1, 3, -1.0, 1.0)
    assert found == pytest.approx(product / math.sqrt(3 * square), rel=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: uniform(17, 100), "bits = 17: affine grids have 1 to 16"),
        (lambda: uniform(1, 100, kind="signed"), "signed grids have 2 to 16"),
        (lambda: uniform(4, 1), "n = 1: the extremes"),
        (lambda: uniform(4, 9, kind="log"), "unknown grid 'log'"),
        (lambda: uniform(4, 9, rounding="up"), "unknown rounding 'up'"),
        (lambda: given_extremes(4, 9, 1.0, 1.0), "a constant tensor needs no grid"),
        (lambda: Grid(low=0.0, step=0.0, count=4), "step > 0"),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()
