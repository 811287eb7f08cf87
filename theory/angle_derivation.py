"""Where the angle theorem's formulas come from: each derived, beside the printed.

W is N(0, 1), cos = E[W Q(W)] / sqrt(E[W^2] E[Q(W)^2]) for many elements. Every function returns
(derived, printed) unless it says otherwise; tests/theory/test_angle.py compares them.
"""

from __future__ import annotations

import mpmath
import sympy as sp

x = sp.Symbol("x", real=True)
t = sp.Symbol("t", positive=True)  # threshold
bits, log_n = sp.symbols("M l", positive=True)  # M; ln N
e = sp.Symbol("e", positive=True)  # |error| / |W|

density = sp.exp(-(x**2) / 2) / sp.sqrt(2 * sp.pi)


def binary() -> tuple[sp.Expr, sp.Expr]:
    """Q = sign W, E[Q^2] = 1."""
    return 2 * sp.integrate(x * density, (x, 0, sp.oo)), sp.sqrt(2 / sp.pi)


def ternary() -> tuple[sp.Expr, sp.Expr]:
    """Q = sign W where |W| > t, beside 2 phi(t) / sqrt(2 Q(t))."""
    product = 2 * sp.integrate(x * density, (x, t, sp.oo))
    square = 2 * sp.integrate(density, (x, t, sp.oo)).rewrite(sp.erfc)
    tail = sp.erfc(t / sp.sqrt(2)) / 2
    return product / sp.sqrt(square), 2 * density.subs(x, t) / sp.sqrt(2 * tail)


def ternary_condition() -> tuple[sp.Expr, sp.Expr]:
    """Derivative of ln cos^2 by t, beside phi(t)/Q(t) - 2 t, which the best threshold makes 0.

    The hazard phi/Q has a slope below 1 everywhere, so that there is one root and it is a maximum.
    """
    tail = sp.erfc(t / sp.sqrt(2)) / 2
    log_square = sp.log(4 * density.subs(x, t) ** 2 / (2 * tail))
    return sp.diff(log_square, t), density.subs(x, t) / tail - 2 * t


def best_ternary(digits: int = 30) -> tuple[mpmath.mpf, mpmath.mpf, mpmath.mpf]:
    """Threshold, cosine and angle in degrees of the best ternary quantizer: the numbers alone."""
    with mpmath.workdps(digits):
        best = mpmath.findroot(lambda s: mpmath.npdf(s) / mpmath.ncdf(-s) - 2 * s, 0.6)
        cosine = 2 * mpmath.npdf(best) / mpmath.sqrt(2 * mpmath.ncdf(-best))
        return best, cosine, mpmath.degrees(mpmath.acos(cosine))


def noise_power() -> tuple[sp.Expr, sp.Expr]:
    """Mean square of an error uniform over a step, beside step^2 / 12."""
    step = sp.Symbol("step", positive=True)
    return sp.integrate(x**2 / step, (x, -step / 2, step / 2)), step**2 / 12


def stochastic_noise_power() -> tuple[sp.Expr, sp.Expr]:
    """The same for stochastic rounding: f (1 - f) step^2 at the fraction f, beside step^2 / 6."""
    step, f = sp.symbols("step f", positive=True)
    return sp.integrate(f * (1 - f) * step**2, (f, 0, 1)), step**2 / 6


def m_bit_bound() -> tuple[sp.Expr, sp.Expr]:
    """1 / (1 + |error| / |W|) with M bits for the magnitude, beside the printed theorem.

    Step sqrt(2 ln N) / 2^M: E[max] <= sqrt(2 ln N), as in range_derivation.upper_bound.
    """
    error = sp.sqrt(2 * log_n) / 2**bits / sp.sqrt(12)
    return 1 / (1 + error), 2**bits / (2**bits + sp.sqrt(log_n) / sp.sqrt(6))


def estimate() -> tuple[sp.Expr, sp.Expr]:
    """Uncorrelated error of M bits for the range, beside 1/sqrt(1 + 2 ln N / (3 4^M))."""
    error = 2 * sp.sqrt(2 * log_n) / 2**bits / sp.sqrt(12)
    return 1 / sp.sqrt(1 + error**2), 1 / sp.sqrt(1 + 2 * log_n / (3 * 4**bits))


def worst_case() -> tuple[sp.Expr, sp.Expr]:
    """Least cosine of W and W + E where |E| = e |W|, e < 1, over the angle between E and W.

    c is the cosine of that angle. It is at c = -e, where Q is orthogonal to E.
    """
    c = sp.Symbol("c", real=True)
    cosine = (1 + e * c) / sp.sqrt(1 + 2 * e * c + e**2)
    (stationary,) = sp.solve(sp.numer(sp.together(sp.diff(cosine, c))), c)
    return sp.simplify(cosine.subs(c, stationary)), sp.sqrt(1 - e**2)


def triangle_step() -> tuple[sp.Expr, sp.Expr]:
    """Relative error below which cos >= 1 / (1 + e) for any error, beside that of e^3 + 2 e^2 = 2.

    From (1 - e^2) (1 + e)^2 >= 1: 0.8393. An error orthogonal to W has it for every e, since
    1 + e^2 <= (1 + e)^2.
    """
    polynomial = sp.expand((1 - e**2) * (1 + e) ** 2 - 1)
    (derived,) = [r for r in sp.Poly(polynomial, e).nroots() if r.is_real and r > 0]
    (printed,) = [r for r in sp.Poly(e**3 + 2 * e**2 - 2, e).nroots() if r.is_real and r > 0]
    return derived, printed


def reach(ratio: sp.Expr | int) -> tuple[sp.Expr, sp.Expr]:
    """Largest e for which 1 / sqrt(1 + (ratio e)^2) >= 1 / (1 + e), beside 2 / (ratio^2 - 1).

    The theorem's e against what an M-bit affine grid does: twice as much rounded to nearest,
    which holds up to e = 2/3, 2 sqrt(2) times stochastically, up to 2/7. e = sqrt(ln N / 6) / 2^M
    is 2/3 at ln N = 43 for M = 2 and at ln N = 11 for M = 1; beyond, all but a few elements lie in
    the two middle cells, and the cosine is at least about that of signs, 0.798 > 1 / (1 + 2/3).
    """
    ratio = sp.sympify(ratio)
    (largest,) = sp.solve(sp.expand(1 + ratio**2 * e**2 - (1 + e) ** 2) / e, e)
    return sp.simplify(largest), 2 / (ratio**2 - 1)


def two_bits(edge: float) -> tuple[mpmath.mpf, mpmath.mpf]:
    """Cosine of levels +-edge, +-edge/3 and thresholds 0, +-2 edge/3: quadrature, beside erf, exp.

    In closed form, s = 2 edge/3: E[W Q] = 2 edge (phi(0)/3 + 2 phi(s)/3),
    E[Q^2] = edge^2 (1 + 16 Q(s))/9.
    """
    edge = mpmath.mpf(edge)
    s = 2 * edge / 3

    def level(w: mpmath.mpf) -> mpmath.mpf:
        return edge if w > s else edge / 3

    parts = [0, s, s + 3, s + 8, 40]
    product = 2 * mpmath.quad(lambda w: w * level(w) * mpmath.npdf(w), parts)
    square = 2 * mpmath.quad(lambda w: level(w) ** 2 * mpmath.npdf(w), parts)
    closed = 2 * edge * (mpmath.npdf(0) + 2 * mpmath.npdf(s)) / 3
    closed /= edge * mpmath.sqrt(1 + 16 * mpmath.ncdf(-s)) / 3
    return product / mpmath.sqrt(square), closed
