"""The steps that sympy derives, beside what each comes to; the lemma that is false."""

import pytest
import sympy as sp

from theory import regret_derivation as derive

PAIRS = [
    derive.step_identity, derive.monotone, derive.entry_of_second_term, derive.published_lemma,
    derive.inverse_roots, derive.jensen, derive.mean_value, derive.cauchy_schwarz,
    derive.floor_inside, derive.best_step,
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


def test_binary_floor_is_half():
    derived, printed = derive.floor_binary()
    assert sp.simplify(derived / printed) == 2
