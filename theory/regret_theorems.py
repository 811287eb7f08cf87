"""Theorems 1-3 of [hou2019analysis] put together from the steps of `regret_derivation`, with sympy.

Each theorem returns (derived, printed). Derived is composed: its factors come from the steps that
prove them, so that a wrong step is a wrong theorem. The paper's displays are re-derived (they are
not in the text that could be read); printed forms are those of the spec.
"""

from __future__ import annotations

import sympy as sp

from theory import gradient_quantization_derivation as gradients
from theory import regret_derivation as steps
from theory.regret_derivation import (
    D,
    D_inf,
    Delta_g,
    Delta_w,
    G,
    G_inf,
    L,
    Pair,
    T,
    W,
    alpha,
    beta,
    d,
    eta,
    sigma,
    t,
)

lost = sp.Symbol("lost", nonnegative=True)  # largest sqrt(E||Clip(g) - g||^2), measured


def theorem1() -> Pair:
    """Average regret for full-precision gradients, of norm G at each step."""
    return _average(sp.Integer(1)), _printed_average(sp.Integer(1))


def theorem2() -> Pair:
    """The same in expectation, E||g~||^2 = R G^2: derived sharp, printed with Proposition 1."""
    sharp, proposition1 = gradients.sharp_enlargement()[0], gradients.proposition1()[1]
    return _average(_at(sharp)), _printed_average(_at(proposition1))


def theorem3() -> Pair:
    """With clipping at c sigma, Gaussian gradients, by Propositions 2 and 3."""
    derived, printed = (_at(p) for p in gradients.proposition2())
    error = sp.sqrt(d * sigma**2 * gradients.clip_bias()[0])
    F = gradients.clip_bias()[1] / sp.sqrt(2 / sp.pi)
    floor = sp.sqrt(d) * D * sigma * (2 / sp.pi) ** sp.Rational(1, 4) * sp.sqrt(F)
    return _average(derived) + clip_floor(error), _printed_average(printed) + floor


def theorem3_any_gradient() -> list[sp.Expr]:
    """Its corrected forms, Gaussian or not: by either branch of `clipped_worst`, and if sharp."""
    worst = [*gradients.clipped_worst()[0], gradients.sharp_enlargement()[0]]
    return [_average(_at(w)) + clip_floor(lost) for w in worst]


def clip_floor(error: sp.Expr) -> sp.Expr:
    """<g^ - Clip(g^), w - w*> by Cauchy and Schwarz: at most the error's norm times D."""
    return error * D


def first_term(norm: sp.Expr) -> sp.Expr:
    """D_inf^2 sum_i a_(T,i), gradients of that norm at each step.

    `telescoping` with x_t = D_inf^2 up to T and 0 after it; `root_of_sum`; v_T by
    `moving_average`, whose weights sum to 1 - beta^T, 1 at most.
    """
    bound, n = steps.telescoping(3)[1], 3
    last = sp.Symbol(f"a{n}")
    away = {sp.Symbol(f"x{i}"): D_inf**2 for i in range(1, n + 1)} | {sp.Symbol(f"x{n + 1}"): 0}
    ones = {sp.Symbol(f"g{i}"): 1 for i in range(1, n + 1)}
    weight = steps.moving_average(n)[0].subs(ones).subs(beta, 0)
    roots = sp.sqrt(steps.sum_over_norm(d) * weight) * norm  # sum_i sqrt(v_T,i)
    return sp.expand(bound.subs(away)).subs(last, steps.drift_factor(roots, eta / sp.sqrt(T)))


def second_term(norm: sp.Expr) -> sp.Expr:
    """Sum over t and i of eta_t g^2 / (2 sqrt v), gradients of that norm at each step.

    `entry_of_second_term` has a root of t where the step has it; `inverse_roots` sums over t,
    sum_i |g_i| <= sqrt d ||g|| (`root_of_sum`) over i.
    """
    g = sp.Symbol("g", positive=True)
    entry = steps.entry_of_second_term()[0]  # g^2 / sqrt(t v)
    factor = sp.simplify(entry * sp.sqrt(t) / g) * steps.square_factor(sp.Integer(1), eta)
    entries = sp.sqrt(steps.sum_over_norm(d)) * norm
    return factor * steps.inverse_root_sum(T) * entries


def weight_floor() -> sp.Expr:
    """<H'(w - w^), w - w*> <= ||w - w^||_H' ||w - w*||_H' (`cauchy_schwarz`), with H' <= L.

    ||w - w^||^2 is at most W^2 of entries outside the codes and `floor_inside` for d inside.
    """
    inside = steps.floor_inside()[0]
    return sp.sqrt(L * (W**2 + d * inside**2)) * sp.sqrt(L) * D


def _average(enlarged: sp.Expr) -> sp.Expr:
    """Both terms of the sum, with E||g~||^2 = R G^2 at each step, over T; and the floor."""
    norm = steps.expected_norm(enlarged * G**2)
    return (first_term(norm) + second_term(norm)) / T + weight_floor()


def _printed_average(enlarged: sp.Expr) -> sp.Expr:
    K = D_inf**2 / (2 * eta) + eta * G_inf / sp.sqrt(1 - beta)
    floor = L * D * sp.sqrt(D**2 + d * alpha**2 * Delta_w**2 / 4)
    return K * G * sp.sqrt(d / T) * sp.sqrt(enlarged) + floor


def _at(enlarged: sp.Expr) -> sp.Expr:
    return enlarged.subs(gradients.Delta, Delta_g)
