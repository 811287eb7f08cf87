"""The angle theorem: derivations, the exact integral and its witnesses, where the bound holds."""

import itertools
import math

import numpy as np
import pytest
import sympy as sp
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from theory import angle
from theory import angle_derivation as derivation
from theory.element_law import GAUSSIAN, LAPLACE, GeneralizedGaussian, LogNormal

TENSORS = hnp.arrays(np.float64, st.integers(2, 8), elements=st.floats(-100, 100))


def affine(w, bits):
    """Rows of w to the nearest of 2^bits levels between their extremes, as numpy."""
    low = w.min(-1, keepdims=True)
    step = (w.max(-1, keepdims=True) - low) / (2**bits - 1)
    return np.rint((w - low) / step) * step + low


def magnitude(w, bits):
    """The grid that the bound counts: step max|w| / 2^bits."""
    step = np.abs(w).max(-1, keepdims=True) / 2**bits
    return np.rint(w / step) * step


def cosines(w, q):
    return (w * q).sum(-1) / np.sqrt((w * w).sum(-1) * (q * q).sum(-1))


# Derivations beside the printed.


def test_derived_equal_printed():
    for derived, printed in (
        derivation.binary(),
        derivation.ternary(),
        derivation.ternary_condition(),
        derivation.noise_power(),
        derivation.stochastic_noise_power(),
        derivation.m_bit_bound(),
        derivation.estimate(),
        derivation.worst_case(),
        derivation.reach(2),
        derivation.reach(2 * sp.sqrt(2)),
    ):
        assert sp.simplify((derived - printed).rewrite(sp.erf)) == 0
    derived, printed = derivation.triangle_step()
    assert abs(derived - printed) < 1e-12


def test_binary_and_ternary():
    """37.07 and 25.85 degrees, the spec's section 5."""
    assert angle.degrees(angle.binary()) == pytest.approx(37.07, abs=0.005)
    assert angle.ternary(0) == pytest.approx(angle.binary(), rel=1e-15)
    best = angle.best_ternary()
    threshold, cosine, degrees = derivation.best_ternary()
    assert best.threshold == pytest.approx(float(threshold), rel=1e-13)
    assert best.cosine == pytest.approx(float(cosine), rel=1e-14)
    assert angle.degrees(best.cosine) == pytest.approx(float(degrees), rel=1e-12)
    assert (round(best.threshold, 3), round(best.cosine, 4)) == (0.612, 0.8999)
    assert angle.degrees(best.cosine) == pytest.approx(25.85, abs=0.005)


@given(st.floats(0, 30))
def test_ternary(t):
    """Printed formula up to its underflow; never better than the best. Kills: log 2 dropped."""
    tail = stats.norm.sf(t)
    want = 2 * stats.norm.pdf(t) / math.sqrt(2 * tail)
    assert angle.ternary(t) == pytest.approx(want, rel=1e-11)
    assert angle.ternary(t) <= angle.best_ternary().cosine * (1 + 1e-15)


def test_bound_and_estimate_of_the_spec():
    """Four printed digits."""
    small = [0.7635, 0.8659, 0.9281, 0.9627, 0.9810, 0.9952]
    large = [0.7250, 0.8406, 0.9134, 0.9547, 0.9768, 0.9941]
    bits = np.array([2, 3, 4, 5, 6, 8])
    np.testing.assert_allclose(angle.bound(bits, 1e4), small, atol=5e-5)
    np.testing.assert_allclose(angle.bound(bits, 1e6), large, atol=5e-5)
    printed = 2.0**bits / (2.0**bits + math.sqrt(math.log(1e4)) / math.sqrt(6))
    np.testing.assert_allclose(angle.bound(bits, 1e4), printed, rtol=1e-14)
    l = math.log(1e6)
    np.testing.assert_allclose(
        angle.estimate(bits, 1e6), 1 / np.sqrt(1 + 2 * l / (3 * 4.0**bits)), rtol=1e-14
    )


def test_measured_cosines_of_the_spec():
    """Single simulations there: within 2 %."""
    for n, measured in (
        (10**4, [0.826, 0.955, 0.9897, 0.9975, 0.9994, 0.99996]),
        (10**6, [0.801, 0.930, 0.983, 0.9960, 0.9990, 0.9999]),
    ):
        ours = [angle.uniform(m, n) for m in (2, 3, 4, 5, 6, 8)]
        np.testing.assert_allclose(ours, measured, rtol=0.02)


# Where the bound holds.


@given(st.integers(1, 8), st.floats(1, 40).map(lambda e: round(2**e)))
@example(1, 20)  # the smallest margin of M = 1, 0.064
@example(2, 10**4)  # of M = 2, 0.058
def test_bound_holds_for_the_mean(bits, n):
    """Affine grid, nearest, Gaussian. Kills: 2^bits -> 2^(bits + 1) in `_noise`."""
    assert angle.uniform(bits, n) > angle.bound(bits, n)


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_estimate_is_the_better_predictor(bits):
    for n in (10**4, 10**6):
        exact = angle.uniform(bits, n)
        error = abs(angle.estimate(bits, n) - exact)
        assert error < 0.03
        assert error < (exact - angle.bound(bits, n)) / 2


def test_where_the_bound_fails():
    """As the docstring of `bound` says."""
    assert angle.uniform(2, 30, kind="signed") < angle.bound(2, 30)
    assert angle.uniform(3, 30, kind="signed") > angle.bound(3, 30)
    for bits, holds, fails in ((1, 3, 5), (2, 100, 1000), (3, 10**8, 10**10)):
        assert angle.uniform(bits, holds, rounding="stochastic") > angle.bound(bits, holds)
        assert angle.uniform(bits, fails, rounding="stochastic") < angle.bound(bits, fails)
    assert angle.uniform(2, 10**4, LAPLACE) < angle.bound(2, 10**4)


