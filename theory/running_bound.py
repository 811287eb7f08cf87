"""A certified bound from the terms themselves: it sees cancellation, exact additions, and order.

Running error analysis [higham2002accuracy, Sec. 3.3] without running the sum: the exact partial
sums X_k are known, the computed ones lie within the bound so far of them, and so the next error
is below an ulp that is known too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction

import numpy as np

from qtrain import formats
from qtrain.formats import Float
from theory.rounding_error import (
    Rounding,
    contains,
    effective,
    flushes,
    round_up,
    sum_format,
    ulp,
    underflow,
)

Term = tuple[Fraction, Fraction, Fraction]  # exact value, error bound, a power of two dividing it


def running_bound(
    products: Iterable[float],
    fmt: Float | str,
    chunk: int | None = None,
    rounding: Rounding = "nearest",
    product: Float | str | None = None,
    intra: Float | str | None = None,
) -> float:
    """Bounds |dot(a, b) - sum a_k b_k| for one output of `qtrain.dot`, given all a_k b_k.

    Infinite where a sum may leave the range of its format. Costs a few rational operations
    per term.

    Args:
      products: (n,) the exact a_k b_k in order; float64 holds those of float32 numbers.
      fmt, chunk, rounding, product, intra: as in `qtrain.Accumulator`. Operands and `align` as
        in `bounds.worst_case`.

    Raises:
      ValueError: unknown rounding, a format float32 cannot carry, or chunk < 1.
    """
    outer, inner = sum_format(fmt), sum_format(fmt if intra is None else intra)
    held = None if product is None else formats.get_float(product)
    values = [float(p) for p in products]
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1, not {chunk}")
    if not all(map(math.isfinite, values)):
        return math.inf
    terms = [_formed(p, held) for p in values]
    if None in terms:
        return math.inf
    longest = min(chunk or len(terms), len(terms)) or 1
    on_grid = contains(inner, held or formats.get_float("float32"))
    chunks = [terms[i : i + longest] for i in range(0, len(terms), longest)]
    sums = [_sum(chunk, inner, rounding, on_grid) for chunk in chunks]
    total = None if None in sums else _sum(sums, outer, rounding, contains(outer, inner))
    return math.inf if total is None else round_up(total[1])


def _formed(p: float, held: Float | None) -> Term | None:
    """One product as it is added: rounded to float32, and to `held` if given.

    Rounding to a coarser grid keeps every power of two that divides a number.
    """
    x = Fraction(p)
    with np.errstate(all="ignore"):
        rounded = float(np.float32(p))
    if math.isinf(rounded):
        return None
    divisor = _divisor(Fraction(rounded))
    error = abs(Fraction(rounded) - x)
    if x and abs(p) < 2.0**-126:  # may be flushed, when it is formed or when it is added
        error += Fraction(1, 2**125)
    if held is None:
        return x, error, divisor
    reach = abs(x) + error
    if flushes(held):
        error += max(ulp(reach, held) / 2, underflow(held, "nearest"))
    elif divisor < ulp(reach, held):
        error += ulp(reach, held) / 2
    divisor = max(divisor, ulp(Fraction(0), held))
    return (x, error, divisor) if abs(x) + error <= Fraction(held.max) else None


def _divisor(x: Fraction | int) -> Fraction:
    """The largest power of two that divides x; a large one for zero."""
    top = x.numerator
    return Fraction(top & -top, x.denominator) if top else Fraction(2**1000)


def _sum(terms: list, fmt: Float, rounding: Rounding, on_grid: bool) -> Term | None:
    """One sequential sum, of values on the grid or any; None where it may leave the range."""
    rule, exact, error, divisor = effective(fmt, rounding), Fraction(0), Fraction(0), _divisor(0)
    for x, off, own in terms:
        s, p, divisor = (exact, error), (x, off), min(divisor, own)
        error += off + _addition(s, p, divisor, fmt, rule, on_grid)
        exact += x
        if abs(exact) + error > Fraction(fmt.max):
            return None
    return exact, error, divisor


def _addition(s, p, divisor: Fraction, fmt: Float, rule: Rounding, on_grid: bool) -> Fraction:
    """Bounds the error of one addition of two (exact, error) numbers that `divisor` divides.

    Without `align`: half an ulp or one at |s + p|, and to nearest at most |p|, since s is on the
    grid. `align` loses less than an ulp at |s| + |p|, see `rounding_error.unit`, after what p
    loses below its own ulp where it is the larger one. A sum of numbers that the ulp divides
    is exact, and so is 0 + p on the grid.
    """
    extra = underflow(fmt, rule) if flushes(fmt) else Fraction(0)
    most = abs(p[0]) + p[1]
    reach = abs(s[0]) + s[1] + most if rule == "align" else abs(s[0] + p[0]) + s[1] + p[1]
    spacing = ulp(reach, fmt)
    if divisor >= spacing or not most or (on_grid and s == (0, 0)):
        return extra
    if rule == "nearest":
        return min(spacing / 2, most) + extra
    larger = rule == "align" and most > abs(s[0]) - s[1] and divisor < ulp(most, fmt)
    if larger and not on_grid and spacing > ulp(Fraction(0), fmt):
        spacing += ulp(most, fmt)  # not among subnormals: there, one of p and the sum is exact
    return spacing + extra
