"""Rounded sums of products in exact integer arithmetic, from the definitions alone.

Every float32 is an integer times 2^-149, and so is every sum of them: a running sum is one
Python integer. Nothing is shared with the library but the format's own numbers.
"""

import functools
import math

import numpy as np

from qtrain.formats import Float

UNIT = 149  # numbers are held as multiples of 2^-149


def to_int(x: float) -> int:
    """A finite float32 in units of 2^-149."""
    return int(math.ldexp(x, UNIT))


def _ulp_shift(magnitude: int, fmt: Float) -> int:
    """log2 of the ulp of `fmt` at `magnitude`, in units."""
    return max(magnitude.bit_length() - 1 - UNIT, fmt.emin) - fmt.man + UNIT


def _keep(magnitude: int, shift: int, rounding: str, odd: int, word=0, bits: int = 0) -> int:
    """`magnitude` at a multiple of 2^shift; stochastic: P3109 variant C with a word of `bits`.

    A tie goes down unless the code of the lower neighbour is odd.
    """
    if shift <= 0:
        return magnitude
    kept, rest = magnitude >> shift, magnitude & ((1 << shift) - 1)
    if rounding == "nearest":
        twice = 2 * rest - (1 << shift)
        kept += twice > 0 or (twice == 0 and odd)
    elif rounding == "stochastic":
        magnitude, shift = magnitude << bits, shift + bits  # so that `bits` bits exist below
        fine = _keep(magnitude, shift - bits, "nearest", magnitude >> shift - bits & 1)
        kept, shift = fine + (word << (shift - bits)) >> shift, shift - bits
    return kept << shift


def finish(value: float, fmt: Float) -> float:
    """An infinity or NaN as the format has it."""
    if math.isnan(value):
        return value
    return math.copysign(
        {"inf": math.inf, "nan": math.nan, "saturate": fmt.max}[fmt.overflow], value
    )


def round_int(n: int, fmt: Float, rounding: str, word: int = 0, sign: float = 1.0) -> float:
    """n 2^-149 on the grid of `fmt`; `sign` is that of a zero."""
    magnitude = abs(n)
    sign = math.copysign(1.0, n) if n else sign
    if magnitude:
        shift = _ulp_shift(magnitude, fmt)
        odd = magnitude >> max(shift, 0) & 1
        if fmt.man == 0 and odd:  # 2^e alone: its code is its exponent field
            odd = magnitude.bit_length() - UNIT - fmt.emin & 1
        magnitude = _keep(magnitude, shift, rounding, odd, word, 23 - fmt.man)
    if magnitude > to_int(fmt.max):
        if rounding in ("toward_zero", "align"):
            return math.copysign(fmt.max, sign)
        return finish(math.copysign(math.inf, sign), fmt)
    value = math.ldexp(magnitude, -UNIT)
    if not fmt.subnormals and value < fmt.min_normal:
        value = 0.0
    return 0.0 if value == 0 and fmt.top == "fnuz" else math.copysign(value, sign)


def add(a: float, b: float, fmt: Float, rounding: str = "nearest", word: int = 0) -> float:
    """fmt(a + b), rounded once; float32 always to nearest."""
    rounding = "nearest" if fmt.man == 23 else rounding
    if not (math.isfinite(a) and math.isfinite(b)):
        return finish(a + b, fmt)
    if rounding == "align":
        ulp = max(_ulp_shift(to_int(max(abs(a), abs(b))), fmt), 0)
        a, b = (math.copysign(math.ldexp(to_int(abs(v)) >> ulp, ulp - UNIT), v) for v in (a, b))
    n = to_int(a) + to_int(b)
    return round_int(n, fmt, rounding, word, sign=1.0 if n else a + b)


def total(products, fmt: Float, chunk, rounding: str, intra: Float | None = None, word=None):
    """S over chunks of s inside chunks, each from -0, in order.

    word(level, step) gives the random bits of an addition: level 0 inside chunks, where a
    chunk's steps begin at its index times the chunk length rounded up to even, 1 between them.
    """
    intra, chunk = intra or fmt, chunk or max(len(products), 1)
    word = word or (lambda level, step: 0)
    outer = -0.0
    for index, start in enumerate(range(0, len(products), chunk)):
        inner = -0.0
        for step, p in enumerate(products[start : start + chunk], index * (chunk + chunk % 2)):
            inner = add(inner, p, intra, rounding, word(0, step))
        outer = add(outer, inner, fmt, rounding, word(1, index))
    return outer


def dot(
    a, b, fmt: Float, chunk=None, rounding="nearest", product=None, intra=None, words=None
) -> np.ndarray:
    """(M, K) x (K, N) float32, each product rounded to float32 (and to `product`) first.

    words(output, level, step) gives the random bits of one addition of one output.
    """
    with np.errstate(all="ignore"):
        p = np.asarray(a, np.float32)[:, None, :] * np.asarray(b, np.float32).T[None]
    out = np.empty(p.shape[:2], np.float32)
    for output, i in enumerate(np.ndindex(out.shape)):
        row = p[i].tolist()
        if product is not None:
            row = [add(-0.0, x, product) for x in row]
        word = None if words is None else functools.partial(words, output)
        out[i] = total(row, fmt, chunk, rounding, intra, word)
    return out
