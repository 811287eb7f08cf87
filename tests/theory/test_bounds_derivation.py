"""What sympy derives is what the docstrings print and what the code computes."""

from fractions import Fraction

import pytest
import sympy as sp

from qtrain.formats import Float
from theory import bounds_derivation as derive
from theory.rounding_error import unit

PAIRS = [
    derive.nearest_unit, derive.truncation_unit, derive.stochastic_unit, derive.growing_error,
    derive.best_chunk, derive.best_chunk_probabilistic, derive.stopped_error,
    derive.nearest_induction,
]  # fmt: skip


@pytest.mark.parametrize("pair", PAIRS, ids=lambda f: f.__name__)
def test_pairs(pair):
    derived, printed = pair()
    assert sp.simplify(derived - printed) == 0


@pytest.mark.parametrize("terms", [1, 2, 6])
def test_telescoping(terms):
    derived, printed = derive.telescoping(terms)
    assert derived == printed


def test_align():
    """No case loses more than the printed constant."""
    cases, printed = derive.align_unit()
    assert all(sp.simplify(case - printed).subs(derive.eps, e) <= 0 for case in cases
               for e in (1, sp.Rational(1, 8), sp.Rational(1, 2**21)))  # fmt: skip


@pytest.mark.parametrize("man", [0, 3, 9, 21])
def test_units_in_code(man):
    fmt = Float(6, man) if man < 21 else Float(8, man)
    for rounding, pair in [
        ("nearest", derive.nearest_unit), ("toward_zero", derive.truncation_unit),
        ("align", derive.align_unit), ("stochastic", derive.stochastic_unit),
    ]:  # fmt: skip
        value = sp.Rational(pair()[1].subs(derive.eps, sp.Rational(1, 2**man)))
        assert unit(fmt, rounding) == Fraction(int(value.p), int(value.q))
