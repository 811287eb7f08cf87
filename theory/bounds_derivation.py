"""The constants and exponents of the bounds, derived with sympy; tests compare the pairs.

Each function returns (derived, printed): what follows from the definitions, and the formula as
the docstrings of `bounds`, `rounding_error` and `probabilistic` state it.
"""

from __future__ import annotations

import sympy as sp

eps, n, b, v, t, Sigma, N, lam = sp.symbols("eps n b v t Sigma N lam", positive=True)
Pair = tuple[sp.Expr, sp.Expr]


def nearest_unit() -> Pair:
    """Largest |error| / x over a binade, to nearest: at the first tie, 1 + eps / 2."""
    below = t / (1 + t)  # rounded down to 1, 0 <= t <= eps / 2: increasing
    assert sp.simplify(sp.diff(below, t)) == 1 / (1 + t) ** 2
    u = eps / 2
    return below.subs(t, eps / 2), u / (1 + u)


def truncation_unit() -> Pair:
    """Supremum of |error| / x over a binade, toward zero: just below 1 + eps."""
    return sp.limit(t / (1 + t), t, eps, "-"), eps / (1 + eps)


def stochastic_unit() -> Pair:
    """Supremum of |error| / x over a binade, either neighbour: just above 1, rounded up."""
    return sp.limit((eps - t) / (1 + t), t, 0, "+"), eps


def align_unit() -> tuple[list[sp.Expr], sp.Expr]:
    """The cases of `rounding_error.unit`, each with the largest losses, over |s| + |p|.

    In units of the larger addend's binade, 2^e = 1: no carry, a loss of one ulp; a carry, the
    same and one ulp more, with |s| + |p| at least 2 + ulp + loss. No case passes the first.
    """
    no_carry, carry = t / (1 + t), (t + eps) / (2 + eps + t)
    return [sp.limit(case, t, eps, "-") for case in (no_carry, carry)], eps / (1 + eps)


def telescoping(terms: int) -> Pair:
    """The sum after `terms` rounded additions s <- (s + p_k)(1 + d_k), as the products of 1 + d
    that each p_k goes through [higham2002accuracy, eq. (4.2)].
    """
    p, d = sp.symbols(f"p1:{terms + 1}"), sp.symbols(f"d1:{terms + 1}")
    total = sp.Integer(0)
    for term, error in zip(p, d, strict=True):
        total = (total + term) * (1 + error)
    closed = sum(p[i] * sp.Mul(*(1 + e for e in d[i:])) for i in range(terms))
    return sp.expand(total), sp.expand(closed)


def growing_error() -> Pair:
    """The E of E_k = (1 + v) E_(k-1) + v Sigma + c, E_0 = 0: stochastic rounding at its worst."""
    c, error, k = sp.symbols("c", positive=True), sp.Function("E"), sp.symbols("k", integer=True)
    step = error(k) - (1 + v) * error(k - 1) - v * Sigma - c
    return sp.rsolve(step, error(k), {error(0): 0}), ((1 + v) ** k - 1) * (Sigma + c / v)


def best_chunk() -> Pair:
    """The chunk that minimises (b + n / b - 1) v Sigma [blanchard2020class, Sec. 3]."""
    return sp.solve(sp.diff(b + n / b - 1, b), b)[0], sp.sqrt(n)


def best_chunk_probabilistic() -> Pair:
    """The chunk that minimises sqrt(b) + sqrt(n / b)."""
    return sp.solve(sp.diff(sp.sqrt(b) + sp.sqrt(n / b), b), b)[0], sp.sqrt(n)


def stopped_error() -> Pair:
    """T = lam sqrt(k) / 2 eps (Sigma + T + N), with no drift: the bound of `probabilistic`."""
    k, T = sp.symbols("k T", positive=True)
    share = lam * sp.sqrt(k) * eps / 2
    return sp.solve(sp.Eq(T, share * (Sigma + T + N)), T)[0], share * (Sigma + N) / (1 - share)


def nearest_induction() -> Pair:
    """What is left over of k v Sigma_k + k c in the step of `bounds.rounded_sums` where the term
    p exceeds v Sigma_(k-1) + c by t > 0; Sigma_(k-1) = S. Non-negative for k >= 1.
    """
    k, c, S = sp.symbols("k c S", positive=True)
    p = v * S + c + t
    before = (k - 1) * (v * S + c)
    after = before + v * (S + p) + v * before
    return sp.expand(k * (v * (S + p) + c) - after), sp.expand(c + (k - 1) * v * t)
