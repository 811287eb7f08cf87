"""Lemma 3 and Propositions 1-3 derived with sympy; tests compare the pairs.

Each function returns (derived, printed): what follows from the definitions, and the formula as
[hou2019analysis, Sec. 3] or `gradient_quantization` states it. Where only an inequality is printed
the pair is what both sides come to, and the docstring says by which step one is below the other.
"""

from __future__ import annotations

import functools

import sympy as sp

Pair = tuple[sp.Expr, sp.Expr]

x, u, Delta, c, sigma = sp.symbols("x u Delta c sigma", positive=True)
d, R, y = sp.symbols("d R y", positive=True)
z = sp.Symbol("z", real=True)
PHI = sp.exp(-(z**2) / 2) / sp.sqrt(2 * sp.pi)
PRINTED_NORM_RATIO = (1 + sp.sqrt(2 * d - 1)) / 2  # recalled


def unbiased() -> Pair:
    """Mean of q where x = B + u lies in the cell [B, B + Delta]."""
    B, up = sp.symbols("B", nonnegative=True), u / Delta
    return sp.simplify(up * (B + Delta) + (1 - up) * B), B + u


def cell_variance() -> Pair:
    """Variance of q in the same cell: (x - B)(B + Delta - x)."""
    B, up = sp.symbols("B", nonnegative=True), u / Delta
    mean = unbiased()[0]
    return sp.factor(up * (B + Delta) ** 2 + (1 - up) * B**2 - mean**2), u * (Delta - u)


def lemma3_gap() -> Pair:
    """Delta x less the variance: a sum of terms that are not negative, so that Lemma 3 holds.

    Summed over i, with x_i = |g_i| / s and times s^2, Delta x_i is Delta ||g||_inf ||g||_1.
    """
    B = sp.symbols("B", nonnegative=True)
    return sp.expand(Delta * (B + u) - cell_variance()[0]), Delta * B + u**2


def norm_ratio() -> Pair:
    """Largest ||g||_inf ||g||_1 / ||g||^2, at one entry 1 and d - 1 entries y.

    Equal others are the worst: for their sum given, the sum of squares is least.
    """
    ratio = (1 + (d - 1) * y) / (1 + (d - 1) * y**2)
    best = 1 / (1 + sp.sqrt(d))
    stationary = sp.simplify(sp.diff(ratio, y).subs(y, best))
    assert stationary == 0, stationary
    return sp.simplify(ratio.subs(y, best)), (1 + sp.sqrt(d)) / 2


def norm_ratio_gap() -> Pair:
    """2 d - 1 less d, which is not negative: the printed constant is above the sharp one."""
    return sp.expand((2 * PRINTED_NORM_RATIO - 1) ** 2 - (2 * norm_ratio()[1] - 1) ** 2), d - 1


def proposition1() -> Pair:
    """||g||^2 + Lemma 3 over ||g||^2, with the printed norm ratio; `derived` has the sharp one."""
    return norm_ratio()[1] * Delta + 1, PRINTED_NORM_RATIO * Delta + 1


def sharp_enlargement() -> Pair:
    """Largest (h(1) + sum of d - 1 h(x_i)) / (1 + sum x_i^2), h the interpolated square.

    R is an upper bound if 1 - R + (d - 1) max_x (h(x) - R x^2) <= 0. In a cell that starts at B,
    h - R x^2 = u (Delta - u) - (R - 1)(B + u)^2 is largest for B = 0, in the first cell: there
    Delta x - R x^2 is at most Delta^2 / (4 R). The root of that quadratic in R is attained.
    """
    first = sp.expand(u * (Delta - u) - (R - 1) * u**2)
    top = sp.simplify(first.subs(u, sp.solve(sp.diff(first, u), u)[0]))
    roots = sp.solve(sp.Eq(1 - R + (d - 1) * top, 0), R)
    root = max(roots, key=lambda r: float(r.subs({d: 5, Delta: 1})))
    return root, (1 + sp.sqrt(1 + (d - 1) * Delta**2)) / 2


def gaussian_absolute() -> Pair:
    """E|g_i| / sigma for a Gaussian entry: E||g||_1 = d sigma sqrt(2/pi)."""
    return 2 * sp.integrate(z * PHI, (z, 0, sp.oo)), sp.sqrt(2 / sp.pi)


def proposition2() -> Pair:
    """Lemma 3 with s <= c sigma and E||Clip(g)||_1 <= E||g||_1, over d sigma^2, and 1."""
    lemma3 = Delta * (c * sigma) * (d * sigma * gaussian_absolute()[0])
    return lemma3 / (d * sigma**2) + 1, sp.sqrt(2 / sp.pi) * c * Delta + 1


def clipped_worst() -> tuple[list[sp.Expr], list[sp.Expr]]:
    """Least R + (c Delta)^2 / (4 R) over R >= 1: at R = 1, and at R = c Delta / 2 if above.

    h(x) <= R x^2 + Delta^2 / (4 R), as in `sharp_enlargement`; summed, with s <= c sigma and
    d sigma^2 <= ||g||^2, E||Q(Clip(g))||^2 <= R ||Clip(g)||^2 + d s^2 Delta^2 / (4 R).
    """
    bound = R + (c * Delta) ** 2 / (4 * R)
    (inside,) = [r for r in sp.solve(sp.diff(bound, R), R) if r.is_positive]
    assert sp.diff(bound, R, 2).is_positive  # convex: the end R = 1 if `inside` is below it
    values = [sp.simplify(bound.subs(R, r)) for r in (1, inside)]
    return values, [1 + (c * Delta / 2) ** 2, c * Delta]


@functools.cache
def clip_bias() -> Pair:
    """E(Clip(g_i) - g_i)^2 / sigma^2, beside sqrt(2/pi) F(c) of Proposition 3."""
    derived = sp.simplify(2 * sp.integrate((z - c) ** 2 * PHI, (z, c, sp.oo)))
    f = -c * sp.exp(-(c**2) / 2) + sp.sqrt(sp.pi / 2) * (1 + c**2) * (1 - sp.erf(c / sp.sqrt(2)))
    return derived, sp.sqrt(2 / sp.pi) * f


def clipped_absolute() -> Pair:
    """E min(|g_i| / sigma, c): times c it is the exact enlargement of clipped SQ2."""
    derived = 2 * (sp.integrate(z * PHI, (z, 0, c)) + c * sp.integrate(PHI, (z, c, sp.oo)))
    closed = sp.sqrt(2 / sp.pi) * (1 - sp.exp(-(c**2) / 2)) + c * (1 - sp.erf(c / sp.sqrt(2)))
    return derived, closed


def workers() -> Pair:
    """E||mean of N quantized gradients||^2 over ||g||^2, all N gradients g, each enlarged by R."""
    N = sp.Symbol("N", positive=True)
    variance = (R - 1) / N**2 * N
    return sp.expand(1 + variance), 1 + (R - 1) / N
