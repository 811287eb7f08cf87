"""Four runs that lie above the printed bounds of [hou2019analysis, Thm. 1], for its three gaps.

Every f_t is convex, twice differentiable, smooth and has bounded gradients, S is a box: all that
assumptions A1-A3 ask. Gradients are in full precision, so that Theorems 2 and 3 fall with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from theory import regret
from theory.convex_lab import Lab
from theory.convex_problem import Best
from theory.convex_trace import Trace
from theory.loss_aware import Quantized, binary, curvature
from theory.regret import Bound, Constants


class Witness(NamedTuple):
    """Average regret R(T) / T, and the bounds of Theorem 1 or the sums that they are made of."""

    regret: float
    printed: Bound
    corrected: Bound


def rmsprop(
    gradient: Callable[[int, np.ndarray], np.ndarray], start: np.ndarray, low: np.ndarray,
    high: np.ndarray, *, steps: int, eta: float, beta: float, weights: int | None = None,
) -> tuple[np.ndarray, float]:  # fmt: skip
    """Iterates w_t (T, d) and the largest alpha; gradient(t, Q_w(w_t)), t = 1..T, is (d,).

    weights: 1 for LAB, None for no quantization.
    """
    w, v, path, largest = np.array(start, float), np.zeros(len(start)), [], 0.0
    for t in range(1, steps + 1):
        path.append(w)
        quantized = Quantized(np.ones(()), w) if weights is None else binary(w, curvature(v))
        largest = max(largest, float(quantized.scale))
        g = gradient(t, quantized.weights)
        v = beta * v + (1 - beta) * g**2
        step = np.divide(g, np.sqrt(v), out=np.zeros_like(g), where=v > 0)
        w = np.clip(w - eta / math.sqrt(t) * step, low, high)
    return np.array(path), largest


def falling_second_moment(steps: int = 30_000, large: float = 3.0) -> Witness:
    """Gap 1: linear losses of slope C, -1, -1 in turn on [-1, 1], beta = 1 / (1 + C^2).

    The sequence of Reddi, Kale and Kumar (ICLR 2018, Sec. 3) for Adam without momentum. After each
    C the small slopes take larger steps, since v forgets C at once, and w goes to 1 where -1 is
    best. The regret is at least (C - 2) 2/3 per step in the end; the printed bound, its floor
    being 0 for L = 0, falls as 1 / sqrt T.
    """
    slopes = np.where(np.arange(1, steps + 1) % 3 == 1, large, -1.0)
    beta = 1 / (1 + large**2)
    path, _ = rmsprop(
        lambda t, w: slopes[t - 1 : t], [1.0], np.array([-1.0]), np.array([1.0]),
        steps=steps, eta=1.0, beta=beta,
    )  # fmt: skip
    best = -np.sign(slopes.sum())
    at = Constants(
        d=1, steps=steps, eta=1.0, beta=beta, gradient=large, gradient_inf=large, diameter=2.0,
        diameter_inf=2.0, smoothness=0.0, weight_norm=1.0,
    )  # fmt: skip
    return _witness(float(slopes @ (path[:, 0] - best)) / steps, at)


def small_gradients(steps: int = 400, size: float = 1e-3, beta: float = 0.999) -> Witness:
    """Gap 2: linear losses of slope +size, -size in turn on [-1, 1], with a large step.

    eta = 2 sqrt T crosses the box at every step: w is at -1 when the slope is negative, at 1 when
    it is positive, and each step loses `size`. sqrt(t v_t) rises throughout. RMSProp does not see
    the scale of the losses, and regret has it once: of the printed K the term eta G_inf has it too
    often and is far too small here.
    """
    slopes = size * np.where(np.arange(steps) % 2 == 0, 1.0, -1.0)
    eta = 2 * math.sqrt(steps)
    path, _ = rmsprop(
        lambda t, w: slopes[t - 1 : t], [1.0], np.array([-1.0]), np.array([1.0]),
        steps=steps, eta=eta, beta=beta,
    )  # fmt: skip
    lost = float(slopes @ path[:, 0]) + abs(float(slopes.sum()))
    at = Constants(
        d=1, steps=steps, eta=eta, beta=beta, gradient=size, gradient_inf=size, diameter=2.0,
        diameter_inf=2.0, smoothness=0.0, weight_norm=1.0,
    )  # fmt: skip
    return _witness(lost / steps, at)


def shrinking_gradients(steps: int = 100) -> tuple[Witness, Witness]:
    """Gap 2 with G_inf = 1: linear losses of slope +-1 / sqrt t in turn on [-1/2, 1/2], beta = 0.

    With eta = 1 a step is 1 / sqrt t against the sign of the slope, so that w is on its wrong side
    when the next one comes. sqrt(t v_t) = 1 throughout. The lemma has 2 sqrt(sum 1/t) for
    sum 1/t. Only the sums fail: with its norms replaced by constants the printed bound holds.

    Returns:
      The witness with the averaged bounds, and the one with the sums.
    """
    t = np.arange(1, steps + 1)
    slopes = np.where(t % 2 == 1, 1.0, -1.0) / np.sqrt(t)
    lab = Lab(d=1, steps=steps, eta=1.0, beta=0.0, radius=0.5)
    path, _ = rmsprop(
        lambda t, w: slopes[t - 1 : t], [0.5], np.array([-0.5]), np.array([0.5]),
        steps=steps, eta=lab.eta, beta=lab.beta,
    )  # fmt: skip
    best = -0.5 * np.sign(slopes.sum())
    trace = Trace(lab, Best(w=np.array([best]), value=best * slopes.mean(), gap=0.0), replicas=1)
    trace.sent_square[:] = slopes**2
    for i, v in zip(t, slopes**2, strict=True):  # v_t = g_t^2 for beta = 0
        trace.second_moment(i, np.array([[v]]))
    at = Constants(
        d=1, steps=steps, eta=1.0, beta=0.0, gradient=1.0, gradient_inf=1.0, diameter=1.0,
        diameter_inf=1.0, smoothness=0.0, weight_norm=0.5,
    )  # fmt: skip
    averaged = _witness(float(slopes @ (path[:, 0] - best)) / steps, at)
    sums = (trace.sums(lab, at, "printed"), trace.sums(lab, at, "corrected"))
    return averaged, Witness(averaged.regret, *sums)


def far_from_origin(steps: int = 10_000, radius: float = 0.01, steep: float = 10.0) -> Witness:
    """Gap 3: one quadratic of curvature `steep`, LAB weights, S a small box around (1, 1, 1, 9).

    alpha = 3 loses 48 in ||w - Q_w(w)||^2; the printed D^2 + d alpha^2 / 4 is 9. f has its minimum
    outside the box, nearer to Q_w(w) than to w in every coordinate: at Q_w(w) the gradient points
    the wrong way, by 0.2 steep, and w goes to the worst corner. beta = 1 - 1/T: v rises.
    """
    centre = np.array([1.0, 1.0, 1.0, 9.0])
    low, high = centre - radius, centre + radius
    error = centre - binary(centre, np.ones(4)).weights  # (-2, -2, -2, 6)
    minimum = centre - error + 0.2 * np.sign(error)
    eta, beta = radius, 1 - 1 / steps
    path, scale = rmsprop(
        lambda t, w: steep * (w - minimum), centre, low, high, steps=steps, eta=eta, beta=beta,
        weights=1,
    )  # fmt: skip
    best = np.clip(minimum, low, high)

    def loss(w):
        return steep * ((w - minimum) ** 2).sum(-1) / 2

    largest = steep * (0.2 + 4 * radius)  # Q_w(w) moves by less than 4 radii
    at = Constants(
        d=4, steps=steps, eta=eta, beta=beta, gradient=2 * largest, gradient_inf=largest,
        diameter=4 * radius, diameter_inf=2 * radius, smoothness=steep,
        weight_norm=float(np.linalg.norm(high)), scale=scale, weight_bits=1,
    )  # fmt: skip
    return _witness(float((loss(path) - loss(best)).mean()), at)


def _witness(measured: float, at: Constants) -> Witness:
    return Witness(measured, regret.theorem1(at), regret.theorem1(at, "corrected"))
