"""What sympy derives is what the theorems print, but for the three gaps; and what the code has."""

import math

import pytest
import sympy as sp

from theory import regret_derivation as derive
from theory.regret import Constants, rate, theorem1, theorem2, theorem3, weight_floor

PAIRS = [
    derive.step_identity, derive.monotone, derive.entry_of_second_term, derive.published_lemma,
    derive.inverse_roots, derive.mean_value, derive.cauchy_schwarz, derive.floor_inside,
    derive.best_step,
]  # fmt: skip


@pytest.mark.parametrize("pair", PAIRS, ids=lambda f: f.__name__)
def test_pairs(pair):
    derived, printed = pair()
    assert sp.simplify(derived - printed) == 0


@pytest.mark.parametrize("pair", [derive.telescoping, derive.moving_average, derive.root_of_sum])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_sums(pair, n):
    derived, printed = pair(n)
    assert derived == printed


def test_published_lemma_for_shrinking_gradients():
    """Exactly sqrt(sum 1/t) / 2: true up to T = 30, false from there."""
    for steps, fails in ((1, False), (30, False), (31, True), (100, True)):
        derived, printed = derive.published_lemma_shrinking(steps)
        assert abs((derived - printed).evalf(30)) < 1e-25
        assert (derived.evalf() > 1) == fails


def test_sgd_slowdown():
    derived, printed = derive.sgd_slowdown()
    assert [sp.simplify(a - b) for a, b in zip(derived, printed, strict=True)] == [0, 0]


@pytest.mark.parametrize("theorem", [derive.theorem1, derive.theorem3], ids=lambda f: f.__name__)
def test_theorems_but_for_the_gaps(theorem):
    """Equal once G_inf is 1 and the origin in S lets D stand for the norm of w."""
    derived, printed = theorem()
    gaps = {derive.G_inf: 1, derive.W: derive.D}
    assert sp.simplify(derived.subs(gaps) - printed.subs(gaps)) == 0
    assert float(sp.diff(printed, derive.G_inf).subs(VALUES)) > 0  # above for larger gradients


def test_theorem2_but_for_the_constant():
    """Proposition 1's constant is the only other difference, and the derived one is smaller."""
    derived, printed = derive.theorem2()
    gaps = {derive.G_inf: 1, derive.W: derive.D, derive.alpha: 0, derive.L: 0, derive.T: 1}
    for d in (1, 2, 100, 10**6):
        for k in (1, 3, 7):
            at = {**gaps, derive.d: d, derive.Delta_g: sp.Rational(1, k), derive.eta: 1,
                  derive.beta: 0, derive.D: 1, derive.D_inf: 1, derive.G: 1}  # fmt: skip
            assert float(derived.subs(at)) < float(printed.subs(at))


def test_binary_floor_is_half():
    derived, printed = derive.floor_binary()
    assert sp.simplify(derived / printed) == 2


VALUES = {
    derive.d: 100, derive.T: 400, derive.eta: 0.5, derive.beta: 0.75, derive.G: 3, derive.G_inf: 2,
    derive.D: 7, derive.D_inf: 1.5, derive.L: 4, derive.W: 6, derive.alpha: 0.3, derive.c: 2,
    derive.Delta_w: sp.Rational(1, 3), derive.Delta_g: 1, derive.sigma: 0.2,
}  # fmt: skip
AT = Constants(
    d=100, steps=400, eta=0.5, beta=0.75, gradient=3.0, gradient_inf=2.0, diameter=7.0,
    diameter_inf=1.5, smoothness=4.0, weight_norm=6.0, scale=0.3, weight_bits=3,
)  # fmt: skip


def test_code_computes_the_derived_forms():
    f = sp.Symbol("F", positive=True)
    clip = -2 * sp.exp(-2) + sp.sqrt(sp.pi / 2) * 5 * (1 - sp.erf(sp.sqrt(2)))  # F(2)
    values = {**VALUES, f: clip}
    for pair, code in [
        (derive.theorem1(), lambda form: theorem1(AT, form)),
        (derive.theorem2(), lambda form: theorem2(AT, 2, form)),
    ]:
        for expression, form in zip(pair, ("corrected", "printed"), strict=True):
            assert code(form).total == pytest.approx(float(expression.subs(values)), rel=1e-12)
    printed = float(derive.theorem3()[1].subs(values))
    assert theorem3(AT, 2, 2.0, 0.2).total == pytest.approx(printed, rel=1e-12)


def test_by_hand():
    """K, floor and speed of the constants above, from the formulas of the docstrings."""
    assert rate(AT, "printed") == 1.5**2 / 1 + 0.5 * 2 / 0.5
    assert rate(AT, "corrected") == 1.5**2 / 1 + 0.5 / 0.5
    assert theorem1(AT).speed == pytest.approx(4.25 * 3 * math.sqrt(100 / 400))
    inside = 100 * 0.3**2 / 9 / 4
    assert weight_floor(AT, "printed") == pytest.approx(4 * 7 * math.sqrt(49 + inside))
    assert weight_floor(AT, "corrected") == pytest.approx(4 * 7 * math.sqrt(36 + inside))
