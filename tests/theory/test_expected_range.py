"""The range of n Gaussians: witnesses, bounds, Range-BN's calibration, simulation."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import sympy as sp
from hypothesis import example, given
from hypothesis import strategies as st

from theory import expected_range as er
from theory import range_derivation as derivation
from theory import range_law

LENGTHS = st.floats(1, 40).map(lambda e: round(2**e))
PARTS = [16, 64, 256, 1024, 12544, 50176, 200704]  # the spec's section 2


# The expectation.


@pytest.mark.parametrize("n", [2, 1000, 2**40])
def test_expectation_against_mpmath(n):
    """1e-13, as stated: 25 digits, and -x as well instead of the doubling."""
    with mpmath.workdps(25):
        edges = mpmath.linspace(-15, 15, 31)
        want = mpmath.quad(lambda x: 1 - mpmath.ncdf(x) ** n - mpmath.ncdf(-x) ** n, edges)
        assert abs(er.expected(n) / want - 1) < 1e-13


def test_expectation_in_closed_form():
    for n in (2, 3, 4, 5):
        assert er.expected(n) == pytest.approx(2 * float(derivation.maximum(n)), rel=1e-14)


def test_shapes():
    lengths = np.array([[2, 3, 4], [5, 6, 7]])
    assert er.expected(lengths).shape == (2, 3)
    assert er.expected(lengths)[1, 2] == pytest.approx(er.expected(7), rel=1e-14)
    assert isinstance(er.calibration(16), float)


@given(LENGTHS)
@example(2)
@example(3)
def test_bounds_hold(n):
    """1e-14: rounding, where n = 2 makes the lower bound an equality.

    Kills: pi ln 2 -> ln 2 in `lower`, 2 sqrt(2 ln n) -> 2 sqrt(ln n) in `upper`.
    """
    assert er.lower(n) * (1 - 1e-14) <= er.expected(n) < er.upper(n)
    assert 0.325 < er.calibration(n) < 2


@given(st.floats(10, 40).map(lambda e: round(2**e)))
@example(2**10)
def test_expansion_is_as_accurate_as_stated(n):
    """Kills: the sign of any coefficient of EXPANSION, the second cumulant set to zero."""
    for terms, stated in enumerate([0.1463, 0.0093, 1.5e-4, 3.4e-4]):
        assert abs(er.asymptotic(n, terms) / er.expected(n) - 1) < stated


def test_last_term_improves_the_expansion():
    """Figures of the docstring, at 2^40: kills the third cumulant set to zero."""
    two, three = (abs(er.asymptotic(2**40, k) / er.expected(2**40) - 1) for k in (2, 3))
    assert three < 1.9e-6 < 1.8e-5 < two < 1.9e-5


def test_expansion_is_the_derived_one():
    for found, derived in zip(er.EXPANSION, derivation.expansion(3), strict=True):
        assert list(found) == [float(c) for c in reversed(derived.all_coeffs())]
    assert er.asymptotic(1000, 0) == er.upper(1000)


# Derivations beside the printed.


def test_derived_equal_printed():
    for derived, printed in (
        derivation.upper_bound(),
        derivation.maximum_of_two(),
        derivation.average_of_bounds(),
        derivation.gumbel_sum_tail(),
    ):
        assert sp.simplify(derived - printed) == 0


def test_lower_bound_is_proved():
    """Every block of lengths, without a gap; then the words' distances, and the induction."""
    blocks = derivation.lower_bound()
    assert blocks[0].first == 2
    assert all(a.end == b.first for a, b in itertools.pairwise(blocks))
    assert sp.simplify(blocks[0].known - blocks[0].needed) == 0
    assert all(block.known.evalf() > block.needed.evalf() for block in blocks[1:])
    k = sp.Symbol("k", positive=True)
    ratio = sp.sqrt(k) * derivation.maximum(4) / sp.sqrt(2 * (k + 1) / sp.pi)
    assert sp.simplify(sp.diff(ratio, k)).is_positive
    for differing in range(4):
        reached, allowed = derivation.distance_of_sums(3, differing)
        assert reached <= allowed


