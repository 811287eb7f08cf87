"""Weights that are quantized now and then, and train in full precision in between.

    w <- Q(w);  train for `period` steps as always;  again                     [lee2018iterative]

There is no latent copy and no straight-through estimator: what a distortion takes away is gone, and
each gradient is taken at the weights that the optimizer moves. Only the abstracts of the paper and
of its successor [lee2018deeptwist], whose period in batches this is, could be read; the loop is
reconstructed from them.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from qtrain.optim import Constraint
from qtrain.quantize.binary_codes import BinaryCodes
from qtrain.zoo.method import Method

_ONE_BIT = BinaryCodes()


class IterativeState(NamedTuple):
    """What a layer keeps beside its weights."""

    mask: jax.Array | None  # bool, of the weight's shape: which survive; None: all
    loss: jax.Array  # float32: mean (before - after)^2 of the latest distortion; 0 before one


@dataclasses.dataclass(frozen=True, kw_only=True)
class Iterative(Constraint):
    """Rounds a layer's weights to binary codes at the start of steps 0, period, 2 period, ...

    period 0 never does: quantizing once, after the training. Either way `deploy` quantizes, so that
    the weights of a run are those before, the deployed ones those after a distortion.

    prune: this share of the layer's weights, those of least magnitude when the run begins, is set
      to 0 in step 0 and stays 0; the others alone count in the scales. Of n weights round((1 -
      prune) n) survive.
    """

    quantizer: BinaryCodes = _ONE_BIT
    period: int = 200
    prune: float = 0.0

    sources = ("lee2018iterative", "lee2018deeptwist")

    def __post_init__(self) -> None:
        if self.period < 0:
            raise ValueError(f"period must be at least 0 steps, not {self.period}")
        if not 0 <= self.prune < 1:
            raise ValueError(f"prune must be at least 0 and below 1, not {self.prune}")

    def describe(self) -> str:
        """A short text for tables."""
        when = f"every {self.period} steps" if self.period else "after training"
        pruned = f", {100 * self.prune:g} % pruned" if self.prune else ""
        return f"{self.quantizer.describe()}, {when}{pruned}"

    def init(self, w: jax.Array, steps: int) -> IterativeState:
        """Chooses what survives."""
        mask = largest(jnp.abs(w), round((1 - self.prune) * w.size)) if self.prune else None
        return IterativeState(mask, jnp.zeros(()))

    def project(
        self, w: jax.Array, state: IterativeState, step: jax.Array, steps: int
    ) -> tuple[jax.Array, IterativeState]:
        """Distorts the weights where a period begins."""
        if not self.period and state.mask is None:
            return w, state

        def distorted():
            new = self._distort(w, state.mask)
            return new, jnp.mean((w - new).astype(jnp.float32) ** 2)

        due = step % self.period == 0 if self.period else step == 0
        w, loss = lax.cond(due, distorted, lambda: (w, state.loss))
        return w, state._replace(loss=loss)

    def gradient(self, g: jax.Array, w: jax.Array, state: IterativeState) -> jax.Array:
        """Zero for what was pruned."""
        return g if state.mask is None else jnp.where(state.mask, g, jnp.zeros_like(g))

    def deploy(self, w: jax.Array, state: IterativeState) -> jax.Array:
        """Quantized, and 0 where pruned."""
        return self.quantizer.quantize(w, state.mask)

    def _distort(self, w: jax.Array, mask: jax.Array | None) -> jax.Array:
        if self.period:
            return self.quantizer.quantize(w, mask)
        return w if mask is None else jnp.where(mask, w, jnp.zeros_like(w))


def largest(size: jax.Array, count: int | jax.Array) -> jax.Array:
    """True for the `count` largest values of an array of any shape, the first ones of equal."""
    order = jnp.argsort(-size.reshape(-1), stable=True)
    first = jnp.arange(size.size) < count
    return jnp.zeros(size.size, bool).at[order].set(first).reshape(size.shape)


METHODS = (
    Method(
        name="iterative", title="Retraining-based iterative quantization",
        source="lee2018iterative", technique="incremental", codebook="adaptive",
        targets=("weight",), start="pretrained", master=False,
        estimator="none: the gradient is taken at the weights that move",
        uncertain="the loop is reconstructed from two abstracts; quantizer, scales and period ours",
        weight_bits=(1, 2, 3, 4),
        places=lambda bits, _: {
            "weight": Iterative(quantizer=BinaryCodes(bits=bits or 1), period=31)
        },
    ),
)  # fmt: skip