def test_single_tensors_below_the_bound():
    """Shares of the docstring of `bound`, within 4 standard errors of the shares measured here."""
    rng = np.random.default_rng(2)

    def share(bits, n, trials, quantize=affine):
        w = rng.normal(size=(trials, n))
        found = cosines(w, quantize(w, bits))
        return (found < angle.bound(bits, n)).mean()

    assert abs(share(1, 10, 20_000) - 0.15) < 4 * math.sqrt(0.15 * 0.85 / 20_000)
    assert share(2, 1000, 3000) < 0.002 + 4 * math.sqrt(0.002 / 3000)
    assert share(3, 1000, 2000) == 0
    assert share(1, 100, 2000, magnitude) == share(2, 100, 2000, magnitude) == 0


def test_peaked_tensors_lose_direction():
    """The paper's reason for care with layer gradients: the more peaked, the more is lost."""
    laws = (GAUSSIAN, LAPLACE, GeneralizedGaussian(shape=0.5), LogNormal(spread=1.5))
    assert [round(law.kurtosis) for law in laws] == [3, 6, 25, 8103]
    lost = [1 - angle.uniform(4, 10**5, law, rounding="stochastic") for law in laws]
    assert all(a < b / 2 for a, b in itertools.pairwise(lost[:3]))
    assert lost[2] < lost[3]


# Any tensor.


@given(TENSORS, TENSORS, st.sampled_from([1e-200, 1.0, 1e200]))
def test_cosine(w, q, scale):
    """Kills: `_unit` without the division by the largest, which over- and underflows here."""
    w, q = np.where(np.abs(w) < 1e-3, 1.0, w), np.where(np.abs(q) < 1e-3, 1.0, q)
    q = np.resize(q, w.shape)
    found = angle.cosine(scale * w, q)
    assert found == pytest.approx(cosines(w, q), abs=1e-13)
    assert angle.cosine(q, -w) == pytest.approx(-found, abs=1e-13)
    assert angle.cosine(w, scale * w) == pytest.approx(1, abs=1e-15)


@given(TENSORS, TENSORS, st.floats(0, 1))
def test_worst_case(w, direction, error):
    """1e-7: sqrt of a rounding error. Kills: 1 - e^2 -> 1 - e^2 / 2 in `worst_case`."""
    w = np.where(np.abs(w) < 1e-3, 1.0, w)
    direction = np.resize(np.where(np.abs(direction) < 1e-3, 1.0, direction), w.shape)
    e = error * np.linalg.norm(w) / np.linalg.norm(direction) * direction
    if np.abs(w + e).max() > 1e-6:
        assert angle.cosine(w, w + e) >= angle.worst_case(error) - 1e-7


@given(st.floats(0, 0.99))
@example(0.8)
def test_worst_case_is_attained(error):
    """By an error orthogonal to what it makes of W, in the plane. Kills: 1 + error dropped."""
    q = np.array([1.0, 0.0])
    w = np.array([math.sqrt(1 - error**2), error])  # |w| = 1, w - c q orthogonal to q
    q = q * math.sqrt(1 - error**2)
    assert np.linalg.norm(q - w) == pytest.approx(error, abs=1e-12)
    assert angle.cosine(w, q) == pytest.approx(angle.worst_case(error), abs=1e-12)
    at_most = 0.839286755214161  # angle_derivation.triangle_step
    assert (angle.worst_case(error) >= 1 / (1 + error) - 1e-15) == (error <= at_most)
    assert angle.uncorrelated(error) >= 1 / (1 + error)


def test_predicted():
    """Mean over Laplace tensors within 4 standard errors, and a bias of kurtosis / n of what is
    lost, as `given_extremes` states; invariant to the scale; the wrong family is further off."""
    rng, trials, n = np.random.default_rng(3), 20, 50_000
    w = rng.laplace(size=(trials, n))
    for bits in (2, 4, 8):
        found = cosines(w, affine(w, bits))
        error = [angle.predicted(row, bits) - c for row, c in zip(w, found, strict=True)]
        assert abs(np.mean(error)) < 4 * np.std(error) / math.sqrt(trials) + 6 / n * (
            1 - found.mean()
        )
    once = angle.predicted(w[0], 8, "log_normal")
    assert angle.predicted(1e-30 * w[0], 8, "log_normal") == pytest.approx(once, rel=1e-9)
    assert abs(once - found[0]) > abs(error[0])


# Messages.


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: angle.cosine([1.0], [1.0, 2.0]), r"shapes \(1,\) and \(2,\)"),
        (lambda: angle.cosine([0.0], [1.0]), "largest magnitude 0.0"),
        (lambda: angle.cosine([1.0], [math.inf]), "largest magnitude inf"),
        (lambda: angle.ternary(-0.1), "t = -0.1"),
        (lambda: angle.bound(0, 10), "bits = 0.0"),
        (lambda: angle.estimate(4, 1), "n = 1.0"),
        (lambda: angle.worst_case(1.5), "error = 1.5"),
        (lambda: angle.predicted([1.0, -1.0], 4, "cauchy"), "unknown family 'cauchy'"),
        (lambda: angle.predicted([1.0, -1.0], 4), "kurtosis = 1.0"),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()