def test_printed_lower_constant_is_not_sharp():
    derived, printed = derivation.paper_interval()
    assert float(derived) == pytest.approx(er.calibration(2), rel=1e-14)
    assert derived.evalf() > 2.9 * printed
    assert er.calibration(np.arange(2, 5000)).argmin() == 0


# Range-BN.


def test_calibration_table():
    """The spec's table, part Monte Carlo, within 2 % and the rounding of its digits."""
    printed = [3.55, 4.68, 5.66, 6.49, 7.87, 8.37, 8.97]
    paper = [1.51, 1.62, 1.70, 1.74, 1.81, 1.80, 1.82]
    code = [0.81, 0.88, 0.92, 0.94, 0.98, 0.97, 0.98]
    np.testing.assert_allclose(er.expected(PARTS), printed, rtol=0.02)
    np.testing.assert_allclose(er.calibration(PARTS), paper, rtol=0.02)
    np.testing.assert_allclose(er.calibration(PARTS, "code"), code, rtol=0.02)
    chunked = er.calibration(16 * np.array(PARTS), "code", chunks=16)
    np.testing.assert_array_equal(chunked, er.calibration(PARTS, "code"))


def test_code_constant():
    average = derivation.average_of_bounds()[1]
    assert er.code_constant(100) == pytest.approx(0.7 * float(average) * er.paper_constant(100))
    assert er.code_constant(100) / er.paper_constant(100) == pytest.approx(0.5402, abs=5e-5)


