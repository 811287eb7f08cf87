"""What sympy derives is what Lemma 3 and Propositions 1-3 print, and what the code computes."""

import pytest
import sympy as sp

from theory import gradient_quantization as gq
from theory import gradient_quantization_derivation as derive

PAIRS = [
    derive.unbiased, derive.cell_variance, derive.lemma3_gap, derive.norm_ratio,
    derive.norm_ratio_gap, derive.sharp_enlargement, derive.gaussian_absolute,
    derive.proposition2, derive.clip_bias, derive.clipped_absolute, derive.workers,
]  # fmt: skip


@pytest.mark.parametrize("pair", PAIRS, ids=lambda f: f.__name__)
def test_pairs(pair):
    derived, printed = pair()
    # one name for erf and 1 - erfc: whether simplify sees that they are one varies between runs
    assert sp.simplify((derived - printed).rewrite(sp.erf)) == 0


def test_derived_is_what_the_code_computes():
    """Every closed form at rational points, from its sympy expression."""
    at = {derive.d: 1600, derive.Delta: sp.Rational(1, 3), derive.c: 2}
    for expression, value in [
        (derive.norm_ratio()[0], gq.norm_ratio(1600)),
        (derive.proposition1()[0], gq.lemma3_enlargement(1600, 3)),
        (derive.proposition1()[1], gq.proposition1(1600, 3)),
        (derive.sharp_enlargement()[0], gq.sharp_enlargement(1600, 3)),
        (derive.proposition2()[0], gq.proposition2(3, 2)),
        (derive.clip_bias()[0], gq.clip_bias(2)),
        (2 * derive.clipped_absolute()[0], gq.clipped_enlargement(2, 2)),
    ]:
        assert value == pytest.approx(float(expression.subs(at)), rel=1e-13)


def test_clipped_worst():
    derived, printed = derive.clipped_worst()
    assert [sp.simplify(a - b) for a, b in zip(derived, printed, strict=True)] == [0, 0]
    for c, branch in ((1, 0), (2, 0), (2, 1), (3, 1)):  # the branches meet at 2
        exact = derived[branch].subs({derive.c: c, derive.Delta: 1})
        assert gq.clipped_worst(2, c) == pytest.approx(float(exact), rel=1e-15)
