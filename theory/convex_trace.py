"""What a run of `convex_lab` adds up: losses, norms, distances, and the sums inside the bounds."""

from __future__ import annotations

import math

import numpy as np

from theory import convex_problem
from theory import gradient_quantization as gq
from theory.convex_problem import Best, Problem
from theory.loss_aware import Quantized
from theory.regret import Bound, Constants, Form


class Trace:
    """Filled step by step, t = 1..T; S replicas. Expectations are means over replicas."""

    def __init__(self, lab, best: Best, replicas: int):
        steps = lab.steps
        self.best = best
        self.losses = np.zeros((steps, replicas))  # f_t(w_t)
        self.best_losses = np.zeros(steps)  # f_t(w*)
        self.quantized_losses = np.zeros(steps)  # E f_t(Q_w(w_t))
        self.sent_square = np.zeros(steps)  # E||g~_t||^2
        self.exact_square = np.zeros(steps)  # E||g^_t||^2
        self.weight_error = np.zeros(steps)  # E||w_t - Q_w(w_t)||_H'
        self.clip_error = np.zeros(steps)  # sqrt(E||Clip(g^_t) - g^_t||^2)
        self.gradient = self.gradient_inf = self.sigma = 0.0
        self.diameter = self.diameter_inf = self.weight_norm = self.scale = 0.0
        self.monotone, self.variation = True, 0.0
        self._root = np.zeros((replicas, lab.d))  # sqrt(t v_t)

    def before(
        self, problem: Problem, t: int, w: np.ndarray, quantized: Quantized, exact: np.ndarray,
        clipped: np.ndarray, sent: np.ndarray,
    ) -> None:  # fmt: skip
        """Records step t. w (S, d); exact, clipped (S, N, d) of each worker; sent (S, d), mean."""
        i, w_hat, g = t - 1, quantized.weights, exact.mean(1)
        self.losses[i] = convex_problem.losses(problem, i, w)
        self.best_losses[i] = convex_problem.losses(problem, i, self.best.w[None])[0]
        self.quantized_losses[i] = convex_problem.losses(problem, i, w_hat).mean()
        self.sent_square[i] = (sent**2).sum(-1).mean()
        self.exact_square[i] = (g**2).sum(-1).mean()
        # H'(w - w^) = g_t - g^_t, so that ||w - w^||_H'^2 is its product with w - w^
        shift = convex_problem.gradients(problem, i, w).mean(1) - g
        self.weight_error[i] = np.sqrt(np.maximum((shift * (w - w_hat)).sum(-1), 0.0)).mean()
        self.clip_error[i] = math.sqrt(((clipped.mean(1) - g) ** 2).sum(-1).mean())
        self._maxima(w, quantized, exact)

    def _maxima(self, w: np.ndarray, quantized: Quantized, exact: np.ndarray) -> None:
        away = w - self.best.w
        for name, value in (
            ("gradient", np.sqrt((exact**2).sum(-1)).max()),
            ("gradient_inf", np.abs(exact).max()),
            ("sigma", exact.std(-1).max()),
            ("diameter", np.sqrt((away**2).sum(-1)).max()),
            ("diameter_inf", np.abs(away).max()),
            ("weight_norm", np.sqrt((w**2).sum(-1)).max()),
            ("scale", quantized.scale.max()),
        ):
            setattr(self, name, max(getattr(self, name), float(value)))

    def second_moment(self, t: int, v: np.ndarray) -> None:
        """Records v_t (S, d): what sqrt(t v_t) rises by, in sum, and whether it ever falls.

        A fall by rounding, below 4 ulps, does not count.
        """
        root = np.sqrt(t * v)
        self.monotone &= bool((root >= self._root * (1 - 2.0**-50)).all())
        self.variation += float(np.maximum(root - self._root, 0.0).sum(-1).mean())
        self._root = root

    @property
    def enlargement(self) -> float:
        """Sum E||g~_t||^2 / sum E||g^_t||^2; 1 if no gradient was ever sent."""
        exact = self.exact_square.sum()
        return float(self.sent_square.sum() / exact) if exact > 0 else 1.0

    def sigma_clip_error(self, lab) -> float:
        """What Proposition 3 makes of the largest sigma: sqrt(d sigma^2 bias(c))."""
        return math.sqrt(lab.d * gq.clip_bias(lab.clip)) * self.sigma

    def constants(self, lab, smoothness: float) -> Constants:
        """The run's own, with distances to w*."""
        return Constants(
            d=lab.d, steps=lab.steps, eta=lab.eta, beta=lab.beta, gradient=self.gradient,
            gradient_inf=self.gradient_inf, diameter=self.diameter,
            diameter_inf=self.diameter_inf, smoothness=smoothness, weight_norm=self.weight_norm,
            scale=self.scale, weight_bits=lab.weights, workers=lab.workers,
        )  # fmt: skip

    def sums(self, lab, at: Constants, form: Form) -> Bound:
        """The bounds before norms become constants: R(T) / T by sums over the run itself.

        Printed: the display of [hou2019analysis, Thm. 1], in expectation (Thm. 2, 3), which can
        fail by the lemma of gap 2. Corrected: the rise of sqrt(t v_t) instead of its last value,
        which needs no monotone run, and sqrt(sum 1/t) / 2 instead of G_inf. SGD has one form.
        """
        t, steps = np.arange(1, lab.steps + 1), lab.steps
        floor = math.sqrt(at.smoothness) * at.diameter * self.weight_error.mean()
        clip = at.diameter * self.clip_error.mean()
        if lab.optimizer == "sgd":
            moved = at.diameter**2 * math.sqrt(steps) / (2 * lab.eta)
            speed = moved + lab.eta / 2 * (self.sent_square / np.sqrt(t)).sum()
            return Bound(float(speed) / steps, float(floor), float(clip))
        total, decay = self.sent_square.sum(), 1 - lab.beta
        if form == "printed":
            last = (decay * lab.beta ** (steps - t) * self.sent_square).sum()
            root, size = math.sqrt(lab.d * steps * last), 2 * at.gradient_inf
        else:
            root, size = self.variation, math.sqrt((1 / t).sum())
        speed = at.diameter_inf**2 / (2 * lab.eta) * root
        speed += lab.eta * size / 2 * math.sqrt(lab.d * total / decay)
        return Bound(float(speed) / steps, float(floor), float(clip))
