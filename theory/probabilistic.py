"""Bounds that hold with a stated probability and grow as sqrt(n).

`stochastic` is certified for the library's stochastic rounding, with no model but ideal random
bits. `independent_errors` is the published bound on a model of rounding errors. Both are proved
here; theorem numbers of sources are recalled.
"""

from __future__ import annotations

import math
from fractions import Fraction

from qtrain import formats
from qtrain.formats import Float
from theory.bounds import Number, Products, rounded_sums, setting, worst_case
from theory.rounding_error import (
    FLOAT32_UNIT,
    Rounding,
    effective,
    exp,
    flushes,
    root,
    round_up,
    underflow,
    unit,
)


def stochastic(
    abs_sum: Number,
    n: int,
    fmt: Float | str,
    chunk: int | None = None,
    product: Float | str | None = None,
    intra: Float | str | None = None,
    *,
    lam: float = 4.0,
    products: Products = "rounded",
    largest: Number | None = None,
) -> tuple[float, float]:
    """(bound, probability) of |dot(a, b) - sum a_k b_k| under stochastic rounding.

    To first order lam u (sqrt(b) + sqrt(n / b)) Sigma, u = 2^-(man + 1), with probability
    1 - 2 (chunks + 1) exp(-lam^2 / 2); without chunks lam u sqrt(n) Sigma with
    1 - 2 exp(-lam^2 / 2).
    Arguments as in `bounds.worst_case`, which is returned where it is smaller (then with
    probability 1).

    The errors e_k of one sum are martingale differences, as in [connolly2021stochastic, Sec. 4].
    Given the past, e_k takes two values one ulp apart, at most eps (Sigma + |E| + 2^emin). Stop
    when |E| first reaches T: until then the range is r = eps (Sigma + T + 2^emin), and
    Azuma-Hoeffding in its maximal form [hoeffding1963probability, eq. (2.17)] gives
    P(max |M_k| >= lam r sqrt(k) / 2) <= 2 exp(-lam^2 / 2) for all partial sums at once. Ranges,
    where [connolly2021stochastic, Thm. 4.6] has |e_k| <= eps |x|, are worth the factor of two;
    stopping saves the union over n terms.

    The random bits end at float32's: a sum moves to the nearest multiple of their last one
    first, by at most 2^-24 (Sigma + T + 2^emin). That is a drift, D = k times as much, and no
    martingale. T solves T = lam r sqrt(k) / 2 + D + k c, with c what is flushed. The chunk
    sums, each within its T, are the terms of another such sum.
    """
    certain = worst_case(
        abs_sum, n, fmt, chunk, "stochastic", product, intra, products=products, largest=largest
    )
    at = setting(abs_sum, n, fmt, chunk, product, intra, products, largest)
    error, reach, draws = _level(at.held, n, at.longest, at.inner, at.inner_grid, lam)
    final, last, more = _level(reach, at.chunks, at.chunks, at.outer, at.outer_grid, lam)
    inside = at.in_range and reach <= Fraction(at.inner.max) and last <= Fraction(at.outer.max)
    bound = round_up(at.lost + error + final)
    if not inside or draws + more == 0 or bound >= certain:
        return certain, 1.0
    return bound, _probability(2 * (draws + more), lam)


def _level(total, n, longest, fmt: Float, on_grid: bool, lam) -> tuple[Fraction, Fraction, int]:
    """Sum of T over all sums of one level, what bounds all sums, how many draw random bits."""
    k = longest - on_grid
    if fmt.man == 23 or k == 0:  # no random bits; what is flushed is lost for certain
        return *rounded_sums(total, n, longest, fmt, "nearest", on_grid), 0
    sums = -(-n // longest)
    c = underflow(fmt, "stochastic") if flushes(fmt) else Fraction(0)
    share = Fraction(lam) * unit(fmt, "stochastic") / 2 * root(Fraction(k)) + k * FLOAT32_UNIT
    if share >= 1:
        return Fraction(2**1100), Fraction(2**1100), sums
    error = (share * (total + sums * Fraction(fmt.min_normal)) + n * c) / (1 - share)
    return error, total + error, sums


def independent_errors(
    abs_sum: Number,
    n: int,
    fmt: Float | str,
    chunk: int | None = None,
    rounding: Rounding = "nearest",
    product: Float | str | None = None,
    intra: Float | str | None = None,
    *,
    lam: float = 4.0,
    products: Products = "rounded",
) -> tuple[float, float]:
    """(bound, probability) if relative errors have mean zero whatever the earlier ones were.

    A product passes through m roundings, m = b + ceil(n / b) - 1 if chunked, and its own:
    |E| <= (exp((lam sqrt(m) u + m u^2) / (1 - u)) - 1) Sigma with probability
    1 - 2 n exp(-lam^2 / 2): [higham2019probabilistic, Thm. 3.1] with lam (1 - u) for lam,
    [connolly2021stochastic, Sec. 4], chunked [blanchard2020class, Sec. 3]. With
    different formats m u^2 is the sum of the squares. Proof: ln(1 + delta) has mean within
    u^2 / (1 - u) of zero and a range of at most 2 u / (1 - u); Azuma-Hoeffding for each of n
    products of 1 + delta.

    The model is an assumption. It is false where a sum stagnates (nearest, terms below half an
    ulp: all errors have one sign), and it knows no underflow. Truncation has errors of one sign.

    Raises:
      ValueError: rounding is not nearest or stochastic; and as `bounds.worst_case`.
    """
    if rounding not in ("nearest", "stochastic"):
        raise ValueError(f"errors of {rounding} rounding have no mean of zero: see worst_case")
    at = setting(abs_sum, n, fmt, chunk, product, intra, products)
    single, float32 = None if product is None else formats.get_float(product), "float32"
    steps = [(at.inner, rounding, at.longest - at.inner_grid)]
    steps += [(at.outer, rounding, at.chunks - at.outer_grid)]
    steps += [(formats.get_float(float32), "nearest", int(products == "rounded"))]
    steps += [(single, "nearest", 1)] if single is not None and products != "grid" else []
    units = [(unit(f, effective(f, rule)), count) for f, rule, count in steps if count]
    square = sum((count * u**2 for u, count in units), Fraction(0))
    most = max((u for u, _ in units), default=Fraction(0))
    if most == 1 or not at.in_range:
        return math.inf, 1.0
    total = Fraction(abs_sum)
    bound = total * (exp((Fraction(lam) * root(square) + square) / (1 - most))[1] - 1)
    if total + bound > Fraction(min(at.inner.max, at.outer.max)):
        return math.inf, 1.0
    return round_up(bound), _probability(2 * n, lam)


def _probability(count: int, lam: float) -> float:
    """1 - count exp(-lam^2 / 2), rounded down; not below zero."""
    failure = round_up(count / exp(Fraction(lam) ** 2 / 2)[0])
    return max(0.0, math.nextafter(1 - failure, 0.0))
