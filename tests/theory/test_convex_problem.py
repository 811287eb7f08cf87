"""Losses, gradients, constants and best parameters of the laboratory's problems."""

import numpy as np
import pytest
from scipy.optimize import minimize

from theory import convex_problem
from theory.convex_problem import best_fixed, draw, gradients, losses, smoothness

LOSSES = ("linear", "logistic")


def problem(loss, **changes):
    sizes = {"d": 5, "steps": 40, "workers": 3, "batch": 4, "scale": 2.0, "noise": 0.2, "seed": 0}
    return draw(loss, **{**sizes, **changes})


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_is_the_slope(loss):
    """Central differences: h^2 / 6 of the third derivative (below 1 here), and eps / h."""
    p, h = problem(loss), 1e-5
    w = np.random.default_rng(1).uniform(-1, 1, (2, 5))
    mean = gradients(p, 3, w).mean(1)
    for i, unit in enumerate(np.eye(5)):
        slope = (losses(p, 3, w + h * unit) - losses(p, 3, w - h * unit)) / (2 * h)
        np.testing.assert_allclose(mean[:, i], slope, atol=h**2 + 2e-16 / h)
    alone = p._replace(x=p.x[:, 1:2], y=p.y[:, 1:2])  # a worker knows its own samples only
    np.testing.assert_allclose(gradients(p, 3, w)[:, 1], gradients(alone, 3, w)[:, 0], rtol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_convex_and_smooth(loss):
    """A1 and A2 along 200 pairs: 0 <= <g - g', w - w'> <= L ||w - w'||^2."""
    p, rng = problem(loss), np.random.default_rng(2)
    top, reached = smoothness(p), 0.0
    for t in range(40):
        a, b = rng.uniform(-2, 2, (2, 5, 5))
        rise = ((gradients(p, t, a) - gradients(p, t, b)).mean(1) * (a - b)).sum(-1)
        ratio = rise / ((a - b) ** 2).sum(-1)
        assert (ratio >= -1e-12).all()
        assert (ratio <= top * (1 + 1e-12)).all()
        reached = max(reached, ratio.max())
    assert reached > top / 10


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("radius", [0.1, 0.4, 5.0])
def test_best_fixed(loss, radius):
    """A certified gap, and no better parameter by another method or nearby."""
    p = problem(loss)
    best = best_fixed(p, radius)

    def mean(w):
        return float(np.mean([losses(p, t, w[None])[0] for t in range(40)]))

    assert 0 <= best.gap <= 1e-9 * best.value
    assert np.abs(best.w).max() <= radius
    assert mean(best.w) == pytest.approx(best.value, rel=1e-12)
    other = minimize(mean, np.zeros(5), method="L-BFGS-B", bounds=[(-radius, radius)] * 5)
    assert other.fun >= best.value - best.gap - 1e-12
    assert other.fun == pytest.approx(best.value, rel=1e-6)
    rng = np.random.default_rng(3)
    for w in np.clip(best.w + 0.1 * rng.standard_normal((20, 5)), -radius, radius):
        assert mean(w) >= best.value - best.gap - 1e-12


def test_data():
    """The truth in [-.5, .5], inputs in scale times that; labels of logistic as often as asked."""
    p = problem("linear", steps=4000, scale=4.0)
    assert np.abs(p.truth).max() <= 0.5
    assert np.abs(p.x).max() <= 2
    rest = p.y - p.x @ p.truth
    assert rest.std() == pytest.approx(0.2, abs=4 * 0.2 / np.sqrt(2 * rest.size))
    p = problem("logistic", steps=4000)
    chance = 1 / (1 + np.exp(-p.x @ p.truth))
    off = (p.y > 0) - chance
    assert abs(off.mean()) <= 4 * np.sqrt((chance * (1 - chance)).mean() / off.size)
    assert set(np.unique(p.y)) == {-1.0, 1.0}


def test_bad_input():
    with pytest.raises(ValueError, match="loss is 'hinge': give linear or logistic"):
        problem("hinge")
    with pytest.raises(ValueError, match="give fewer steps"):
        problem("linear", d=10**6, steps=10**3)
    assert convex_problem.MAX_NUMBERS == 2**26
