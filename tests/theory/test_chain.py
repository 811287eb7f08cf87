"""The accumulator's Markov chain against enumeration in rational arithmetic, and known sums."""

import itertools
import math
from bisect import bisect_right
from collections import Counter
from fractions import Fraction

import hypothesis as hp
import hypothesis.strategies as st
import numpy as np
import pytest

from qtrain import formats
from qtrain.formats import Float
from theory.addition import ROUNDINGS
from theory.chain import stall_magnitude, sums
from theory.products import Gaussian, Uniform, discrete, gaussian_products, rounded_gaussian, sparse


def grid_of(fmt: Float) -> list[Fraction]:
    """The non-negative finite values, and one more, as if the exponent had no limit."""
    finite = [Fraction(v) for v in map(fmt.decode, range(fmt.num_codes // 2)) if math.isfinite(v)]
    return [*finite, finite[-1] + Fraction(2) ** (fmt.emax - fmt.man)]


def ulp_of(x: Fraction, fmt: Float) -> Fraction:
    exponent = fmt.emin
    while abs(x) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    return Fraction(2) ** (exponent - fmt.man)


def added(s, p: Fraction, fmt: Float, rounding: str) -> list[tuple]:
    """All results of one rounded addition with their probabilities; s or p may be an infinity."""
    if isinstance(s, float) or isinstance(p, float):
        return [(float(s) + float(p), Fraction(1))]
    if rounding == "align":
        ulp = max(ulp_of(s, fmt), ulp_of(p, fmt))
        s, p = (math.trunc(x / ulp) * ulp for x in (s, p))
    grid, total = grid_of(fmt), s + p
    sign = -1 if total < 0 else 1
    if rounding in ("toward_zero", "align"):
        code = min(bisect_right(grid, abs(total)), len(grid) - 1) - 1
        return [(sign * grid[code], Fraction(1))]
    if abs(total) >= grid[-1]:
        return [(sign * math.inf, Fraction(1))]
    code = bisect_right(grid, abs(total)) - 1
    delta = (abs(total) - grid[code]) / (grid[code + 1] - grid[code])
    if rounding == "nearest":
        up = Fraction(delta > Fraction(1, 2) or (delta == Fraction(1, 2) and code % 2 == 1))
    else:
        scale = 2 ** (23 - fmt.man)
        up = Fraction(round(delta * scale), scale)  # a Fraction rounds half to even
    value = [math.inf if c == len(grid) - 1 else grid[c] for c in (code, code + 1)]
    return [(sign * value[0], 1 - up), (sign * value[1], up)]


def enumerate_sums(atoms: dict, n: int, fmt: Float, rounding: str) -> Counter:
    """The joint law of (s, S) after n additions of (rounded, exact) pairs: every path counted."""
    law = Counter({(Fraction(0), Fraction(0)): Fraction(1)})
    for _ in range(n):
        reached = Counter()
        for ((s, exact), prob), ((p, e), q) in itertools.product(law.items(), atoms.items()):
            for value, weight in added(s, p, fmt, rounding):
                if weight:
                    reached[value, exact + e] += prob * q * weight
        law = reached
    return law


def enumerate_chunks(atoms, n, fmt, intra, rounding, chunk) -> Counter:
    total = Counter({(Fraction(0), Fraction(0)): Fraction(1)})
    for length in [chunk] * (n // chunk) + [n % chunk] * (n % chunk > 0):
        inner, reached = enumerate_sums(atoms, length, intra, rounding), Counter()
        for ((s, exact), prob), ((p, e), q) in itertools.product(total.items(), inner.items()):
            for value, weight in added(s, p, fmt, rounding):
                if weight:
                    reached[value, exact + e] += prob * q * weight
        total = reached
    return total


def check(found, joint: Counter) -> None:
    """Law of s, and moments with the exact sum, equal to 1e-12."""
    law = Counter()
    for (s, _), prob in joint.items():
        law[str(float(s) + 0.0)] += prob
    got = dict(zip(map(str, found.law.values), found.law.probs, strict=True))
    for s in law.keys() | got.keys():
        assert abs(float(law[s]) - got.get(s, 0.0)) < 1e-12, s
    if any(isinstance(s, float) for s, _ in joint):
        return  # moments are infinite
    exact = sum(p * S**2 for (_, S), p in joint.items())
    assert found.retention == pytest.approx(
        float(sum(p * s**2 for (s, _), p in joint.items()) / exact), rel=1e-12
    )
    error = sum(p * (s - S) ** 2 for (s, S), p in joint.items())
    # the chain subtracts moments as large as E[S^2]
    assert found.mean_square_error == pytest.approx(float(error), abs=1e-12 * float(exact))
    assert found.law.mean == pytest.approx(
        float(sum(p * s for (s, _), p in joint.items())), abs=1e-12 * float(exact) ** 0.5
    )


LAWS = {
    "ties": {1.0: 0.25, -1.0: 0.25, 0.25: 0.25, -0.25: 0.25},
    "drift": {0.5: 0.25, 0.375: 0.5, -0.125: 0.125, 2.0: 0.125},
    "float32": {float(np.float32(0.3)): 0.5, float(np.float32(-0.7)): 0.25, 0.0: 0.25},
    "overflow": {7.0: 0.5, -5.0: 0.375, 0.0625: 0.125},
}


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize(("fmt", "n"), [("e3m1", 2), ("e3m1", 6), ("e3m2", 5), ("e3m3", 4)])
def test_sums_equal_enumeration(fmt, n, name, rounding):
    atoms = {(Fraction(v), Fraction(v)): Fraction(q) for v, q in LAWS[name].items()}
    products = discrete(list(LAWS[name]), list(LAWS[name].values()))
    joint = enumerate_sums(atoms, n, formats.get(fmt), rounding)
    check(sums(products, n, fmt, rounding), joint)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize(
    ("fmt", "intra", "n", "chunk"),
    [("e3m2", None, 6, 2), ("e3m1", "e3m2", 5, 2), ("e3m2", "e3m1", 7, 3), ("e3m1", "e3m3", 3, 3)],
)
def test_chunked_sums_equal_enumeration(fmt, intra, n, chunk, name, rounding):
    atoms = {(Fraction(v), Fraction(v)): Fraction(q) for v, q in LAWS[name].items()}
    products = discrete(list(LAWS[name]), list(LAWS[name].values()))
    joint = enumerate_chunks(atoms, n, formats.get(fmt), formats.get(intra or fmt), rounding, chunk)
    check(sums(products, n, fmt, rounding, chunk, intra), joint)


@hp.given(
    values=st.lists(st.integers(-40, 40), min_size=2, max_size=4, unique=True),
    exponent=st.integers(-5, -1),
    n=st.integers(1, 4),
    rounding=st.sampled_from(ROUNDINGS),
)
def test_any_atoms(values, exponent, n, rounding):
    """Kills: ties away from zero in `addition.add` (np.rint -> floor(x + 0.5))."""
    values = [v * 2.0**exponent for v in values]
    atoms = {(Fraction(v), Fraction(v)): Fraction(1, len(values)) for v in values}
    joint = enumerate_sums(atoms, n, formats.get("e3m2"), rounding)
    check(sums(discrete(values, np.full(len(values), 1 / len(values))), n, "e3m2", rounding), joint)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("law", [Gaussian(0.25), Gaussian(0.25, 0.125), Uniform(0.25, 0.5)])
def test_continuous_law_is_the_limit_of_atoms(law, rounding):
    """Atoms at the means of cells that no rounding boundary cuts: the same sums to 1e-12.

    Kills: the spacing at 0 taken from frexp(0), which is that of 1/2, in `Grid.ulp`.
    Stochastic weights are linear inside a cell, and rounded to 21 bits for the atoms only.
    """
    edges = np.arange(-(2**11), 2**11 + 1) * 2.0**-9
    mass, first, _ = (np.diff(x) for x in law.partial_moments(edges))
    kept = mass > 1e-17
    atoms = discrete(first[kept] / mass[kept], mass[kept] / mass[kept].sum())
    n, fmt = 3, Float(exp=3, man=2, top="finite")
    got, want = sums(law, n, fmt, rounding), sums(atoms, n, fmt, rounding)
    table = dict(zip(want.law.values, want.law.probs, strict=True))
    tolerance = n * 2.0**-21 if rounding == "stochastic" else 1e-12
    for s, prob in zip(got.law.values, got.law.probs, strict=True):
        assert abs(table.get(s, 0.0) - prob) < tolerance
    # inside a cell S varies: a deterministic s does not follow, the mean of a stochastic one does
    inside = n * (law.variance - atoms.variance) * (-1 if rounding == "stochastic" else 1)
    assert got.mean_square_error == pytest.approx(
        want.mean_square_error + inside, abs=tolerance * (got.variance + got.mean**2)
    )


def test_folding_and_squaring_change_nothing():
    """Kills: `odd` taken for `even` in the recursion of E[S 1{s}] when squaring."""
    products = discrete([-1.5, -0.25, 0.25, 1.5], [0.2, 0.3, 0.3, 0.2])
    lopsided = discrete([-1.5, -0.25, 0.25, 1.5], [0.2, 0.3, 0.3 - 2e-12, 0.2 + 2e-12])
    for n in (30, 1000):  # by steps, and by squarings
        folded, signed = (sums(p, n, "e4m2") for p in (products, lopsided))
        assert folded.retention == pytest.approx(signed.retention, rel=1e-8)
        assert folded.mean_square_error == pytest.approx(signed.mean_square_error, rel=1e-8)


# [spec, Sec. 6(c)]: Gaussian products rounded to 5 mantissa bits; standard error 3 %
MONTE_CARLO = {
    ("nearest", 6): {256: 0.941, 1024: 0.961, 4096: 0.978},
    ("nearest", 5): {256: 0.935, 1024: 0.952, 4096: 0.827},
    ("align", 6): {256: 0.971, 1024: 0.844, 4096: 0.732},
    ("align", 5): {256: 0.892, 1024: 0.742, 4096: 0.581},
    ("toward_zero", 6): {256: 0.347, 1024: 0.097, 4096: 0.023},
}


@pytest.mark.parametrize(("rounding", "man"), MONTE_CARLO)
def test_monte_carlo_of_the_spec(rounding, man):
    products = rounded_gaussian("e5m5")
    for n, measured in MONTE_CARLO[rounding, man].items():
        exact = sums(products, n, f"e6m{man}", rounding, floor=2.0**-5, joint=False).retention
        assert abs(measured / exact - 1) < 4 * 0.03


def test_sum_of_the_fp8_paper_stalls_at_4096():
    """[wang2018fp8, Fig. 3(b)]: uniform products of mean and deviation 1, sums in (1, 6, 9)."""
    assert stall_magnitude(Uniform(1, 1), "e6m9") == 4096
    edges = np.arange(-4, 13) * 0.25 - 0.125
    products = discrete(np.arange(-4, 12) * 0.25, np.diff(Uniform(1, 1).partial_moments(edges)[0]))
    found = sums(products, 10240, "e6m9", joint=False)
    assert found.absorbed == pytest.approx(1, abs=1e-9)
    assert found.law.values[np.argmax(found.law.probs)] == 4096
    assert found.law.mean == pytest.approx(4096, abs=1e-6)


def test_stochastic_sums_are_unbiased():
    """E[s] = E[S]; E[s S] = E[S^2], so the error is what E[s^2] exceeds E[S^2] by."""
    products = gaussian_products("e4m3fn", "e4m3fn")
    skewed = discrete(products.values + 0.125, products.probs)
    found = sums(skewed, 300, "e6m4", "stochastic", floor=2.0**-6)
    assert found.mean_retention == pytest.approx(1, abs=1e-6)  # 19 random bits, half to even
    exact = found.variance + found.mean**2
    assert found.mean_square_error == pytest.approx((found.retention - 1) * exact, rel=1e-4)


def test_laws_of_products():
    """Moments of quantized products; sparsity scales them."""
    products = gaussian_products("e5m2", "int8", scale_b=2.0**-5)
    assert products.probs.sum() == pytest.approx(1, abs=1e-12)
    assert products.variance == pytest.approx(1, abs=0.01)  # operand rounding adds below 1 %
    thin = sparse(products, 0.25)
    assert thin.variance == pytest.approx(products.variance / 4, rel=1e-9)
    assert sparse(Gaussian(mean=1.0), 0.5).variance == pytest.approx(0.75)
    with pytest.raises(ValueError, match="sum to 1"):
        discrete([0.0, 1.0], [0.5, 0.4])
    with pytest.raises(ValueError, match="non-zero ratio"):
        sparse(products, 0.0)


def test_bad_arguments():
    with pytest.raises(ValueError, match="chunk"):
        sums(Gaussian(), 4, "e5m2", chunk=5)
    with pytest.raises(ValueError, match="unknown rounding"):
        sums(discrete([0.0, 1.0], [0.5, 0.5]), 4, "e5m2", "up")
    with pytest.raises(ValueError, match="flushes"):
        sums(Gaussian(), 4, "e5m2ftz")


def test_error_of_a_sum_that_can_overflow():
    """Kills: theory/chain.py `mean_square_error` without its case for infinity (NaN)."""
    halves = discrete([-3.0, 3.0], [0.5, 0.5])
    found = sums(halves, 3, "e2m1")  # 9 is beyond the largest value, 3
    assert found.mean_square_error == found.retention == math.inf
