"""Theorems put together by sympy are what is printed, but for the three gaps, and what code has."""

import dataclasses
import math

import pytest
import sympy as sp

from theory import gradient_quantization as gq
from theory import regret_derivation as derive
from theory import regret_theorems as theorems
from theory.regret import Constants, rate, theorem1, theorem2, theorem3, weight_floor

GAPS = {derive.G_inf: 1, derive.W: derive.D}
VALUES = {
    derive.d: 100, derive.T: 400, derive.eta: sp.Rational(1, 2), derive.beta: sp.Rational(3, 4),
    derive.G: 3, derive.G_inf: 2, derive.D: 7, derive.D_inf: sp.Rational(3, 2), derive.L: 4,
    derive.W: 6, derive.alpha: sp.Rational(3, 10), derive.c: 2, derive.Delta_w: sp.Rational(1, 3),
    derive.Delta_g: 1, derive.sigma: sp.Rational(1, 5), theorems.lost: sp.Rational(9, 10),
}  # fmt: skip
AT = Constants(
    d=100, steps=400, eta=0.5, beta=0.75, gradient=3.0, gradient_inf=2.0, diameter=7.0,
    diameter_inf=1.5, smoothness=4.0, weight_norm=6.0, scale=0.3, weight_bits=3,
)  # fmt: skip


@pytest.mark.parametrize("theorem", [theorems.theorem1, theorems.theorem3], ids=["1", "3"])
def test_but_for_the_gaps(theorem):
    """Equal once G_inf is 1 and the origin in S lets D stand for the norm of w.

    Kills: regret_derivation.py: inverse_root_sum without its 2; drift_factor without its 2;
    expected_norm squared; sum_over_norm as 1.
    """
    derived, printed = theorem()
    gap = (derived - printed).subs(GAPS).subs(VALUES)
    assert abs(gap.evalf(40)) < 1e-30  # a true zero of 40 digits, terms up to 10^4
    if theorem is theorems.theorem1:
        assert sp.simplify((derived - printed).subs(GAPS)) == 0
    assert float(sp.diff(printed, derive.G_inf).subs(VALUES)) > 0  # above for larger gradients


def test_theorem2_but_for_the_constant():
    """Proposition 1's constant is the only other difference, and the derived one is smaller."""
    derived, printed = theorems.theorem2()
    gaps = {**GAPS, derive.alpha: 0, derive.L: 0, derive.T: 1}
    for d in (1, 2, 100, 10**6):
        for k in (1, 3, 7):
            at = {**gaps, derive.d: d, derive.Delta_g: sp.Rational(1, k), derive.eta: 1,
                  derive.beta: 0, derive.D: 1, derive.D_inf: 1, derive.G: 1}  # fmt: skip
            assert float(derived.subs(at)) < float(printed.subs(at))


def test_code_computes_the_derived_forms():
    for pair, code in [
        (theorems.theorem1(), lambda form: theorem1(AT, form)),
        (theorems.theorem2(), lambda form: theorem2(AT, 2, form)),
    ]:
        for expression, form in zip(pair, ("corrected", "printed"), strict=True):
            assert code(form).total == pytest.approx(float(expression.subs(VALUES)), rel=1e-12)
    printed = float(theorems.theorem3()[1].subs(VALUES))
    assert theorem3(AT, 2, 2.0, 0.2).total == pytest.approx(printed, rel=1e-12)


@pytest.mark.parametrize(
    ("bits", "c", "d", "branch"), [(2, 1, 100, 0), (3, 2, 100, 0), (2, 4, 100, 1), (2, 4, 9, 2)]
)
def test_corrected_theorem3(bits, c, d, branch):
    """Every branch: c Delta below 2, above, and few enough weights for the sharp constant.

    Kills: regret.py: proposition2 for clipped_worst; the printed loss for the measured one.
    """
    values = {
        **VALUES,
        derive.d: d,
        derive.c: c,
        derive.Delta_g: sp.Rational(1, 2 ** (bits - 1) - 1),
    }
    forms = [float(e.subs(values)) for e in theorems.theorem3_any_gradient()]
    at = dataclasses.replace(AT, d=d)
    got = theorem3(at, bits, float(c), 0.2, "corrected", 0.9)
    assert got.total == pytest.approx(forms[branch], rel=1e-12)
    assert got.clip == pytest.approx(7 * 0.9)
    assert (branch == 2) == (gq.sharp_enlargement(d, bits) < gq.clipped_worst(bits, c))


def test_by_hand():
    """K, floor and speed of the constants above, from the formulas of the docstrings."""
    assert rate(AT, "printed") == 1.5**2 / 1 + 0.5 * 2 / 0.5
    assert rate(AT, "corrected") == 1.5**2 / 1 + 0.5 / 0.5
    assert theorem1(AT).speed == pytest.approx(4.25 * 3 * math.sqrt(100 / 400))
    inside = 100 * 0.3**2 / 9 / 4
    assert weight_floor(AT, "printed") == pytest.approx(4 * 7 * math.sqrt(49 + inside))
    assert weight_floor(AT, "corrected") == pytest.approx(4 * 7 * math.sqrt(36 + inside))