def test_simulated_calibration():
    """Range-BN's divisor, written with numpy: mean within 4 standard errors of the mean, standard
    deviation within 4 of its own, std sqrt((kurtosis - 1) / 4 trials), kurtosis below 5.4 (that
    of one Gumbel)."""
    rng, trials = np.random.default_rng(0), 4000
    for n, chunks in ((2, 1), (64, 1), (1024, 16)):
        x = rng.normal(3.0, 1.0, (trials, chunks, n // chunks))
        divisor = (x.max(-1).mean(-1) - x.min(-1).mean(-1)) / math.sqrt(2 * math.log(n // chunks))
        spread = range_law.spread(n, chunks=chunks)
        error = divisor.mean() - er.calibration(n, chunks=chunks)
        assert abs(error) < 4 * spread / math.sqrt(trials)
        assert abs(divisor.std() / spread - 1) < 4 * math.sqrt(4.4 / (4 * trials))


# The distribution.


def test_distribution_of_two():
    """|x - y|, x - y of variance 2; and the deviation, sqrt(2 - 4/pi)."""
    r = np.array([1e-3, 0.1, 1.0, 3.0, 12.0])
    want = [math.erf(v / 2) for v in r]
    np.testing.assert_allclose(np.exp(range_law.log_cdf(r, 2)), want, rtol=1e-11)
    np.testing.assert_allclose(range_law.sf(r, 2), [math.erfc(v / 2) for v in r], rtol=1e-11)
    assert range_law.std(2) == pytest.approx(math.sqrt(2 - 4 / math.pi), rel=1e-12)


@pytest.mark.parametrize(("n", "r"), [(3, 0.5), (50, 1.6), (10**4, 8.6), (10**6, 13.0)])
def test_distribution_against_mpmath(n, r):
    """1e-11, as stated, in both tails."""
    with mpmath.workdps(30):
        r = mpmath.mpf(r)

        def inside(x):
            return mpmath.ncdf(x + r) - mpmath.ncdf(x)

        edges = mpmath.linspace(-14, 8, 45)
        below = mpmath.quad(lambda x: n * mpmath.npdf(x) * inside(x) ** (n - 1), edges)
        log_below, above = range_law.log_cdf(float(r), n), range_law.sf(float(r), n)
        assert abs(mpmath.exp(log_below) / below - 1) < 1e-11
        assert abs(above / (1 - below) - 1) < 1e-11


@given(LENGTHS, st.floats(0.5, 1.2))
def test_both_tails_make_one(n, factor):
    """1e-10: (n - 1) times a rounded logarithm, small where the probability is not.

    Kills: n - 1 -> n in `sf`, log1p(-exp) dropped from `_log_inside` (at 2^40).
    """
    r = factor * er.upper(n)
    assert np.exp(range_law.log_cdf(r, n)) + range_law.sf(r, n) == pytest.approx(1, abs=1e-10)


@given(LENGTHS, st.floats(1e-6, 1 - 1e-6))
def test_quantile_inverts(n, p):
    """1e-11 of r, whose density is below sqrt(2 ln n): kills 1 - p -> p where p > 1/2."""
    r = range_law.quantile(p, n)
    assert np.exp(range_law.log_cdf(r, n)) == pytest.approx(p, abs=1e-9)


def test_mean_is_that_of_the_distribution():
    """int P(range > r) dr: two integrals with nothing in common."""
    r, weights = er.gauss_legendre(np.arange(0, 26.25, 0.25))
    for n in (2, 100, 2**40):
        assert range_law.sf(r, n) @ weights == pytest.approx(er.expected(n), rel=1e-11)


def test_violation_of_the_printed_bound():
    """Figures of the docstring; simulated at n = 2 and 64 within 4 standard errors."""
    assert math.exp(range_law.violation(2).log_below) == pytest.approx(
        math.erf(0.325 * math.sqrt(2 * math.log(2)) / 2), rel=1e-11
    )
    assert math.exp(range_law.violation(8).log_below) == pytest.approx(2.2e-4, rel=0.01)
    assert range_law.violation(1024).log_below < -800
    above = [range_law.violation(n).above for n in (2, 1024, 2**20)]
    assert np.round(above, 3).tolist() == [0.096, 0.041, 0.025]
    rng, trials = np.random.default_rng(1), 20_000
    for n in (2, 64):
        scaled = np.ptp(rng.normal(size=(trials, n)), axis=-1) / math.sqrt(2 * math.log(n))
        for share, p in (
            ((scaled > 2).mean(), range_law.violation(n).above),
            ((scaled < 0.325).mean(), math.exp(range_law.violation(n).log_below)),
        ):
            assert abs(share - p) <= 4 * math.sqrt(p * (1 - p) / trials)


def test_limit_of_the_violation():
    """It tends to the exact probability from above, no faster than 1 / ln n."""
    lengths = [2.0**k for k in (10, 20, 30, 40)]
    ratios = [range_law.violation_limit(n) / range_law.violation(n).above for n in lengths]
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[-1] > 1
    for s in (1.0, 5.0):
        derived, printed = derivation.gumbel_sum(s)
        assert abs(derived - printed) < 1e-14


# Messages.


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: er.expected(1), "n = 1: a range is that of 2 to 2\\^40 samples"),
        (lambda: er.expected([3, 2.5]), r"n = \[3.0, 2.5\]"),
        (lambda: er.expected(math.nan), "n = nan"),
        (lambda: er.asymptotic(10, 4), "terms = 4"),
        (lambda: er.calibration(64, "median"), "unknown constant 'median'"),
        (lambda: er.calibration(100, chunks=16), "16 chunks do not divide n = 100"),
        (lambda: er.calibration(100, chunks=0), "0 chunks"),
        (lambda: er.calibration(16, chunks=16), "n = 1"),
        (lambda: range_law.log_cdf(0.0, 5), "r = 0.0: a range is positive"),
        (lambda: range_law.sf([1.0, math.nan], 5), "a range is positive"),
        (lambda: range_law.quantile(1.0, 5), "p = 1.0"),
        (lambda: derivation.maximum(6), "n = 6"),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()
