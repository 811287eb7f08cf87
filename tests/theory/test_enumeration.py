"""`chain.sums` against every path of short sums, in rational arithmetic.

A second, plain reading of `qtrain.ops.Accumulator`'s docstring: values are Fractions (or +-inf,
or NAN), a grid is computed from exponents, and no distribution is ever convolved or multiplied as a
matrix. Only floating-point rounding separates the two, so they must agree to 1e-12.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from fractions import Fraction

import hypothesis as hp
import hypothesis.strategies as st
import numpy as np
import pytest

from qtrain import formats
from theory import chain, products

ROUNDINGS = ("nearest", "stochastic", "toward_zero", "align")
TOLERANCE = 1e-12
INF = math.inf
NAN = "nan"  # equal to itself, unlike math.nan


def ulp(x: Fraction, fmt) -> Fraction:
    """The spacing of `fmt` in the binade of |x|, subnormals sharing that of 2^emin."""
    exponent = fmt.emin
    while abs(x) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    return Fraction(2) ** (exponent - fmt.man)


def half_even(x: Fraction) -> int:
    """The nearest integer, ties to even."""
    return round(x)


@functools.cache
def outcomes(s, p, name: str, rounding: str) -> tuple:
    """((value, probability), ...) of the rounded sum s + p."""
    fmt = formats.get(name)
    special = [v for v in (s, p) if v in (INF, -INF, NAN)]
    if special:
        return ((special[0] if len(set(special)) == 1 else NAN, Fraction(1)),)
    if rounding == "align":
        unit = ulp(max(abs(s), abs(p)), fmt)
        s, p = (math.trunc(v / unit) * unit for v in (s, p))
    exact = Fraction(s) + Fraction(p)
    sign, size = (-1 if exact < 0 else 1), abs(exact)
    unit = ulp(size, fmt)
    down = math.floor(size / unit)
    delta = size / unit - down
    if rounding in ("toward_zero", "align"):
        up = Fraction(0)
    elif rounding == "nearest":
        up = Fraction(half_even(size / unit) - down)
    else:  # variant C: N random bits against delta, rounded to N bits
        steps = 2 ** (23 - fmt.man)
        up = Fraction(half_even(delta * steps), steps)
    found = []
    for steps, prob in ((down, 1 - up), (down + 1, up)):
        if prob:
            found.append((sign * in_range(steps * unit, fmt, rounding), prob))
    return tuple(found)


def in_range(size: Fraction, fmt, rounding: str):
    """What a magnitude on the unbounded grid becomes: truncation never makes an infinity."""
    top = Fraction(fmt.max)
    if size <= top:
        return size
    return top if rounding in ("toward_zero", "align") or fmt.overflow == "saturate" else INF


def paths(atoms, n: int, name: str, rounding: str):
    """Yields (s, S, probability) at the end of every path of n additions from 0."""

    def walk(left, s, exact, prob):
        if left == 0:
            yield s, exact, prob
            return
        for p, weight, true in atoms:
            for value, chance in outcomes(s, p, name, rounding):
                yield from walk(left - 1, value, exact + true, prob * weight * chance)

    return walk(n, Fraction(0), Fraction(0), Fraction(1))


def endings(atoms, n: int, fmt: str, rounding: str, chunk: int | None, intra: str | None):
    """All (s, S, probability) of a sum, by chunks if so: a chunk's endings are the addends."""
    if chunk is None and intra is None:
        return list(paths(atoms, n, fmt, rounding))
    chunk = chunk or n
    found = [(Fraction(0), Fraction(0), Fraction(1))]
    for length in [chunk] * (n // chunk) + ([n % chunk] if n % chunk else []):
        part = list(paths(atoms, length, intra or fmt, rounding))
        found = [
            (value, S + T, prob * weight * chance)
            for s, S, prob in found
            for t, T, weight in part
            for value, chance in outcomes(s, t, fmt, rounding)
        ]
    return found


def stays(s, addends, fmt: str, rounding: str) -> Fraction:
    """P(one more addend, from [(value, probability), ...], leaves s as it is)."""
    return sum(
        (
            weight * chance
            for p, weight in addends
            for value, chance in outcomes(s, p, fmt, rounding)
            if value == s
        ),
        Fraction(0),
    )


def law(atoms) -> products.Discrete:
    return products.discrete([float(p) for p, _, _ in atoms], [float(w) for _, w, _ in atoms])


def to_atoms(values, weights):
    """(value, probability, exact value) with probabilities weight / sum of weights."""
    total = sum(weights)
    return tuple(
        (Fraction(v), Fraction(w, total), Fraction(v)) for v, w in zip(values, weights, strict=True)
    )


def close(found: float, expected, scale: float = 1.0) -> None:
    assert found == pytest.approx(float(expected), rel=TOLERANCE, abs=TOLERANCE * scale)


def by_value(values, amounts) -> dict:
    """Amounts added up by value; the same keys for floats and for Fractions."""
    found = defaultdict(Fraction)
    for value, amount in zip(values, amounts, strict=True):
        found[NAN if value == NAN or value != value else float(value)] += Fraction(amount)
    return found


def check(atoms, n, fmt, rounding, chunk=None, intra=None) -> None:
    """Law of s, E[S; s], retention, error, stall: all equal to those of the enumeration."""
    sums, exacts, weights = zip(*endings(atoms, n, fmt, rounding, chunk, intra), strict=True)
    assert sum(weights) == 1
    found = chain.sums(law(atoms), n, fmt, rounding, chunk=chunk, intra=intra)
    mean, square = sum(w * p for p, w, _ in atoms), sum(w * p * p for p, w, _ in atoms)
    exact_square = n * (square - mean**2) + (n * mean) ** 2
    close(found.mean, n * mean)
    close(found.variance, n * (square - mean**2))
    probs = by_value(sums, weights)
    listed = by_value(found.law.values.tolist(), found.law.probs.tolist())
    first = by_value(sums, (w * S for w, S in zip(weights, exacts, strict=True)))
    listed_first = by_value(found.law.values.tolist(), found.law.exact_first.tolist())
    for value in set(listed) | set(probs):  # `listed` may hold values that no path reaches
        close(listed[value], probs[value])
        close(listed_first[value], first[value], max(1.0, float(n * abs(mean))))
    if any(s in (INF, -INF, NAN) for s in sums):
        assert not math.isfinite(found.retention)
        assert not math.isfinite(found.mean_square_error)
    else:
        triples = list(zip(sums, exacts, weights, strict=True))
        close(found.retention, sum(w * s * s for s, _, w in triples) / exact_square)
        error = sum(w * (s - S) ** 2 for s, S, w in triples)
        close(found.mean_square_error, error, float(exact_square))
    check_stall(found, atoms, n, sums, weights, fmt, rounding, chunk, intra)


def check_stall(found, atoms, n, sums, weights, fmt, rounding, chunk, intra) -> None:
    """Without chunks the next addend is a product, else the sum of a chunk like the last one."""
    addends = [(p, w) for p, w, _ in atoms]
    if chunk is not None or intra is not None:
        last = n % (chunk or n) or chunk or n
        addends = list(by_ending(paths(atoms, last, intra or fmt, rounding)).items())
    stalls = {s: stays(s, addends, fmt, rounding) for s in set(sums)}
    pairs = list(zip(sums, weights, strict=True))
    close(found.stall, sum(w * stalls[s] for s, w in pairs))
    close(found.absorbed, sum(w for s, w in pairs if stalls[s] == 1))


def by_ending(ends) -> dict:
    """{s: probability} of (s, S, probability) triples."""
    found = defaultdict(Fraction)
    for s, _, prob in ends:
        found[s] += prob
    return found


# (values, weights): ties at every scale; below the subnormal quantum of all three formats;
# sums that overflow e3; a mean; sparse; more bits than the formats have
LAWS = {
    "ties": ((-1, 0.25, 1), (1, 2, 1)),
    "odd ties": ((-0.375, 0.125, 0.75, 5), (3, 1, 2, 2)),
    "tiny": ((-(2.0**-9), 2.0**-8, 3 * 2.0**-7), (2, 1, 1)),
    "large": ((-3, 1, 6), (1, 2, 1)),
    "very large": ((-1, 13), (1, 3)),
    "both infinities": ((-13, 1, 13), (1, 1, 1)),
    "one sign": ((0.5, 1.125), (1, 3)),
    "sparse": ((-0.625, 0, 1.5), (1, 5, 2)),
    "long": ((-0.6719970703125, 0.298095703125, 1.0009765625), (1, 2, 4)),
    "beyond 24 bits": ((-1.0 - 2.0**-23, 2.0**-25, 0.5 + 2.0**-24), (1, 2, 4)),
}


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("fmt", ["e3m1", "e3m2", "e4m2"])
@pytest.mark.parametrize("name", LAWS)
def test_every_path(name, fmt, rounding):
    atoms = to_atoms(*LAWS[name])
    longest = 4 if rounding == "stochastic" or len(atoms) > 3 else 6
    for n in (2, 3, longest):
        check(atoms, n, fmt, rounding)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize(
    ("fmt", "intra", "n", "chunk"),
    [
        ("e3m1", None, 4, 2),
        ("e3m2", None, 5, 2),  # a short last chunk
        ("e4m2", "e3m1", 4, 2),
        ("e3m1", "e4m2", 5, 3),
        ("e3m2", "e4m2", 6, 4),
        ("e4m2", None, 3, 1),
        ("e4m2", None, 3, 3),
        ("e3m1", "e4m2", 3, None),  # one chunk, whose sum is rounded to e3m1
    ],
)
@pytest.mark.parametrize("name", ["ties", "tiny", "one sign", "large", "both infinities", "long"])
def test_every_path_of_chunks(name, fmt, intra, n, chunk, rounding):
    values, weights = LAWS[name]
    if rounding == "stochastic" and n > 4:  # paths grow as (2 values)^(n + chunks)
        values, weights = values[:2], weights[:2]
    check(to_atoms(values, weights), n, fmt, rounding, chunk, intra)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("fmt", ["e3m2sat", "e3m1finite", "e4m2b9", "e3m2ftz"])
def test_other_tops(fmt, rounding):
    for name in ("large", "ties", "tiny"):
        try:
            chain.sums(law(to_atoms(*LAWS[name])), 2, fmt, rounding)
        except ValueError:
            assert not formats.get(fmt).subnormals  # the only one that is not modelled
            continue
        check(to_atoms(*LAWS[name]), 4, fmt, rounding)


@hp.given(
    data=st.data(),
    fmt=st.sampled_from(["e3m1", "e3m2", "e4m2"]),
    rounding=st.sampled_from(ROUNDINGS),
)
def test_any_law(data, fmt, rounding):
    """Kills: ties away from zero; an ulp of the wrong binade at a power of two; truncation of
    the addend alone.
    """
    grid = st.integers(-48, 48)
    values = data.draw(st.lists(grid, min_size=2, max_size=3, unique=True))
    scale = Fraction(2) ** data.draw(st.sampled_from([-6, -4, -3, -2]))
    weights = data.draw(st.lists(st.integers(1, 9), min_size=len(values), max_size=len(values)))
    n = data.draw(st.integers(2, 4))
    chunk = data.draw(st.sampled_from([None, 2]))
    hp.assume(any(values))
    check(to_atoms([v * scale for v in values], weights), n, fmt, rounding, chunk)


def test_the_enumeration_itself():
    """Two additions by hand: 3 + 0.25 in e3m1 (ulp 1 at 2) and what is left of a tie."""
    half = Fraction(1, 2)
    three, quarter = Fraction(3), Fraction(1, 4)
    assert outcomes(three, quarter, "e3m1", "nearest") == ((3, 1),)
    assert outcomes(three, half, "e3m1", "nearest") == ((4, 1),)  # tie: 4 has the even code
    assert outcomes(Fraction(2), half, "e3m1", "nearest") == ((2, 1),)
    assert outcomes(three, quarter, "e3m1", "stochastic") == ((3, 1 - quarter), (4, quarter))
    assert outcomes(three, -quarter, "e3m1", "toward_zero") == ((2, 1),)
    assert outcomes(three, -quarter, "e3m1", "align") == ((3, 1),)  # the addend is gone
    assert outcomes(Fraction(12), three, "e3m1", "toward_zero") == ((12, 1),)
    assert outcomes(Fraction(12), three, "e3m1", "nearest") == ((INF, 1),)


def test_variant_c_rounds_to_its_random_bits():
    """An addend of a quarter of a random step is never seen; three quarters count as one."""
    step = Fraction(1, 2**22)  # N = 22 bits below the ulp 1/2 of e3m1 at 1
    for part, expected in ((Fraction(1, 4), 0), (Fraction(1, 2), 0), (Fraction(3, 4), 1)):
        up = dict(outcomes(Fraction(1), part * step / 2, "e3m1", "stochastic"))
        assert up.get(Fraction(3, 2), 0) == expected * step
    both = to_atoms((1, float(step * Fraction(3, 8))), (1, 1))
    check(both, 3, "e3m1", "stochastic")
    assert np.isfinite(chain.sums(law(both), 3, "e3m1", "stochastic").retention)
