"""A small convex laboratory: quantized training whose regret stands beside the bounds on it.

Online linear or logistic regression with quantized weights and quantized, clipped gradients of N
workers, as in [hou2019analysis, Sec. 2], by RMSProp, SGD or Adam. The data are fixed and only the
random bits of Q_g differ from replica to replica, so that the mean over replicas estimates the
expectation of Theorems 2 and 3. Every bound is evaluated with the run's own constants.

What the theorems assume, and how it is met: f_t convex and smooth by choice; S a box, onto which
every step is projected; gradients bounded there, their largest norm measured; distances to w*
measured, w* certified by a duality gap. `Assumptions` says whether the rest held.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from typing import Literal, NamedTuple

import numpy as np

from theory import convex_problem, regret
from theory import gradient_quantization as gq
from theory.convex_problem import Best, Loss, Problem
from theory.convex_trace import Trace
from theory.loss_aware import Quantized, alternate, binary, curvature, levels, optimum
from theory.regret import Bound, Constants

Rule = Literal["least_squares", "published", "optimum"]
Optimizer = Literal["rmsprop", "sgd", "adam"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lab:
    """One experiment.

    Raises:
      ValueError: a field out of its range.
    """

    loss: Loss = "linear"
    d: int = 16
    steps: int = 1000
    batch: int = 16  # samples of each worker and step
    workers: int = 1
    optimizer: Optimizer = "rmsprop"
    eta: float = 0.03  # the step is eta / sqrt t
    beta: float = 0.999  # decay of the second moment
    momentum: float = 0.9  # of Adam
    weights: int | None = None  # bits: 1 is LAB, m >= 2 LAQ of m bits, None full precision
    rule: Rule = "least_squares"  # how LAQ finds its scale
    gradients: int | None = None  # bits of SQm, from 2; None full precision
    clip: float | None = None  # c: gradients are clipped at c sigma
    radius: float = 1.0  # S = [-radius, radius]^d
    scale: float = 1.0  # inputs are scale U[-.5, .5]
    noise: float = 0.2  # standard deviation of the targets (linear)
    replicas: int = 8  # runs with other random bits; 1 where gradients are not quantized
    seed: int = 0  # of data, first weights and random bits

    def __post_init__(self):
        for name in ("d", "steps", "batch", "workers", "replicas"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
                raise ValueError(f"{name} is {value!r}: give an integer of at least 1")
        for name in ("eta", "radius", "scale"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}: give a number above 0")
        for name in ("beta", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give a decay from 0 to below 1")
        _known("optimizer", self.optimizer, ("rmsprop", "sgd", "adam"))
        _known("rule", self.rule, ("least_squares", "published", "optimum"))
        _known("loss", self.loss, ("linear", "logistic"))
        regret.weight_resolution(self.weights, "printed")
        if self.gradients is not None:
            levels(self.gradients)
        if self.clip is not None:
            gq.clip_bias(self.clip)


class Assumptions(NamedTuple):
    """What the printed proofs need beyond convexity and smoothness, as found in the run.

    The box has the origin always.
    """

    monotone: bool  # sqrt(t v_t) never fell, in any coordinate and replica
    large_gradients: bool  # G_inf >= 1
    few_steps: bool  # sum 1/t <= 4 G_inf^2: so the lemma of gap 2 holds for any gradients
    clip_covered: bool  # clipping did no more than Propositions 2, 3 print for Gaussian gradients

    @property
    def hold(self) -> bool:
        """Whether Theorems 1-3 must hold as printed, norms being constants: not yet the sums."""
        return self.monotone and self.large_gradients and self.clip_covered

    @property
    def sums_hold(self) -> bool:
        """Whether the sums before that must hold as printed; what clipping lost is measured."""
        return self.monotone and self.few_steps


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """What a laboratory measured, and the bounds on it."""

    lab: Lab
    regret: np.ndarray  # (S,) (sum_t f_t(w_t) - f_t(w*)) / T, full-precision iterates
    curve: np.ndarray  # (T,) R(t) / t for t = 1..T, mean over replicas
    loss: np.ndarray  # (T,) f_t at the quantized weights, mean over replicas
    best: Best  # w*
    constants: Constants  # with distances to w*
    domain: Constants  # the same with the diameters of the box: for the printed forms
    enlargement: float  # sum E||g~_t||^2 / sum ||g^_t||^2
    assumptions: Assumptions
    # "printed" holds if `assumptions.hold`, "printed sums" (before norms become constants) if
    # `assumptions.sums_hold`, "corrected" if the run is monotone, "corrected sums" always; SGD's
    # corrected ones always.
    bounds: dict[str, Bound]  # {} for Adam, of which no theorem speaks

    @property
    def mean_regret(self) -> float:
        """Mean over replicas, an estimate of E R(T) / T, w* off by at most `best.gap`."""
        return float(self.regret.mean())

    @property
    def standard_error(self) -> float:
        """Of `mean_regret`; 0 for one replica."""
        if self.regret.size == 1:
            return 0.0
        return float(self.regret.std(ddof=1) / math.sqrt(self.regret.size))

    @property
    def ratios(self) -> dict[str, float]:
        """Bound / measured average regret, above 1 where the bound holds; inf for no regret."""
        mean = self.mean_regret
        return {k: b.total / mean if mean > 0 else math.inf for k, b in self.bounds.items()}


def run(lab: Lab) -> Run:
    """Trains and measures. Time grows as steps x replicas x workers x batch x d."""
    problem = convex_problem.draw(
        lab.loss, d=lab.d, steps=lab.steps, workers=lab.workers, batch=lab.batch, scale=lab.scale,
        noise=lab.noise, seed=lab.seed,
    )  # fmt: skip
    best = convex_problem.best_fixed(problem, lab.radius)
    trace = _train(lab, problem, best)
    own = trace.constants(lab, convex_problem.smoothness(problem))
    side = 2 * lab.radius
    domain = dataclasses.replace(own, diameter=side * math.sqrt(lab.d), diameter_inf=side)
    excess = trace.losses.mean(1) - trace.best_losses
    return Run(
        lab=lab,
        curve=np.cumsum(excess) / np.arange(1, lab.steps + 1),
        regret=trace.losses.mean(0) - best.value,
        loss=trace.quantized_losses,
        best=best,
        constants=own,
        domain=domain,
        enlargement=trace.enlargement,
        assumptions=_assumptions(lab, trace, own),
        bounds=_bounds(lab, trace, own, domain),
    )


def _train(lab: Lab, problem: Problem, best: Best) -> Trace:
    rng = np.random.default_rng([lab.seed, 1])
    replicas = 1 if lab.gradients is None else lab.replicas
    w = np.clip(rng.uniform(-0.5, 0.5, lab.d), -lab.radius, lab.radius)
    w = np.broadcast_to(w, (replicas, lab.d))
    m, v = np.zeros((2, replicas, lab.d))
    trace = Trace(lab, best, replicas)
    for t in range(1, lab.steps + 1):
        quantized = quantize_weights(lab, w, v)
        exact = convex_problem.gradients(problem, t - 1, quantized.weights)
        clipped = exact if lab.clip is None else gq.clip(exact, lab.clip)
        sent = clipped if lab.gradients is None else gq.quantize(clipped, lab.gradients, rng)
        g = sent.mean(1)
        trace.before(problem, t, w, quantized, exact, clipped, g)
        m, v = lab.momentum * m + (1 - lab.momentum) * g, lab.beta * v + (1 - lab.beta) * g**2
        trace.second_moment(t, v)
        step = lab.eta / math.sqrt(t) * _direction(lab, g, m, v, t)
        w = np.clip(w - step, -lab.radius, lab.radius)
    return trace


def quantize_weights(lab: Lab, w: np.ndarray, v: np.ndarray) -> Quantized:
    """Q_w of w (S, d), weighted by sqrt(v); evenly under SGD, which has no v."""
    c = curvature(np.zeros_like(v) if lab.optimizer == "sgd" else v)
    if lab.weights is None:
        return Quantized(np.ones(len(w)), w)
    if lab.weights == 1:
        return binary(w, c)
    if lab.rule == "optimum":
        return optimum(w, c, lab.weights)
    return alternate(w, c, lab.weights, lab.rule)


def _direction(lab: Lab, g: np.ndarray, m: np.ndarray, v: np.ndarray, t: int) -> np.ndarray:
    """What the step multiplies. RMSProp has no epsilon: where v = 0 the gradient was always 0."""
    if lab.optimizer == "sgd":
        return g
    if lab.optimizer == "rmsprop":
        return np.divide(g, np.sqrt(v), out=np.zeros_like(g), where=v > 0)
    unbiased = m / (1 - lab.momentum**t), v / (1 - lab.beta**t)
    return unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)


def _bounds(lab: Lab, trace: Trace, own: Constants, domain: Constants) -> dict[str, Bound]:
    if lab.optimizer == "adam":
        return {}
    clip_error = trace.clip_error.max()
    if lab.optimizer == "sgd":
        enlarged = _worst_enlargement(lab)
        return {
            "corrected": regret.sgd(own, enlarged, float(clip_error)),
            "corrected sums": trace.sums(lab, own, "corrected"),
        }
    bounds = {}
    for form, at in (("printed", domain), ("corrected", own)):
        if lab.gradients is None and lab.clip is None:
            bounds[form] = regret.theorem1(at, form)
        elif lab.gradients is None:
            error = trace.sigma_clip_error(lab) if form == "printed" else clip_error
            bounds[form] = regret.theorem1(at, form)._replace(clip=at.diameter * float(error))
        elif lab.clip is None:
            bounds[form] = regret.theorem2(at, lab.gradients, form)
        else:
            bounds[form] = regret.theorem3(
                at, lab.gradients, lab.clip, trace.sigma, form, float(clip_error)
            )
        bounds[f"{form} sums"] = trace.sums(lab, at, form)
    return bounds


def _assumptions(lab: Lab, trace: Trace, own: Constants) -> Assumptions:
    covered = True
    if lab.clip is not None:
        covered = bool(trace.clip_error.max() <= trace.sigma_clip_error(lab))
        if lab.gradients is not None:
            printed = gq.proposition2(lab.gradients, lab.clip)
            covered = covered and _worst_enlargement(lab) <= printed
    inverse = sum(1 / t for t in range(1, lab.steps + 1))
    few = inverse <= 4 * own.gradient_inf**2
    return Assumptions(trace.monotone, own.gradient_inf >= 1, few, covered)


def _worst_enlargement(lab: Lab) -> float:
    if lab.gradients is None:
        return 1.0
    sharp = gq.sharp_enlargement(lab.d, lab.gradients)
    return sharp if lab.clip is None else min(sharp, gq.clipped_worst(lab.gradients, lab.clip))


def _known(name: str, value: str, names: tuple[str, ...]) -> None:
    if value not in names:
        raise ValueError(f"{name} is {value!r}: give {', '.join(names)}")
