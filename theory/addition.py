"""One rounded addition, as `qtrain.ops.Accumulator` defines it, in float64 on NumPy arrays.

Where two float64 addends do not add exactly, the sum is rounded to odd, which no later
rounding to 50 bits or fewer can tell from the exact sum [boldo2008odd, Thm. 3].
"""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

import numpy as np

from qtrain.formats import Float

Rounding = Literal["nearest", "stochastic", "toward_zero", "align"]
ROUNDINGS = get_args(Rounding)


@dataclasses.dataclass(frozen=True)
class Grid:
    """The values of an accumulator: `man` stored bits, spacing 2^(emin - man) below 2^emin.

    man >= 1 (without mantissa bits, ties go to even exponents, which is not modelled).
    overflow: what a rounded sum beyond `max` becomes; a truncated one becomes `max`.
    """

    man: int
    emin: int
    max: float
    overflow: Literal["inf", "nan", "saturate"] = "saturate"

    def __post_init__(self) -> None:
        if not 1 <= self.man <= 50:
            raise ValueError(f"the theory needs 1 to 50 mantissa bits, not {self.man}")

    @classmethod
    def of(cls, fmt: Float, floor: float = 0.0) -> Grid:
        """The grid of `fmt`, its subnormal spacing raised to at least `floor` (a power of 2).

        Raises:
          ValueError: `fmt` has no subnormals or no mantissa bits.
        """
        if not fmt.subnormals:
            raise ValueError(f"{fmt.name} flushes subnormals, which the theory does not model")
        raised = int(np.floor(np.log2(floor))) + fmt.man if floor else fmt.emin
        return cls(fmt.man, max(fmt.emin, raised), fmt.max, fmt.overflow)

    def ulp(self, x: np.ndarray) -> np.ndarray:
        """The spacing at |x|, as if the exponent had no upper limit; any shape."""
        exponent = np.where(x == 0, self.emin, np.frexp(x)[1] - 1)  # frexp gives 0 for 0
        return np.exp2(np.maximum(exponent, self.emin) - self.man)

    def magnitudes(self, top: float) -> np.ndarray:
        """All values from 0 to the first one at or above min(top, max), ascending."""
        top = min(top, self.max)
        values = [np.arange(2**self.man) * 2.0 ** (self.emin - self.man)]
        exponent = self.emin
        while values[-1][-1] < top:
            values.append((2.0**self.man + np.arange(2**self.man)) * 2.0 ** (exponent - self.man))
            exponent += 1
        listed = np.concatenate(values)
        listed = listed[listed <= self.max]
        return listed[: np.searchsorted(listed, top) + 1]


def add(s: np.ndarray, p: np.ndarray, grid: Grid, rounding: Rounding):
    """Rounds s + p to `grid`: returns (lower, upper, weight), each of the broadcast shape.

    `lower` is the neighbour nearer zero and `upper` the one beyond; `weight` is the
    probability of `upper`: 0 or 1 unless stochastic. There it is the distance to `lower` in
    ulps, rounded half to even to N = 23 - man bits: P3109 variant C, N random bits.

    Args:
      s: values of the grid. p: any finite values. Both float64.
    """
    if rounding not in ROUNDINGS:
        raise ValueError(f"unknown rounding {rounding!r}: one of {', '.join(ROUNDINGS)}")
    if rounding == "align":
        s, p = _aligned(s, p, grid)
    total = _sum_to_odd(s, p)
    finite = np.isfinite(total)
    ulp = np.where(finite, grid.ulp(total), 1.0)
    steps = np.abs(total) / ulp
    whole = np.floor(steps)
    lower = np.where(finite, whole, 0.0)
    over = np.where(finite, steps - lower, 0.0)
    weight = np.zeros_like(steps)
    if rounding in ("toward_zero", "align"):
        whole = np.where(finite, np.minimum(whole, grid.max / ulp), whole)
    elif rounding == "nearest":
        weight = np.where(over == 0.5, lower % 2, np.rint(over))
    else:
        scale = 2.0 ** max(23 - grid.man, 0)
        weight = np.rint(over * scale) / scale
    sign = np.copysign(1.0, total)
    return _limit(whole * ulp, grid) * sign, _limit((whole + 1) * ulp, grid) * sign, weight


def _limit(magnitude: np.ndarray, grid: Grid) -> np.ndarray:
    beyond = {"inf": np.inf, "nan": np.nan, "saturate": grid.max}[grid.overflow]
    return np.where(magnitude > grid.max, beyond, magnitude)


def _sum_to_odd(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        total = a + b
        rest = total - a
        error = (a - (total - rest)) + (b - rest)  # TwoSum: a + b = total + error
    bits = np.ascontiguousarray(total).view(np.int64)
    inexact = (np.abs(error) > 0) & (bits & 1 == 0)  # False for inf and NaN
    toward = np.where(error > 0, np.inf, -np.inf)
    return np.where(inexact, np.nextafter(total, toward), total)


def _aligned(s: np.ndarray, p: np.ndarray, grid: Grid):
    """Drops the bits of both below the ulp of the larger magnitude."""
    larger = np.maximum(np.abs(s), np.abs(p))
    ulp = np.where(np.isfinite(larger), grid.ulp(larger), 1.0)
    with np.errstate(invalid="ignore"):
        return np.trunc(s / ulp) * ulp, np.trunc(p / ulp) * ulp
