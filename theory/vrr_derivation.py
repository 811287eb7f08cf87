"""Where the constants of the VRR come from: each derived from its assumption, beside the printed.

Assumptions of [sakr2019accumulation]: products have standard deviation sigma_p = 1 and m_p
uniformly distributed mantissa bits of weights 1/2..2^-m_p; partial stage j, |s| above
2^(m_acc - m_p + j), drops the j lowest of them; what is dropped adds up without correlation.
Every function returns (derived, printed); tests/theory/test_vrr.py has sympy subtract them.
"""

from __future__ import annotations

import sympy as sp

m_acc, m_p, j = sp.symbols("m_acc m_p j", positive=True)
n, threshold = sp.symbols("n T", positive=True)  # T = 2^m_acc, the full-swamping threshold


def truncation_moment() -> tuple[sp.Expr, sp.Expr]:
    """Mean square of the j lowest of m_p uniform bits, in sigma_p^2, for symbolic j and m_p.

    The dropped part is r 2^-m_p with r uniform on 0..2^j - 1.
    """
    values, r = sp.symbols("M r", positive=True, integer=True)
    mean_square = sp.factor(sp.summation(r**2, (r, 0, values - 1)) / values)
    printed = 4**-m_p * (2**j - 1) * (2 ** (j + 1) - 1) / 6
    return 4**-m_p * mean_square.subs(values, 2**j), printed


def stage_length() -> tuple[sp.Expr, sp.Expr]:
    """Additions spent in stage j, N_j, for symbolic m_acc, m_p and j.

    Derived: a sum that grows by sigma_p per addition reaches the end of the stage, where stage
    j + 1 begins, after that threshold / sigma_p of them. Printed: N_{j_r - 1} of the theorem at
    j_r = j + 1. It is a modelling choice: a random walk needs the square, 4^(m_acc - m_p + j + 1).
    """
    end_of_stage = (2 ** (m_acc - m_p + j)).subs(j, j + 1)
    j_r = sp.Symbol("j_r")
    return end_of_stage, (2 ** (m_acc - m_p + j_r)).subs(j_r, j + 1)


def forced_stage_length() -> tuple[sp.Expr, sp.Expr]:
    """The N_j that the printed alpha implies: its step from stage j - 1 to j over the moment."""
    term = 2 ** (m_acc - 3 * m_p) / 3 * 2**j * (2**j - 1) * (2 ** (j + 1) - 1)
    return sp.simplify(term / truncation_moment()[0]), stage_length()[1]


def stage_loss(bits: int, stages: int | None = None) -> tuple[sp.Expr, sp.Expr]:
    """The alpha for m_p = `bits`, or alpha_{j_r} with `stages` = j_r - 1; symbolic in m_acc.

    Derived: sum over the stages of additions in it times variance dropped per addition.
    """
    stages = bits if stages is None else stages
    per_stage = stage_length()[0] * truncation_moment()[0]
    derived = sum(per_stage.subs({j: i, m_p: bits}) for i in range(1, stages + 1))
    total = sum(2**i * (2**i - 1) * (2 ** (i + 1) - 1) for i in range(1, stages + 1))
    return sp.sympify(derived), 2 ** (m_acc - 3 * bits) / 3 * total


def stage_loss_closed(stages: int) -> tuple[sp.Expr, sp.Expr]:
    """alpha_{j_r} summed in closed form, with M = 2^stages, beside the printed sum.

    2^(m_acc - 3 m_p + 1) (M - 1)(8 M^2 - 6 M + 1)/21: 8 times as much for each further stage.
    """
    size = 2**stages
    closed = 2 ** (m_acc - 3 * m_p + 1) * sp.Rational((size - 1) * (8 * size**2 - 6 * size + 1), 21)
    total = sum(2**i * (2**i - 1) * (2 ** (i + 1) - 1) for i in range(1, stages + 1))
    return closed, 2 ** (m_acc - 3 * m_p) / 3 * total


def loss_form(length: int, bits: int) -> tuple[sp.Expr, sp.Expr]:
    """1 - VRR as theory.vrr sums it, beside 1 minus the printed quotient.

    For any probabilities q_i (i < length), q'_j (j = 2..bits), k3, and any alphas; the indicator
    of the theorem removes terms from both alike.
    """
    q = sp.symbols(f"q2:{length}", positive=True)
    stage = sp.symbols(f"s2:{bits + 1}", positive=True)
    alpha, k3 = sp.symbols("alpha k3", positive=True)
    alphas = sp.symbols(f"a2:{bits + 1}", positive=True)
    k = sum(q) + sum(stage) + k3
    kept = sum((i - alpha) * q_i for i, q_i in enumerate(q, 2)) + length * k3
    kept += sum((length - a) * s for a, s in zip(alphas, stage, strict=True))
    lost = sum((length - i + alpha) * q_i for i, q_i in enumerate(q, 2))
    lost += sum(a * s for a, s in zip(alphas, stage, strict=True))
    return lost / (k * length), 1 - kept / (k * length)


