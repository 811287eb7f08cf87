"""The regret bounds of [hou2019analysis, Thm. 1-3], as printed and as their proof allows.

R(T) = sum_t f_t(w_t) - f_t(w*) for RMSProp with weights quantized by Q_w and gradients by Q_g:
g~_t = Q_g(grad f_t(Q_w(w_t))), v_t = beta v_(t-1) + (1 - beta) g~_t^2, w_(t+1) = w_t -
(eta / sqrt t) g~_t / sqrt(v_t), kept inside S. The average regret is bounded by a speed term that
falls as 1 / sqrt T, a floor from weights and one from clipping. `regret_derivation` has the proof.

Three steps of the printed proof need more than the stated assumptions A1-A3; `regret_witness` has
a run above each printed bound. "corrected" is what does hold, "printed" the published formula (of
its displays only the floor could be read in the source: the rest is re-derived, constants and
numbers of lemmas recalled).

1. sqrt(t v_t) must never fall (for sure if T <= 1 / (1 - beta)). No remedy: Theorems 1-3 are false
   for constant beta and large T, as RMSProp need not converge (Reddi, Kale, Kumar: ICLR 2018).
2. sum_t |g_t| / sqrt t <= 2 G_inf ||g|| (a lemma of [kingma2015adam]) is not homogeneous in g:
   false for small gradients, and for G_inf >= 1 where they shrink, as g_t = 1 / sqrt t. It needs
   every |g_t| >= 1, or sum 1/t <= 4 G_inf^2; without, the printed sums over a run can fail.
   Corrected, K = D_inf^2 / (2 eta) + eta / sqrt(1 - beta), without G_inf, from sum 1/sqrt t <=
   2 sqrt T: so the printed K, of norms that are constants, does hold if G_inf >= 1.
3. ||w - Q_w(w)||^2 <= D^2 + d alpha^2 Delta_w^2 / 4 needs the origin in S, and Delta_w = 2 for
   binary weights, whose levels are 2 apart. Corrected, max ||w||^2 stands for D^2.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from typing import Literal, NamedTuple

from theory import gradient_quantization as gq
from theory.loss_aware import levels

Form = Literal["printed", "corrected"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constants:
    """What the bounds know of a run; all norms are of vectors of all d weights.

    Raises:
      ValueError: a constant out of its range.
    """

    d: int
    steps: int  # T
    eta: float  # the step is eta / sqrt t
    beta: float  # of v, in [0, 1)
    gradient: float  # G: largest ||g||, of any worker
    gradient_inf: float  # G_inf
    diameter: float  # D: largest ||w_t - w*||, or the diameter of S
    diameter_inf: float  # D_inf
    smoothness: float  # L
    weight_norm: float  # largest ||w_t||
    scale: float = 0.0  # largest alpha of Q_w
    weight_bits: int | None = None  # None: not quantized; 1: LAB; m: LAQ of m bits
    workers: int = 1  # whose quantized gradients are averaged

    def __post_init__(self):
        for name in ("d", "steps", "workers"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
                raise ValueError(f"{name} is {value!r}: give an integer of at least 1")
        if not 0 < self.eta < math.inf:
            raise ValueError(f"eta is {self.eta}: give a step above 0")
        if not 0 <= self.beta < 1:
            raise ValueError(f"beta is {self.beta}: give a decay from 0 to below 1")
        for name in ("gradient", "gradient_inf", "diameter", "diameter_inf", "smoothness",
                     "weight_norm", "scale"):  # fmt: skip
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}: give a number of at least 0")
        weight_resolution(self.weight_bits, "printed")


class Bound(NamedTuple):
    """A bound on the average regret R(T) / T, term by term."""

    speed: float  # falls as 1 / sqrt T
    floor: float  # from quantized weights
    clip: float = 0.0  # from clipped gradients

    @property
    def total(self) -> float:
        """The sum of the terms."""
        return self.speed + self.floor + self.clip


def weight_resolution(bits: int | None, form: Form) -> float:
    """Delta_w: distance of neighbouring codes, 1/k for m bits. Binary: printed 1, in fact 2.

    Raises:
      ValueError: bits is not None or an integer from 1 to 16.
    """
    if bits is None:
        return 0.0
    if bits == 1 and not isinstance(bits, bool):
        return 1.0 if form == "printed" else 2.0
    return 1 / levels(bits)


def rate(at: Constants, form: Form) -> float:
    """K: D_inf^2 / (2 eta) + eta G_inf / sqrt(1 - beta), corrected without the G_inf."""
    size = at.gradient_inf if form == "printed" else 1.0
    return at.diameter_inf**2 / (2 * at.eta) + at.eta * size / math.sqrt(1 - at.beta)


def weight_floor(at: Constants, form: Form) -> float:
    """L D sqrt(D^2 + d alpha^2 Delta_w^2 / 4); corrected, max ||w||^2 stands for D^2 inside.

    Entries beyond alpha lose at most |w_i| (if S has the origin, at most D^2 in all), entries
    within alpha at most alpha Delta_w / 2. 0 where weights are not quantized. It does not vanish
    as Delta_w -> 0: a worst case, far from what is measured.
    """
    if at.weight_bits is None:
        return 0.0
    outside = at.diameter if form == "printed" else at.weight_norm
    inside = at.d * at.scale**2 * weight_resolution(at.weight_bits, form) ** 2 / 4
    return at.smoothness * at.diameter * math.sqrt(outside**2 + inside)


def theorem1(at: Constants, form: Form = "printed") -> Bound:
    """R(T) / T for gradients in full precision: K G sqrt(d / T) + floor [ibid., Thm. 1]."""
    return _rmsprop(at, 1.0, form)


def theorem2(at: Constants, bits: int, form: Form = "printed") -> Bound:
    """E R(T) / T for gradients of SQm: sqrt(enlargement) times the speed term [ibid., Thm. 2].

    Printed with Proposition 1, corrected with the sharp constant. Both terms of K are
    proportional to the norm of the gradient, hence the root. N workers' errors are independent:
    the enlargement R becomes 1 + (R - 1) / N. That is ours in both forms, here and in `theorem3`:
    the theorem is printed for one gradient, without N.
    """
    printed = form == "printed"
    enlarged = gq.proposition1(at.d, bits) if printed else gq.sharp_enlargement(at.d, bits)
    return _rmsprop(at, enlarged, form)


def theorem3(
    at: Constants, bits: int, c: float, sigma: float, form: Form = "printed",
    clip_error: float | None = None,
) -> Bound:  # fmt: skip
    """E R(T) / T for clipped gradients of SQm [ibid., Thm. 3].

    Printed, for Gaussian gradients: Proposition 2 in the speed term, and the further floor
    sqrt d D sigma (2/pi)^(1/4) sqrt(F(c)). It can fail for others: of (3, 3, 3.0001) clipping at
    3 sigma leaves next to nothing, a loss of 5.2, where the printed one is 1.6e-6. Corrected, for
    any gradient: `gradient_quantization.clipped_worst` for the enlargement, or the sharp constant
    where that is less, and the measured loss.

    Args:
      at: the run's constants.
      bits: of the gradients, 2 to 16.
      c: clip at c sigma, above 0.
      sigma: largest standard deviation of a gradient's entries.
      form: printed or corrected.
      clip_error: the largest root-mean-square ||Clip(g) - g||, if known; the corrected form needs
        it, as Proposition 3 knows Gaussian gradients only.

    Raises:
      ValueError: bits or c out of range; the corrected form without clip_error.
    """
    if form == "printed":
        lost = math.sqrt(at.d * gq.clip_bias(c)) * sigma
        enlarged = gq.proposition2(bits, c)
    else:
        if clip_error is None:
            raise ValueError("clip_error is None: give the measured ||Clip(g) - g||")
        lost = clip_error
        enlarged = min(gq.clipped_worst(bits, c), gq.sharp_enlargement(at.d, bits))
    return _rmsprop(at, enlarged, form)._replace(clip=at.diameter * lost)


def sgd(at: Constants, enlarged: float = 1.0, clip_error: float = 0.0) -> Bound:
    """E R(T) / T of w_(t+1) = w_t - (eta / sqrt t) g~_t: (D^2 / (2 eta) + R eta G^2) / sqrt T.

    Not in the paper: its proof with sqrt v = 1 (Zinkevich, ICML 2003), which needs no condition on
    v. Here quantization multiplies one term only, by R itself: with the eta that is best for R = 1
    the sum grows by (1 + R) / 2, with the best eta of each by sqrt R.
    """
    enlarged = _averaged(enlarged, at.workers)
    speed = at.diameter**2 / (2 * at.eta) + enlarged * at.eta * at.gradient**2
    floor = weight_floor(at, "corrected")
    return Bound(speed / math.sqrt(at.steps), floor, at.diameter * clip_error)


def _rmsprop(at: Constants, enlarged: float, form: Form) -> Bound:
    if form not in ("printed", "corrected"):
        raise ValueError(f"form is {form!r}: give printed or corrected")
    slow = gq.slowdown(_averaged(enlarged, at.workers))
    speed = rate(at, form) * at.gradient * math.sqrt(at.d / at.steps) * slow
    return Bound(speed, weight_floor(at, form))


def _averaged(enlarged: float, workers: int) -> float:
    return 1 + (enlarged - 1) / workers
