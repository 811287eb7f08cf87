"""Online convex problems with known constants: linear and logistic regression on drawn data.

f_t(w) is the mean loss of the samples of step t, of all workers. Both losses are convex, twice
differentiable and smooth, as assumptions A1 and A2 of [hou2019analysis] ask; S is the box
[-radius, radius]^d, onto which clipping projects in every diagonal norm.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

Loss = Literal["linear", "logistic"]
MAX_NUMBERS = 2**26  # of inputs held, half a gigabyte


class Problem(NamedTuple):
    """Data of T steps: `x` (T, N, B, d), `y` (T, N, B) for N workers with B samples each."""

    loss: Loss
    x: np.ndarray
    y: np.ndarray
    truth: np.ndarray  # (d,) the parameter that the data were drawn with


class Best(NamedTuple):
    """The best fixed parameter in the box, `w` (d,), its mean loss, and how far that may be off.

    For convex f the minimum is at least `value` - `gap`, gap = max over u in the box of
    <grad f(w), w - u>.
    """

    w: np.ndarray
    value: float
    gap: float


def draw(
    loss: Loss, *, d: int, steps: int, workers: int, batch: int, scale: float, noise: float,
    seed: int,
) -> Problem:  # fmt: skip
    """Data as in the paper's synthetic experiment: truth ~ U[-.5, .5]^d, x ~ scale U[-.5, .5]^d.

    linear: y ~ N(x^T truth, noise^2). logistic: y = +-1, P(y = 1) = 1 / (1 + exp(-x^T truth)).

    Raises:
      ValueError: loss unknown; more than 2^26 inputs.
    """
    if steps * workers * batch * d > MAX_NUMBERS:
        raise ValueError(f"{steps * workers * batch * d} inputs: give fewer steps, samples or d")
    rng = np.random.default_rng(seed)
    truth = rng.uniform(-0.5, 0.5, d)
    x = scale * rng.uniform(-0.5, 0.5, (steps, workers, batch, d))
    mean = x @ truth
    if loss == "linear":
        return Problem(loss, x, mean + noise * rng.standard_normal(mean.shape), truth)
    if loss == "logistic":
        positive = rng.random(mean.shape) < _sigmoid(mean)
        return Problem(loss, x, np.where(positive, 1.0, -1.0), truth)
    raise ValueError(f"loss is {loss!r}: give linear or logistic")


def losses(problem: Problem, t: int, w: np.ndarray) -> np.ndarray:
    """f_t(w), (S,), for w (S, d)."""
    x, y = problem.x[t], problem.y[t]
    mean = w @ x.reshape(-1, x.shape[-1]).T
    return _values(problem.loss, mean, y.ravel()).mean(-1)


def gradients(problem: Problem, t: int, w: np.ndarray) -> np.ndarray:
    """Each worker's gradient of its own mean loss, (S, N, d), for w (S, d)."""
    x, y = problem.x[t], problem.y[t]
    mean = (w @ x.reshape(-1, x.shape[-1]).T).reshape(-1, *y.shape)  # (S, N, B)
    slope = _slopes(problem.loss, mean, y) / y.shape[-1]
    return np.matmul(slope[:, :, None, :], x)[:, :, 0, :]


def smoothness(problem: Problem) -> float:
    """L: the largest eigenvalue of any f_t's Hessian; logistic, of its bound X^T X / (4 n)."""
    steps, _, _, d = problem.x.shape
    x = problem.x.reshape(steps, -1, d)
    n = x.shape[1]
    gram = (x[t] @ x[t].T if n < d else x[t].T @ x[t] for t in range(steps))
    largest = max(np.linalg.eigvalsh(g)[-1] for g in gram)
    return float(largest) / n / (4 if problem.loss == "logistic" else 1)


def best_fixed(problem: Problem, radius: float, iterations: int = 100) -> Best:
    """w* of the regret: the minimum of the mean loss over all steps in the box, by Newton steps.

    Coordinates at the border stay there while the gradient points outward; steps are halved until
    the loss falls. It ends when the gap is below 1e-13 of the loss, or nothing falls any more.
    """
    d = problem.x.shape[-1]
    x, y = problem.x.reshape(-1, d), problem.y.ravel()
    w = np.clip(problem.truth, -radius, radius)
    for _ in range(iterations):
        mean = x @ w
        value = float(_values(problem.loss, mean, y).mean())
        slope = x.T @ _slopes(problem.loss, mean, y) / y.size
        gap = float((slope * w + radius * np.abs(slope)).sum())
        if gap <= 1e-13 * abs(value):
            break
        free = (np.abs(w) < radius) | (slope * w > 0)
        if not free.any():
            break
        weight = _curvatures(problem.loss, mean)[:, None]
        hessian = x[:, free].T @ (weight * x[:, free]) / y.size
        step = np.linalg.lstsq(hessian, slope[free], rcond=None)[0]
        w, lower = _descend(problem.loss, x, y, w, free, step, radius, value)
        if not lower:
            break
    return Best(w, value, gap)


def _descend(loss, x, y, w, free, step, radius, value):
    for power in range(40):
        new = w.copy()
        new[free] = np.clip(w[free] - step / 2**power, -radius, radius)
        if _values(loss, x @ new, y).mean() < value:
            return new, True
    return w, False


def _values(loss: Loss, mean: np.ndarray, y: np.ndarray) -> np.ndarray:
    if loss == "linear":
        return (mean - y) ** 2 / 2
    return np.logaddexp(0.0, -y * mean)


def _slopes(loss: Loss, mean: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Derivative of the loss by x^T w."""
    if loss == "linear":
        return mean - y
    return -y * _sigmoid(-y * mean)


def _curvatures(loss: Loss, mean: np.ndarray) -> np.ndarray:
    if loss == "linear":
        return np.ones_like(mean)
    return _sigmoid(mean) * _sigmoid(-mean)


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0.0, -z))
