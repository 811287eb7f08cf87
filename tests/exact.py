"""`cast` of one number in rational arithmetic, from the definitions alone: slow and plain."""

import dataclasses
import functools
import math
from bisect import bisect_right
from fractions import Fraction

from qtrain.formats import Codebook, Float, Format


@functools.cache
def _magnitudes(fmt: Float) -> list[Fraction]:
    """The value of each magnitude code, and one more, as if the exponent had no limit."""
    codes = range(fmt.num_codes // 2)
    finite = [Fraction(v) for v in map(fmt.decode, codes) if math.isfinite(v)]
    return [*finite, finite[-1] + Fraction(2) ** (fmt.emax - fmt.man)]


def goes_up(delta: Fraction, odd: bool, away: bool, rounding: str, r: int, nbits: int, variant):
    """Whether lower + delta, 0 < delta < 1, goes to the neighbour farther from zero.

    odd: the lower neighbour has an odd code; away: how nearest_away breaks a tie.
    """
    if rounding == "nearest":
        return delta > Fraction(1, 2) or (delta == Fraction(1, 2) and odd)
    if rounding == "nearest_away":
        return delta > Fraction(1, 2) or (delta == Fraction(1, 2) and away)
    if rounding == "toward_zero":
        return False
    if rounding == "to_odd":
        return not odd
    scaled = delta * 2**nbits
    whole = {
        "A": math.floor(scaled),
        "B": math.floor(scaled + Fraction(1, 2)),
        "C": round(scaled),  # a Fraction rounds half to even
    }[variant]
    return whole + r >= 2**nbits


def round_exactly(x: float, fmt: Format, rounding: str, r: int = 0, nbits: int = 0, variant="C"):
    """The value of `fmt` that `x` becomes; stochastic rounding takes the word r of nbits bits."""
    if math.isnan(x):
        return x
    if isinstance(fmt, Float):
        return _round_float(x, fmt, rounding, r, nbits, variant)
    if isinstance(fmt, Codebook):
        return _round_codebook(x, fmt, rounding, r, nbits, variant)
    if math.isinf(x):
        return fmt.max if x > 0 else fmt.min
    whole, rest = divmod(abs(Fraction(x)) / Fraction(fmt.step), 1)
    whole += bool(rest) and goes_up(rest, whole % 2 == 1, True, rounding, r, nbits, variant)
    value = math.copysign(float(whole * Fraction(fmt.step)), x)
    return min(max(value, fmt.min), fmt.max) + 0.0


def _round_float(x: float, fmt: Float, rounding: str, r: int, nbits: int, variant: str):
    grid = _magnitudes(dataclasses.replace(fmt, subnormals=True, saturate=False))
    overflow = {"inf": math.inf, "nan": math.nan, "saturate": fmt.max}[fmt.overflow]
    if math.isinf(x) or abs(x) >= grid[-1]:
        kept = math.isfinite(x) and rounding in ("toward_zero", "to_odd")
        value = fmt.max if kept else overflow
    else:
        code = bisect_right(grid, abs(Fraction(x))) - 1
        delta = (abs(Fraction(x)) - grid[code]) / (grid[code + 1] - grid[code])
        code += bool(delta) and goes_up(delta, code % 2 == 1, True, rounding, r, nbits, variant)
        beyond = code == len(grid) - 1
        value = overflow if beyond else float(grid[code])
        if beyond and rounding == "to_odd":
            value = fmt.max
    if not fmt.subnormals and value < fmt.min_normal:
        value = 0.0
    return 0.0 if fmt.top == "fnuz" and value == 0 else math.copysign(value, x)


def _round_codebook(x: float, fmt: Codebook, rounding: str, r: int, nbits: int, variant) -> float:
    levels = fmt.levels
    if x <= levels[0] or x >= levels[-1]:
        return levels[0] if x <= levels[0] else levels[-1]
    low = bisect_right(levels, x) - 1
    below, above = map(Fraction, levels[low : low + 2])
    delta = (Fraction(x) - below) / (above - below)
    if rounding == "toward_zero":
        return levels[low + (delta > 0 and abs(above) < abs(below))]
    away = abs(above) > abs(below)
    up = goes_up(delta, low % 2 == 1, away, rounding, r, nbits, variant)
    return levels[low + (delta > 0 and up)]
