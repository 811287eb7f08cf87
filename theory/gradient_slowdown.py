"""Where quantized gradients slow convergence down, and where not.

Theorem 2 of [hou2019analysis] multiplies the speed term by sqrt R, R = E||g~||^2 / ||g^||^2. On the
paper's own synthetic task, RMSProp with steps of .03 / sqrt t, that does not show: quantized
gradients do not lose. Average regret with SQ2 over that in full precision [computed: linear
regression, no weight quantization, batch 16, T = 1000, a box too wide to matter, 4 replicas]:

  d                                     16     64     256
  R measured                            1.69   2.01   2.29
  SGD, step best for full precision     1.74   1.96   5.24
  RMSProp, step best for full precision 1.27   1.87   1.67
  RMSProp, step .03                     0.95   0.94   0.84
  the same, full precision, .03/sqrt R  0.76   0.60   0.52

Why. RMSProp divides by sqrt v, and E v grows by R as well: it absorbs the norm. The mean
movement per step falls by sqrt R, which is a step of eta / sqrt R, while the random part stays as
large as full-precision steps are. So the loss of speed is a loss of step. It costs where the step
is the limit, as at the tuned step and below. .03 is too large for this task (with v_0 = 0 the first
step is eta / sqrt(1 - beta), about 1 in every coordinate), and a smaller step is a gain: the last
row takes it without quantization and gains more.

SGD does not rescale. R multiplies the noise eta / (2 sqrt t) ||g~_t||^2 of every step, and the
bound grows by (1 + R) / 2 with the step tuned for full precision. The measured regret grows by
more at every d: about R at 16 and 64, far more at 256. (1 + R) / 2 is of runs with equal gradients,
but noise feeds on itself, as iterates farther off have larger gradients: sum ||g^_t||^2 / sqrt t
is 1.15, 1.40 and 3.53 times that of full precision, the noise 2.0, 2.8 and 8.0 times [computed].
E||w_t - w*||^2 even grows while eta / sqrt t is above 2 E x_i^2 / (R E[(X^T X / n)^2]_ii): with
these steps in none of them at d = 16, in the first at 64, in the first 8 at 256, where in full
precision it is one [derived: 1.41 / R at d = 256].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from theory.convex_lab import Lab, Run, run

ETAS = tuple(10.0 ** (i / 4) for i in range(-12, 7))  # 0.001 to 31.6, four per decade


class Slowdown(NamedTuple):
    """A run with full-precision gradients beside one with quantized gradients, same step."""

    full: Run
    quantized: Run

    @property
    def regret(self) -> float:
        """Average regret after T steps, quantized over full precision."""
        return self.quantized.mean_regret / self.full.mean_regret

    @property
    def enlargement(self) -> float:
        """Sum E||g~||^2 over sum ||g^||^2 of the quantized run."""
        return self.quantized.enlargement


def tuned(lab: Lab, etas: Sequence[float] = ETAS) -> Lab:
    """The lab with that step of `etas` whose average regret is least."""
    return min(
        (dataclasses.replace(lab, eta=eta) for eta in etas), key=lambda l: run(l).mean_regret
    )


def compare(lab: Lab) -> Slowdown:
    """Runs the lab with its gradients' bits and clip, and without both."""
    return Slowdown(run(dataclasses.replace(lab, gradients=None, clip=None)), run(lab))


def steps_until(curve: np.ndarray, level: float) -> int | None:
    """First t from which R(t) / t stays at or below the level; None if it does not."""
    above = np.flatnonzero(~(curve <= level))
    last = int(above[-1]) + 1 if above.size else 0
    return last + 1 if last < curve.size else None
