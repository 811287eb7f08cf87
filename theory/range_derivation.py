"""Where Range Batch-Norm's constants come from: bounds on E[max] and its expansion, derived.

Of n independent N(0, 1) samples, printed bounds [banner2018scalable, Range BN]:
sqrt(ln n / (pi ln 2)) <= E[max] <= sqrt(2 ln n). Functions return (derived, printed) unless they
say otherwise; tests/theory/test_expected_range.py subtracts them.
"""

from __future__ import annotations

from typing import NamedTuple

import mpmath
import sympy as sp

log_n, scale = sp.symbols("l R", positive=True)  # ln n; half the expected range


def upper_bound() -> tuple[sp.Expr, sp.Expr]:
    """sqrt(2 ln n), for every n >= 1.

    exp(t E[max]) <= E[exp(t max)] <= n exp(t^2/2) (Jensen; a maximum is below the sum), so
    E[max] <= ln n / t + t/2 for every t > 0; derived is its least value.
    """
    t = sp.Symbol("t", positive=True)
    bound = log_n / t + t / 2
    (best,) = sp.solve(sp.diff(bound, t), t)
    return sp.simplify(bound.subs(t, best)), sp.sqrt(2 * log_n)


def maximum_of_two() -> tuple[sp.Expr, sp.Expr]:
    """E[max] at n = 2, where the lower bound is attained.

    max(x, y) = (x + y)/2 + |x - y|/2, and x - y is N(0, 2).
    """
    x = sp.Symbol("x", real=True)
    density = sp.exp(-(x**2) / 4) / sp.sqrt(4 * sp.pi)
    return 2 * sp.integrate(x / 2 * density, (x, 0, sp.oo)), lower(2)


