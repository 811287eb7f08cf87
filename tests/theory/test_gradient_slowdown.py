"""The published slow-down under SGD, its absence under RMSProp, and the reason given for both."""

import dataclasses

import numpy as np
import pytest

from theory.convex_lab import Lab, run
from theory.gradient_slowdown import compare, steps_until, tuned

TASK = Lab(d=64, steps=600, batch=16, gradients=2, replicas=4, radius=10.0)


def test_sgd_is_slower():
    """With the step tuned for full precision; R is about 2, and (1 + R) / 2 is the bound's."""
    best = tuned(
        dataclasses.replace(TASK, optimizer="sgd", gradients=None), etas=(1.0, 1.8, 3.2, 5.6)
    )
    got = compare(dataclasses.replace(TASK, optimizer="sgd", eta=best.eta))
    assert 1.8 < got.enlargement < 2.2
    assert got.regret > (1 + got.enlargement) / 2
    level = got.full.curve[149]
    slower = steps_until(got.quantized.curve, level)
    assert slower is None or slower > 1.5 * 150


def test_rmsprop_absorbs_the_norm():
    """Step .03: no slower; a full-precision step less by sqrt R gains as well, and more."""
    got = compare(dataclasses.replace(TASK, eta=0.03))
    assert got.regret < 1.1
    less = dataclasses.replace(TASK, gradients=None, eta=0.03 / got.enlargement**0.5)
    assert run(less).mean_regret < 0.8 * got.full.mean_regret


def test_rmsprop_is_slower_with_short_steps():
    """At .005 the step is the limit, and sqrt R of it is lost: at least that of the regret."""
    got = compare(dataclasses.replace(TASK, eta=0.005))
    assert got.regret > got.enlargement**0.5


@pytest.mark.parametrize(
    ("curve", "level", "expected"),
    [
        ([3, 2, 1], 2, 2), ([3, 2, 1], 0.5, None), ([1, 1], 1, 1), ([1, 3, 1, 1], 1, 3),
        ([1, np.nan], 1, None), ([np.nan, 1], 1, 2),
    ],
)  # fmt: skip
def test_steps_until(curve, level, expected):
    assert steps_until(np.array(curve, float), level) == expected
