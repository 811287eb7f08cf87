"""Certified worst-case bounds on |computed - exact| for sums that `qtrain.dot` computes.

A priori: from the number of terms and the sum of their magnitudes alone, in exact rational
arithmetic, rounded up. `running_bound` knows the terms and is tighter; `probabilistic` trades
certainty for sqrt(n). Every bound is proved here; theorem numbers of sources are recalled.

Notation: Sigma = sum |a_k b_k|, v = `unit`, c = `underflow`. E is the error so far, Sigma_k and E_k
those after k additions.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal, NamedTuple

from qtrain import formats
from qtrain.formats import Float
from theory.rounding_error import (
    Rounding,
    contains,
    effective,
    flushes,
    growth,
    round_up,
    sum_format,
    underflow,
    unit,
)

Products = Literal["rounded", "exact", "grid"]
Number = float | int | Fraction


def worst_case(
    abs_sum: Number,
    n: int,
    fmt: Float | str,
    chunk: int | None = None,
    rounding: Rounding = "nearest",
    product: Float | str | None = None,
    intra: Float | str | None = None,
    *,
    products: Products = "rounded",
    largest: Number | None = None,
) -> float:
    """Bounds |dot(a, b) - sum a_k b_k| for one output of `qtrain.dot` with this accumulator.

    To first order, for a chunk of b: (b + n / b - 1) v Sigma, v Sigma n without chunks
    [blanchard2020class, Sec. 3]; nearest, toward_zero and align need no higher orders:
    see `rounded_sums`. Infinite where the sum may leave the range of a format.

    Args:
      abs_sum: sum |a_k b_k| over the n products, exact or from above.
      n: number of products, zeros may be left out.
      fmt, chunk, rounding, product, intra: as in `qtrain.Accumulator`.
      products: what is known of a_k b_k. "rounded": nothing; float32 rounds them. "exact":
        float32 holds them (operands of 24 significand bits together, products of at least
        2^-126); also the bound of fused multiply-adds, which never round a product. "grid":
        the formats of products and of the sum inside a chunk hold them too.
      largest: max |a_k b_k|, or from above; default abs_sum. Only for the range of `product`.

    Operands are zero or normal float32 numbers: XLA on CPU reads others as zero.
    `align` with 8 exponent bits: sums stay above 2^(man - 126), where its ulp underflows.

    Raises:
      ValueError: unknown rounding or `products`, a format float32 cannot carry, n or chunk < 1.
    """
    at = setting(abs_sum, n, fmt, chunk, product, intra, products, largest)
    error, reach = rounded_sums(at.held, n, at.longest, at.inner, rounding, at.inner_grid)
    final, last = rounded_sums(reach, at.chunks, at.chunks, at.outer, rounding, at.outer_grid)
    inside = at.in_range and reach <= Fraction(at.inner.max) and last <= Fraction(at.outer.max)
    return round_up(at.lost + error + final) if inside else math.inf


def pairwise(
    abs_sum: Number, n: int, fmt: Float | str, rounding: Rounding = "nearest", *, grid: bool = True
) -> float:
    """Bounds the error of summing n values by a balanced binary tree of rounded additions.

    gamma-like, with h = ceil(log2 n) roundings on the way of each value: ((1 + v)^h - 1) Sigma
    [higham2002accuracy, eq. (4.6)]; h v Sigma where truncation keeps every node from growing;
    for nearest never more than (n - 1) v Sigma, true in any order [jeannerod2013improved,
    abstract].

    Args:
      abs_sum: sum of the magnitudes, exact or from above.
      grid: whether the values are in the format; if not, each is rounded once before.
    """
    fmt = sum_format(fmt)
    total = setting(abs_sum, n, fmt, products="grid").held
    if not math.isfinite(abs_sum):
        return math.inf
    rule, v = effective(fmt, rounding), unit(fmt, effective(fmt, rounding))
    c, height = underflow(fmt, rule), (n - 1).bit_length()
    leaves = Fraction(0) if grid else v * total + n * c
    total += leaves
    spread = growth(v, height)
    if rule in ("toward_zero", "align") and not flushes(fmt):
        error = height * v * total
    else:
        # each of the n - 1 additions errs by c more, which grows like the values
        error = spread * total + (1 + spread) * (n - 1) * c * flushes(fmt)
    if rule == "nearest" and not flushes(fmt):
        error = min(error, (n - 1) * v * total)
    return round_up(leaves + error) if total + error <= Fraction(fmt.max) else math.inf


def rounded_sums(
    total: Fraction, n: int, longest: int, fmt: Float, rounding: Rounding, on_grid: bool
) -> tuple[Fraction, Fraction]:
    """Error of sequential sums of n terms in all, at most `longest` each, and what bounds all sums.

    `total` is the sum of all magnitudes. One sum starts at zero and makes k roundings, its
    length, or one less if the terms are on the grid. No bound has terms of higher order in v:

    nearest  k v Sigma + n c. Induction as in [jeannerod2013improved, Prop. 3.1], which needs s
      but not p on the grid: an addition then errs by at most |p|, and by at most v |s + p| or
      c. If |p_k| <= v Sigma_(k-1) + c, the first of these is enough. If not,
      v |s + p_k| <= v Sigma_k + v E_(k-1), and v E_(k-1) <= (k - 1) v (v Sigma_(k-1) + c)
      < (k - 1) v |p_k|, which is what (k - 1) v Sigma gains from p_k.
    toward_zero  k v Sigma + n c: |s| <= Sigma_k always, so that an addition errs by at most
      v Sigma_k or c.
    align  the same, by v (|s| + |p|) <= v Sigma_k. A p that is larger than s and not on the grid
      costs v |p| more, in all v Sigma; its first addition has nothing else to lose, so that
      again k v Sigma holds.
    stochastic  ((1 + v)^k - 1) (Sigma + c / v): |s| may grow, and
      E_k <= (1 + v) E_(k-1) + v Sigma + c.

    E <= Sigma, but for stochastic. To nearest an addition errs by at most |p|. A part that is
    truncated moves s toward zero: if then s lies short of the exact sum, or past zero from it, E
    is at most that sum <= Sigma; if it lies beyond, E has shrunk. `align` truncates p alone,
    by at most |p|, or s, and the sum, as above.

    c counts only where needed: sums of values on a grid with subnormals do not underflow. Where
    numbers are flushed, an addition errs by c beyond each of the above. Then the nearest
    induction holds with (1 + k v) c, and sums truncated to zero can pass Sigma by n c.
    """
    rule = effective(fmt, rounding)
    v, c, k = unit(fmt, rule), underflow(fmt, rule), longest - on_grid
    flushed = flushes(fmt)
    if on_grid and not flushed:
        c = Fraction(0)
    if rule == "stochastic":
        sums = -(-n // longest)
        error = growth(v, k) * total + growth(v, longest) * sums * c / v
        return error, total + error
    error = k * v * total + n * c * (1 + k * v * flushed)
    error = min(error, total + n * c * flushed)
    truncated = rule != "nearest" and not flushed
    return error, total if truncated else total + error


def formed(total: Fraction, n: int, held: Float | None, products: Products) -> Fraction:
    """What n products of magnitudes `total` lose before they are added: in float32, in `held`.

    Both to nearest: v |p| + c each. float32 flushes what is below 2^-126, twice: when it
    forms the product and when the next operation reads it.
    """
    lost = Fraction(0)
    if products == "grid":
        return lost
    if products == "rounded":
        lost = unit(formats.get_float("float32"), "nearest") * total + n * Fraction(1, 2**125)
    if held is not None:
        lost += unit(held, "nearest") * (total + lost) + n * underflow(held, "nearest")
    return lost


class Setting(NamedTuple):
    """A sum of products, resolved: what all the bounds start from."""

    held: Fraction  # sum of the magnitudes as they are added, from above
    lost: Fraction  # what forming the products loses
    in_range: bool  # whether every product stays in the range of its format
    inner: Float
    outer: Float
    longest: int  # terms of the longest chunk
    chunks: int
    inner_grid: bool  # whether the terms of the sums inside chunks are on their grid
    outer_grid: bool


def setting(
    abs_sum: Number, n: int, fmt, chunk=None, product=None, intra=None,
    products: Products = "rounded", largest: Number | None = None,
) -> Setting:  # fmt: skip
    """Resolves the arguments of `worst_case`.

    Raises:
      ValueError: as there.
    """
    if n < 1 or (chunk is not None and chunk < 1):
        raise ValueError(f"n and chunk must be at least 1, not {n} and {chunk}")
    if products not in ("rounded", "exact", "grid"):
        raise ValueError(f"products are rounded, exact or grid, not {products!r}")
    largest = abs_sum if largest is None else largest
    if not (abs_sum >= 0 and largest >= 0):
        raise ValueError(f"magnitudes are at least 0, not {abs_sum} and {largest}")
    finite = math.isfinite(abs_sum) and math.isfinite(largest)
    total, peak = (Fraction(abs_sum), Fraction(largest)) if finite else (Fraction(0), Fraction(0))
    outer, inner = sum_format(fmt), sum_format(fmt if intra is None else intra)
    held = formats.get_float("float32" if product is None else product)
    lost = formed(total, n, None if product is None else held, products)
    peak += formed(peak, 1, None if product is None else held, products)
    longest = min(chunk or n, n)
    return Setting(
        held=total + lost,
        lost=lost,
        in_range=finite and peak <= Fraction(held.max),
        inner=inner,
        outer=outer,
        longest=longest,
        chunks=-(-n // longest),
        inner_grid=products == "grid" or contains(inner, held),
        outer_grid=contains(outer, inner),
    )
