"""What one rounded addition can err by: the constants that every bound on a sum is made of.

All numbers are exact rationals; `round_up` is the only way out to floats. The roundings are
those of `qtrain.Accumulator`; s is the running sum, on the grid, p the addend, any number.
"""

from __future__ import annotations

import functools
import math
from fractions import Fraction
from typing import Literal, get_args

import mpmath
from mpmath.ctx_iv import MPIntervalContext

from qtrain import formats
from qtrain.formats import Float

Rounding = Literal["nearest", "stochastic", "toward_zero", "align"]
FLOAT32_UNIT = Fraction(1, 2**24)
_FLOAT32_NORMAL = Fraction(1, 2**126)
_BITS = 256  # below the binary point, in powers that are rounded up


def sum_format(fmt: Float | str) -> Float:
    """The format of a running sum, by name or as it is.

    Raises:
      ValueError: its normal range reaches below float32's, which carries the sums.
    """
    fmt = formats.get_float(fmt)
    if fmt.emin < -126:
        raise ValueError(f"{fmt.name} has normal numbers below 2^-126: float32 cannot carry them")
    return fmt


def effective(fmt: Float, rounding: str) -> Rounding:
    """The rounding in force: sums in float32 are always rounded to nearest.

    Raises:
      ValueError: unknown rounding.
    """
    if rounding not in get_args(Rounding):
        raise ValueError(f"unknown rounding {rounding!r}: one of {', '.join(get_args(Rounding))}")
    return "nearest" if fmt.man == 23 else rounding  # type: ignore[return-value]


def unit(fmt: Float, rounding: Rounding) -> Fraction:
    """Largest relative error of one addition in the normal range.

    With eps = 2^-man and u = eps / 2:
    nearest              u / (1 + u)      of |s + p| [jeannerod2013improved, Sec. 2]
    toward_zero          eps / (1 + eps)  of |s + p|: just below 1 + eps becomes 1
    align, p on the grid eps / (1 + eps)  of |s| + |p|, which cancellation does not shrink
    stochastic           eps              of |s + p|: just above 1 becomes 1 + eps

    align, from its definition, with l(x) < ulp what x loses, ulp that of the larger addend and
    2^e its binade. If |s| >= |p|, s loses nothing. Same signs: p loses l; a carry loses one ulp
    more, but then |s + p| >= 2^(e+1) + ulp + l. So the error is at most
    l / (2^e + l) or (l + ulp) / (2^(e+1) + ulp + l) of |s| + |p|, both below eps / (1 + eps).
    Opposite signs: l of |s| + |p| >= 2^e + l, no carry. If |p| > |s| and p is on the grid, the
    same with s and p exchanged. If p is not, it first loses l(p) <= eps / (1 + eps) |p| and then
    counts as a p on the grid: `bounds.worst_case` adds that term.
    """
    eps = Fraction(1, 2**fmt.man)
    if rounding == "stochastic":
        return eps
    step = eps / 2 if rounding == "nearest" else eps
    return step / (1 + step)


def flushes(fmt: Float) -> bool:
    """Whether small numbers are lost: no subnormals, or some that float32 flushes (XLA on CPU)."""
    return not fmt.subnormals or _carrier_flushes(fmt)


def _carrier_flushes(fmt: Float) -> bool:
    return fmt.man == 23 or fmt.emin - fmt.man < -126


def underflow(fmt: Float, rounding: Rounding) -> Fraction:
    """Largest absolute error of one addition beyond `unit`.

    Below the normal range the spacing is q = 2^(emin - man), the error q / 2 to nearest, else
    q; between multiples of q it is zero. A format without subnormals loses up to 2^emin.

    Where float32 subnormals occur (8 exponent bits, all float32 sums), XLA on CPU reads and
    writes them as zero: two addends, their sum, its residual and the result each move by less
    than 2^-126, the first four of them before a rounding of relative error below 1:
    2 (2 + 1) + 2 = 8 of them. `align` there loses all addends below 2^(man - 126), since its ulp
    is subnormal: two more of these.
    """
    quantum = _power(fmt.emin - fmt.man)
    lost = quantum / 2 if rounding == "nearest" else quantum
    if not fmt.subnormals:
        lost = _power(fmt.emin)
    if _carrier_flushes(fmt):
        lost += 8 * _FLOAT32_NORMAL
        if rounding == "align":
            lost += 2 * _power(fmt.man - 126)
    return lost


def contains(outer: Float, inner: Float) -> bool:
    """Whether `outer` holds every value of `inner` that does not exceed its largest one."""
    return inner.man <= outer.man and inner.min_subnormal >= outer.min_subnormal


def ulp(x: Fraction, fmt: Float) -> Fraction:
    """Spacing of `fmt` at |x|, which subnormals share with the smallest normal number."""
    return _power(max(exponent(x), fmt.emin) - fmt.man)


def exponent(x: Fraction) -> int:
    """floor(log2 |x|); far below every format for zero."""
    if not x:
        return -(10**6)
    top, bottom = abs(x.numerator), x.denominator
    e = top.bit_length() - bottom.bit_length()
    return e if top * 2 ** max(-e, 0) >= bottom * 2 ** max(e, 0) else e - 1


def _power(e: int) -> Fraction:
    return Fraction(2**e) if e >= 0 else Fraction(1, 2**-e)


def growth(v: Fraction, k: int) -> Fraction:
    """(1 + v)^k - 1 or slightly more; at least 2^1100 once it is beyond floats."""
    power, base, limit = Fraction(1), 1 + v, 2**1100
    while k and power < limit:
        if base > limit:
            return base
        if k & 1:
            power = _ceil(power * base)
        base, k = _ceil(base * base), k >> 1
    return power - 1


def root(x: Fraction) -> Fraction:
    """The square root of x >= 0, rounded up."""
    scaled = -(-x.numerator * 4**_BITS // x.denominator)
    return Fraction(math.isqrt(scaled) + 1, 2**_BITS) if scaled else Fraction(0)


def exp(x: Fraction) -> tuple[Fraction, Fraction]:
    """Bounds of e^x for x >= 0 from below and above; both 2^1100 or more beyond floats."""
    if x > 800:
        return Fraction(2**1100), Fraction(2**1200)
    context = _intervals()
    low, high = x.numerator * 2**_BITS // x.denominator, -(-x.numerator * 2**_BITS // x.denominator)
    value = context.exp(context.mpf([low, high]) / context.mpf(2**_BITS))
    return _fraction(value.a), _fraction(value.b)


@functools.cache
def _intervals() -> MPIntervalContext:
    context = MPIntervalContext()
    context.prec = 6 * _BITS  # the 256 bits below the point, and 1200 above
    return context


def _fraction(endpoint) -> Fraction:
    with mpmath.workprec(6 * _BITS):
        man, e = mpmath.mpf(endpoint).man_exp
    return Fraction(int(man)) * _power(e)


def _ceil(x: Fraction) -> Fraction:
    return Fraction(-(-x.numerator * 2**_BITS // x.denominator), 2**_BITS)


def round_up(x: Fraction) -> float:
    """The smallest float64 that is at least x >= 0; infinity beyond the largest."""
    try:
        near = x.numerator / x.denominator  # correctly rounded
    except OverflowError:
        return math.inf
    return near if Fraction(near) >= x else math.nextafter(near, math.inf)
