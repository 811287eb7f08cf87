"""Incremental network quantization: weights become powers of two, the largest ones first."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from qtrain.formats import Codebook
from qtrain.optim import Constraint
from qtrain.quantize import cast
from qtrain.zoo.iterative import largest
from qtrain.zoo.method import Method

# Shares of all weights that are frozen, stage by stage, by bits; recalled, but for the 0.3.
PORTIONS = {
    5: (0.5, 0.75, 0.875, 1.0),  # of ResNet and VGG; AlexNet: 0.3, 0.6, 0.8, 1
    4: (0.3, 0.5, 0.8, 0.9, 0.95, 1.0),
    3: (0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0),
    2: (0.2, 0.4, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.975, 1.0),
}


def power(s: jax.Array) -> jax.Array:
    """2^n1 for the largest magnitude s, with n1 = floor(log2(4 s / 3)) [zhou2017inq, code].

    Exact, no logarithm is rounded. 1/2 for s = 0; NaN where s is not finite.
    """
    fraction, exponent = jnp.frexp(s.astype(jnp.float32))  # s = fraction 2^exponent, from 1/2 to 1
    n1 = jnp.where(fraction >= 0.75, exponent, exponent - 1)
    return jnp.where(jnp.isfinite(s), jnp.ldexp(jnp.float32(1), n1), jnp.nan)


def powers_of_two(w: jax.Array, top: jax.Array, bits: int) -> jax.Array:
    """Each weight to the nearest of 0, +-top, +-top/2, ..., +-top/2^(2^(bits-2) - 1).

    2^(bits-1) + 1 values: one of the bits is spent on zero. Ties go away from zero, as in the
    intervals (a + b)/2 <= |w| < 3b/2 of b above a; the source's code sends them to the lower one
    [zhou2017inq]. Beyond `top`, to `top`. NaN stays NaN, and a NaN `top` makes all weights NaN.
    """
    sizes = [2.0**-i for i in range(2 ** (bits - 2))]
    grid = Codebook((*(-s for s in sizes), 0.0, *reversed(sizes)))
    return (cast(w.astype(jnp.float32) / top, grid, rounding="nearest_away") * top).astype(w.dtype)


class InqState(NamedTuple):
    """The largest power of two, float32; which weights are frozen, and to what (else 0)."""

    top: jax.Array
    frozen: jax.Array
    values: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inq(Constraint):
    """A growing share of a layer's weights is rounded to powers of two and frozen [zhou2017inq].

    The stages are equally long. Each begins by freezing the largest weights that are still free,
    until its portion of the layer is frozen; the others train on in full precision, with the
    gradient of the frozen ones masked. What momentum or weight decay does to a frozen weight is
    undone before the next gradient. The last portion, 1, acts in `deploy`, after the last step:
    there would be nothing left to train. A run evaluates that too, whatever the stage.

    The largest power is fixed by the weights when the first are frozen (recalled).

    portions: shares of all weights, ascending to 1; by default those of PORTIONS. Of n weights,
      round(portion n) are frozen.
    """

    bits: int = 5
    portions: tuple[float, ...] = ()

    sources = ("zhou2017inq",)

    def __post_init__(self) -> None:
        if self.bits not in PORTIONS:
            raise ValueError(f"bits must be 2 to 5, not {self.bits}")
        p = self.portions or PORTIONS[self.bits]
        object.__setattr__(self, "portions", p)
        if any(a >= b for a, b in zip((0, *p), p, strict=False)) or p[-1] != 1:
            raise ValueError(f"portions must ascend from above 0 to 1, not {p}")

    def describe(self) -> str:
        """A short text for tables."""
        return f"INQ, {self.bits} bits, in {len(self.portions)} stages"

    def stage(self, step: jax.Array, steps: int) -> jax.Array:
        """Index of the portion that is frozen in a step; the last one only from `steps` on."""
        last = len(self.portions) - 1
        return jnp.minimum(step * last // max(steps, 1), last)

    def init(self, w: jax.Array, steps: int) -> InqState:
        """Nothing is frozen."""
        return InqState(jnp.ones(()), jnp.zeros(w.shape, bool), jnp.zeros_like(w))

    def project(
        self, w: jax.Array, state: InqState, step: jax.Array, steps: int
    ) -> tuple[jax.Array, InqState]:
        """Restores frozen weights; freezes more where a stage begins."""
        w = _held(w, state)
        counts = jnp.array([round(p * w.size) for p in self.portions])
        count = counts[self.stage(step, steps)]
        freeze = lambda: self._freeze(w, state, count)  # noqa: E731
        state = lax.cond(jnp.sum(state.frozen) < count, freeze, lambda: state)
        return _held(w, state), state

    def gradient(self, g: jax.Array, w: jax.Array, state: InqState) -> jax.Array:
        """Zero for frozen weights."""
        return jnp.where(state.frozen, jnp.zeros_like(g), g)

    def deploy(self, w: jax.Array, state: InqState) -> jax.Array:
        """Every weight on its power of two."""
        w = _held(w, state)
        return powers_of_two(w, _top(w, state), self.bits)

    def _freeze(self, w: jax.Array, state: InqState, count: jax.Array) -> InqState:
        """`count` frozen weights: those that are, and the largest of the others."""
        top = _top(w, state)
        frozen = largest(jnp.where(state.frozen, jnp.inf, jnp.abs(w)), count)
        rounded = powers_of_two(w, top, self.bits)
        return InqState(top, frozen, jnp.where(frozen, rounded, jnp.zeros_like(w)))


def _held(w: jax.Array, state: InqState) -> jax.Array:
    return jnp.where(state.frozen, state.values, w)


def _top(w: jax.Array, state: InqState) -> jax.Array:
    """The largest power: that of the first frozen weights, before there are some, of all."""
    return jnp.where(state.frozen.any(), state.top, power(jnp.max(jnp.abs(w), initial=0)))


NOT_BUILT = {
    "elq": "explicit loss-error-aware quantization: neither the weights of the two terms that it"
    " adds to the loss nor its schedule are known, and the loss at the quantized weights is nothing"
    " that a constraint on the weights can see",
}

METHODS = (
    Method(
        name="inq", title="Incremental network quantization", source="zhou2017inq",
        technique="incremental", codebook="fixed", targets=("weight",),
        places=lambda bits, _: {"weight": Inq(bits=bits or 5)}, start="pretrained", master=False,
        estimator="none: frozen weights have no gradient, the others are in full precision",
        uncertain="the portions beyond the first 0.3, and that the largest power stays that of"
        " the first stage, are recalled; stages of equal length are a choice made here",
        weight_bits=(5, 4, 3, 2),
    ),
)  # fmt: skip
