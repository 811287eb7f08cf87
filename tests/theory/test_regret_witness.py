"""Runs above the printed bounds, each by one gap alone; what is corrected stays above them."""

import numpy as np
import pytest

from theory import regret_witness as witness


def test_falling_second_moment():
    """Gap 1: 2/3 (C - 2) per step in the end, and no bound that falls as 1 / sqrt T can hold."""
    got = witness.falling_second_moment()
    assert got.regret == pytest.approx(2 / 3, rel=0.02)  # the first steps: O(1 / sqrt T)
    assert got.regret > 7 * got.printed.total
    assert got.regret > got.corrected.total  # K is no remedy; only a monotone v is
    shorter = witness.falling_second_moment(steps=3000)
    assert got.regret > 2 / 3
    assert shorter.regret > 2 / 3
    assert got.printed.total < shorter.printed.total / 3


@pytest.mark.parametrize("size", [1e-3, 1e-6])
def test_small_gradients(size):
    """Gap 2: regret has the scale of the losses once; the corrected K has no G_inf."""
    got = witness.small_gradients(size=size)
    assert got.regret == pytest.approx(size, rel=1e-12)
    assert got.printed.total < got.regret / 10
    assert got.regret <= got.corrected.total


def test_no_gap_for_large_gradients():
    """The same run with slopes of 1: the printed bound holds."""
    got = witness.small_gradients(size=1.0)
    assert got.regret <= got.printed.total


@pytest.mark.parametrize("steps", [31, 100, 10_000])
def test_shrinking_gradients(steps):
    """Gap 2 with G_inf = 1: the printed sums are too low; the corrected ones, and the averaged
    printed bound, hold. Kills: convex_trace.py: 2 G_inf for sqrt(sum 1/t) in the corrected sums.
    """
    averaged, sums = witness.shrinking_gradients(steps)
    assert averaged.regret <= averaged.printed.total
    assert sums.regret <= sums.corrected.total
    inverse = sum(1 / t for t in range(1, steps + 1))
    assert sums.printed.total * steps == pytest.approx(0.5 + inverse**0.5, rel=1e-12)
    assert sums.corrected.total * steps == pytest.approx(0.5 + inverse / 2, rel=1e-12)
    assert (sums.regret > sums.printed.total) == (steps >= 100)


def test_far_from_origin():
    """Gap 3, with G_inf above 1 and T = 1 / (1 - beta): the floor alone is too low."""
    got = witness.far_from_origin()
    assert got.regret > 1.3 * got.printed.total
    assert got.regret <= got.corrected.total


def test_rmsprop_by_hand():
    """Two steps in one dimension: v = (1 - beta) g^2, then beta of it and more."""
    path, scale = witness.rmsprop(
        lambda t, w: np.array([float(t)]), [0.5], np.array([-9.0]), np.array([9.0]),
        steps=3, eta=0.1, beta=0.75,
    )  # fmt: skip
    first = 0.5 - 0.1 / 0.5
    second = first - 0.1 / np.sqrt(2) * 2 / np.sqrt(0.75 * 0.25 + 0.25 * 4)
    np.testing.assert_allclose(path[:, 0], [0.5, first, second], rtol=1e-15)
    assert scale == 1