def limit_infinite_width(bits: int) -> tuple[sp.Expr, sp.Expr]:
    """Limit of VRR for m_acc -> infinity at fixed n, beside 1.

    It is reached: as soon as alpha_2 = 2^(m_acc - 3 m_p + 1) >= n no indicator of the theorem is
    left but k3's (alpha >= alpha_2 for m_p >= 2), and VRR = n k3/(k3 n). Derived here without the
    indicators: alpha_j q'_j -> 0, and the sum over i < n is empty once alpha >= n.
    """
    T = threshold
    total, kept = sp.Integer(0), sp.Integer(0)
    for j_r in range(2, bits + 1):
        length = T * sp.Integer(2) ** (j_r - bits)
        low, high = length / 2, length
        q = length * sp.erfc(low / sp.sqrt(2 * n)) * sp.erf(high / sp.sqrt(2 * n))
        loss = stage_loss(bits, j_r - 1)[0].subs(m_acc, sp.log(T, 2))
        total += sp.limit(q, T, sp.oo)
        kept += sp.limit((n - sp.simplify(loss)) * q, T, sp.oo)
    k3 = sp.limit(sp.erf(2 * T / 2**bits / sp.sqrt(2 * n)), T, sp.oo)
    return sp.simplify((kept + n * k3) / (n * (total + k3))), sp.Integer(1)


def swamping_tail() -> tuple[sp.Expr, sp.Expr]:
    """Limit of sqrt(i) q_i for i -> infinity: c = sqrt(2/pi) T, so that q_i ~ c i^(-1/2)."""
    y = sp.Symbol("y", positive=True)  # 1/sqrt(i); i - 1 is 1/y^2 - 1
    q = sp.erfc(threshold * y / sp.sqrt(2)) * sp.erf(threshold * y / sp.sqrt(2 - 2 * y**2))
    return sp.limit(q / y, y, 0), sp.sqrt(2 / sp.pi) * threshold


def limit_infinite_length() -> tuple[sp.Expr, sp.Expr]:
    """Limit of VRR for n -> infinity at fixed m_acc, beside 1/3.

    q_i ~ c i^(-1/2), so that sum q_i and sum i q_i grow like their integrals, n^(1/2) and n^(3/2);
    q'_j and k3 fall like n^(-1/2), alpha is constant: VRR -> int x^(1/2) / int x^(-1/2) on (0, 1).
    """
    x = sp.Symbol("x", positive=True)
    kept = sp.integrate(x * x ** sp.Rational(-1, 2), (x, 0, 1))
    return kept / sp.integrate(x ** sp.Rational(-1, 2), (x, 0, 1)), sp.Rational(1, 3)


def approach_to_one_third() -> tuple[sp.Expr, sp.Expr]:
    """sqrt(n) (VRR - 1/3) = c ln(n)/6 + const + o(1): coefficient of ln n, beside c/6.

    From q_i = c i^(-1/2) - c^2 i^(-1) + ...: with A the constant of sum q_i, which sum (n - i) q_i
    contains n times, the two sums are those below, q'_j and k3 being o(1).
    """
    c, A, log_n, y = sp.symbols("c A l y", positive=True)  # y = 1/sqrt(n)
    weight = 2 * c / y - c**2 * log_n + A
    lost = sp.Rational(4, 3) * c / y - c**2 * (log_n - 1) + A  # over n
    first = sp.series(1 - lost / weight, y, 0, 2).removeO().coeff(y, 1)
    return sp.expand(first).coeff(log_n, 1), c / 6


def end_corrections() -> tuple[list[sp.Expr], list[sp.Expr]]:
    """Coefficients of delta, delta^3, delta^5 in 1/delta - 1/D, delta = 2 sinh(D/2).

    A sum is 1/delta of its terms at the half-integer ends, an integral 1/D: the first two are what
    theory.vrr adds to the integral, the third leads its remainder.
    """
    d = sp.Symbol("d", positive=True)
    odd = sp.series(1 / d - 1 / (2 * sp.asinh(d / 2)), d, 0, 6).removeO()
    return [odd.coeff(d, k) for k in (1, 3, 5)], [
        sp.Rational(-1, 24),
        sp.Rational(17, 5760),
        sp.Rational(-367, 967680),
    ]
