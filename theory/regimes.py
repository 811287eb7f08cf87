"""The scaling law of accumulation in closed form: constants, and bits per doubling of n.

With t = n / 4^man, s / (2^man std) converges to a diffusion that depends on t alone, because
the spacing u = 2^floor(log2 |s|) / 2^man is a function of that ratio (std a power of two; else
of its phase too). To leading order in u, a binade adds noise, an edge pulls towards zero, and
E[s^2] loses or gains per addition what the two together give, averaged over the phase
log2 |s| mod 1. All derived here; nothing is from [sakr2019accumulation], whose own rate, a knee
2.6 times farther per bit, is 0.72 bits per doubling.
"""

from __future__ import annotations

import functools
from fractions import Fraction
from typing import Literal

import sympy as sp

from theory.addition import ROUNDINGS, Rounding

Criterion = Literal["retention", "published", "mean"]

u, x, a = sp.symbols("u x a", positive=True)  # spacing; |s|; E|p|. Units: std = 1, 2^man = 1


def noise_terms() -> dict[str, sp.Expr]:
    """v(u) - 1 in a binade, leading order in u, p / u mod 1 being uniform there.

    The rounding error e is uniform: on +-u/2 to nearest and toward zero (about its mean); the
    stochastic one has variance f (1 - f) u^2 at fraction f. Align truncates p itself by e:
    E[(|p| - e)^2] - E[p^2].
    """
    e, f = sp.symbols("e f", positive=True)
    uniform = sp.integrate(e**2, (e, -u / 2, u / 2)) / u
    stochastic = sp.integrate(f * (1 - f), (f, 0, 1)) * u**2
    align = sp.integrate(-2 * a * e, (e, 0, u)) / u
    return {
        "nearest": uniform,
        "stochastic": stochastic,
        "align": align,
        "toward_zero": uniform,
    }


def edge_terms() -> dict[str, sp.Expr]:
    """2 kappa: edge ratio - 1, where kappa is the pull towards zero integrated over s.

    Spacing u below the edge E = 0 and 2u above. To nearest, E[error | s] is f(E - s), the
    density of p there, times: the mean error of the one lopsided cell (-u/2, u), and what each
    side's full cells of width w leave, -w^2/12 f' summed up to the edge. A sum truncated on
    crossing upward loses u/2, with probability P(p > E - s); the integral of that is E[p+].
    The local martingale has E[h'' + 2 drift h'] = 0, so its slope rises by 2 kappa.
    """
    y = sp.Symbol("y", real=True)
    lopsided = sp.integrate(-y, (y, -u / 2, u))
    full = -(u**2) / 12 + (2 * u) ** 2 / 12
    return {
        "nearest": sp.expand(-2 * (lopsided + full)),
        "stochastic": sp.Integer(0),
        "align": 2 * (u / 2) * (a / 2),
        "toward_zero": sp.Integer(0),  # its drift -u/2 is of lower order, see `loss`
    }


def gain_per_addition(rounding: Rounding) -> sp.Expr:
    """The rate d E[s^2] / dn - 1 at |s| = x, averaged over the phase of x within a binade.

    Noise adds v(u) - 1, drift -u/2 takes x u. Edges lie at x = 2^k, one per factor of 2, so
    their sum is an integral over d(log2 x): 2 x kappa / (x ln 2), u = x/2 just below.
    """
    y = sp.Symbol("y", positive=True)  # x / 2^floor(log2 x), log-uniform on [1, 2)
    phase = 1 / (y * sp.log(2))
    inside = noise_terms()[rounding].subs(u, x / y)
    if rounding == "toward_zero":
        inside = -x * x / y  # of order 1/2^man, where the noise has 1/4^man
    edges = edge_terms()[rounding].subs(u, x / 2) / sp.log(2)
    return sp.simplify(sp.integrate(inside * phase, (y, 1, 2)) - edges)


@functools.cache
def loss(rounding: Rounding) -> tuple[sp.Expr, Fraction, int]:
    """1 - retention of zero-mean products is c n^(power) / 2^(bits man): (c, power, bits).

    Leading order, for a retention near 1. `a` is E|p| / std, sqrt(2/pi) for Gaussian products.
    s itself is normal by the central limit theorem, with E|s| = sqrt(2 n / pi). Averaged over
    the phase of std within a binade, which moves the loss by about 1 % (nearest).
    """
    gain = sp.expand(gain_per_addition(rounding))
    degree = sp.degree(gain, x)
    n = sp.Symbol("n", positive=True)
    moment = {1: sp.sqrt(2 * n / sp.pi), 2: n}[degree]
    total = sp.integrate(gain.coeff(x, degree) * moment, (n, 0, n)) / n
    power = {1: Fraction(1, 2), 2: Fraction(1)}[degree]
    bits = 1 if rounding in ("align", "toward_zero") else 2
    return sp.simplify(-total / n ** sp.Rational(power)), power, bits


def bits_per_doubling(
    rounding: Rounding, criterion: Criterion = "retention", mean: bool = False
) -> Fraction:
    """Mantissa bits that each doubling of n costs at a fixed value of the criterion.

    retention   |1 - E[s^2] / E[S^2]| below a small tolerance
    published   n |1 - retention| below ln 50 [sakr2019accumulation, Sec. 4]
    mean        |1 - E[s] / E[S]| below a tolerance, for products with a mean

    From `loss`: c n^power / 2^(bits man) stays fixed along man = (power / bits) log2 n, and
    `published` adds one to the power. With a mean, s = n mean carries spacing n mean / 2^man:
    to nearest it stalls where that is about twice a product, a fixed n / 2^man; truncation
    loses half of it per addition; stochastic rounding keeps E[s] and adds the relative variance
    n / 4^man (here also to nearest, but stalling comes first).

    Raises:
      ValueError: unknown names; `mean` as a criterion without a mean.
    """
    if rounding not in ROUNDINGS or criterion not in ("retention", "published", "mean"):
        raise ValueError(f"no rate for rounding {rounding!r} and criterion {criterion!r}")
    if criterion == "mean" and not mean:
        raise ValueError("zero-mean products have no mean to keep: use criterion 'retention'")
    if not mean:
        _, power, bits = loss(rounding)
        return (power + (criterion == "published")) / bits
    if rounding == "stochastic":
        return {"mean": Fraction(0), "retention": Fraction(1, 2), "published": Fraction(1)}[
            criterion
        ]
    if rounding == "nearest":
        return Fraction(1)
    return Fraction(1 + (criterion == "published"))