def maximum(n: int) -> sp.Expr:
    """E[max] in closed form, n = 2..5.

    n (n - 1) int phi^2 Phi^(n-2), where phi^2 = N(0, 1/2) / (2 sqrt(pi)), Phi = 1/2 + g, g odd:
    E[g(z)^2] = asin(1/3)/(2 pi) under N(0, 1/2), the probability of a quadrant at correlation 1/3
    less 1/4.

    Raises:
      ValueError: n outside 2..5.
    """
    if n not in (2, 3, 4, 5):
        raise ValueError(f"n = {n!r}: the closed forms are those of 2, 3, 4, 5")
    square = sp.asin(sp.Rational(1, 3)) / (2 * sp.pi)
    half = sp.Rational(1, 2)
    power = sum(sp.binomial(n - 2, k) * half ** (n - 2 - k) * square ** (k // 2) for k in (0, 2))
    return n * (n - 1) * power / (2 * sp.sqrt(sp.pi))


def lower(n: sp.Expr | int) -> sp.Expr:
    """The printed lower bound."""
    return sp.sqrt(sp.log(n) / (sp.pi * sp.log(2)))


def distance_of_sums(blocks: int, differing: int) -> tuple[sp.Expr, sp.Expr]:
    """E[(Y_b - Y_c)^2] where b and c differ in some places, beside what it may not exceed, 2.

    Y_b = (1/sqrt(k)) sum_j Z_(j, b_j) for the m^k words b of k letters out of m, Z independent
    N(0, 1). As no distance exceeds that of independent variables, E[max Y] <= E[max of m^k
    independent] (Sudakov-Fernique), and E[max Y] = sqrt(k) E[max of m]: E_(m^k) >= sqrt(k) E_m.
    """
    return sp.Rational(2 * differing, blocks), sp.Integer(2)


class Block(NamedTuple):
    """Lengths first <= n < end: E[max] >= known there, while the bound asks at most for needed."""

    first: int
    end: int
    known: sp.Expr
    needed: sp.Expr


def lower_bound() -> list[Block]:
    """Blocks that prove the lower bound for all n in 2..255; it is an equality at 2 alone.

    E[max] rises with n, so that `known` is E[max] of a length at most `first`. From 16 on in
    blocks 4^k..4^(k+1): known sqrt(k) E_4, needed sqrt(2 (k + 1) / pi); known / needed rises with
    k, so that k = 2 and 3, listed here, prove all of them.
    """
    blocks = [
        Block(2, 3, maximum(2), lower(2)),
        Block(3, 4, maximum(3), lower(4)),
        Block(4, 8, maximum(4), lower(8)),
        Block(8, 16, maximum(5), lower(16)),
    ]
    for k in (2, 3):
        blocks.append(Block(4**k, 4 ** (k + 1), sp.sqrt(k) * maximum(4), lower(4 ** (k + 1))))
    return blocks


def average_of_bounds() -> tuple[sp.Expr, sp.Expr]:
    """Mean of the estimates of sigma that the two bounds imply, over range / sqrt(2 ln n).

    Half a range R over each bound on E[max]/sigma. The authors' code multiplies it by 0.7.
    """
    low = sp.sqrt(log_n / (sp.pi * sp.log(2)))
    estimate = (scale / sp.sqrt(2 * log_n) + scale / low) / 2
    derived = sp.simplify(estimate / (2 * scale / sp.sqrt(2 * log_n)))
    return derived, sp.Rational(1, 4) * (1 + sp.sqrt(sp.pi * sp.log(4)))


def paper_interval() -> tuple[sp.Expr, sp.Expr]:
    """Greatest lower bound of C(n) E[range] / sigma over n >= 2, beside the printed 0.325.

    From `lower`, attained at n = 2. 0.325 = 0.23 sqrt(2) follows from the weaker
    E[max] >= 0.23 sqrt(ln n).
    """
    return sp.simplify(2 * maximum(2) / sp.sqrt(2 * sp.log(2))), sp.Rational(325, 1000)


def expansion(terms: int) -> list[sp.Poly]:
    """c_k(s), k < terms, in x = a + sum_k c_k(s) / a^(2k+1): coefficients of E[max].

    n Q(x) = e^-G fixes x, with a = sqrt(2 ln n) and s = ln a + ln(2 pi)/2 - G; n Q(max) is Exp(1)
    in the limit, so that G is a standard Gumbel. With x = a (1 + y), e = 1/a^2 and Mills' series
    Q = phi/x (1 - x^-2 + 3 x^-4 - ...): ((1 + y)^2 - 1)/2 = -e (s + ln(1 + y) - ln(1 - ...)).
    """
    e, s, z = sp.symbols("e s z")
    powers = range(1, terms + 1)
    log1p = sum((-1) ** (k + 1) * z**k / k for k in powers)
    minus_square = 1 + sum((-1) ** k * (k + 1) * z**k for k in powers)  # (1 + z)^-2

    def truncated(expression: sp.Expr) -> sp.Expr:
        found = sp.Poly(expression, e)
        return sum(found.coeff_monomial(e**k) * e**k for k in range(terms + 1))

    y = sp.Integer(0)
    for _ in powers:  # each pass makes one order more exact
        inverse = truncated(e * minus_square.subs(z, y))
        mills = truncated(sum((-1) ** k * sp.factorial2(2 * k - 1) * inverse**k for k in powers))
        right = s + log1p.subs(z, y) - log1p.subs(z, mills)
        y = truncated(-e * right - y**2 / 2)
    return [sp.Poly(y.coeff(e, k), s) for k in powers]


def gumbel_sum(s: float) -> tuple[mpmath.mpf, mpmath.mpf]:
    """P(G + G' > s) of independent standard Gumbels: the convolution, beside 1 - z K_1(z).

    z = 2 exp(-s/2): the substitution u = exp(-G) makes int_0^inf exp(-u - exp(-s)/u) du of the
    distribution function, a representation of z K_1(z).
    """
    s = mpmath.mpf(s)
    rest = mpmath.quad(
        lambda u: mpmath.exp(-u) * -mpmath.expm1(-mpmath.exp(-s) / u),
        [0, mpmath.exp(-s), 1, 10, 60, 200],
    )
    z = 2 * mpmath.exp(-s / 2)
    return rest, 1 - z * mpmath.besselk(1, z)


def gumbel_sum_tail() -> tuple[sp.Expr, sp.Expr]:
    """Leading term of 1 - z K_1(z) for small z, beside (s + 1 - 2 gamma) exp(-s).

    K_1(z) = 1/z + (z/2)(ln(z/2) + gamma - 1/2) + O(z^3 ln z).
    """
    s = sp.Symbol("s", positive=True)
    z = 2 * sp.exp(-s / 2)
    k_1 = 1 / z + z / 2 * (sp.log(sp.exp(-s / 2)) + sp.EulerGamma - sp.Rational(1, 2))
    return sp.expand(1 - z * k_1), sp.expand((s + 1 - 2 * sp.EulerGamma) * sp.exp(-s))
