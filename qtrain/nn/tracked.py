"""Quantizers that keep state: nnx modules that a hook applies to an operand."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from qtrain.quantize import Affine

_SAMPLES = Affine(range="sample_mean")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tracked:
    """An affine quantizer whose range in evaluation is that of training, averaged over steps.

    In training it does what `quantizer` does. The running min and max start at 0 and keep
    `momentum` of their old value in each step; the default is that of the source's code, which
    weighs the new range by 0.9 [banner2018scalable, Sec. 3].
    """

    quantizer: Affine = _SAMPLES
    momentum: float = 0.1

    sources = ("banner2018scalable",)

    def __post_init__(self) -> None:
        if self.quantizer.range not in ("tensor", "sample_mean"):
            raise ValueError(
                f"a running range is one per layer, not one per {self.quantizer.range}: take"
                " tensor or sample_mean"
            )
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be at least 0 and below 1, not {self.momentum}")

    @property
    def needs_key(self) -> bool:
        """Whether a call draws random bits."""
        return self.quantizer.needs_key

    def describe(self) -> str:
        """A short text for tables."""
        return f"{self.quantizer.describe()}, running in evaluation"

    def module(self, kernel: jax.Array | None = None) -> RangeTracker:
        """The state of one layer's operand, which `quantize_model` puts into its hook."""
        return RangeTracker(self)


class RangeTracker(nnx.Module):
    """`Tracked` with its running range; `model.train()` and `model.eval()` switch it."""

    def __init__(self, settings: Tracked):
        """In training, with a running range of 0."""
        self.settings = settings
        self.use_running_average = False
        self.low = nnx.BatchStat(jnp.zeros(()))
        self.high = nnx.BatchStat(jnp.zeros(()))

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Rounds an operand of any shape with at least one dimension."""
        quantizer, old = self.settings.quantizer, self.settings.momentum
        if self.use_running_average:
            shape = (1,) * x.ndim
            low, high = self.low[...].reshape(shape), self.high[...].reshape(shape)
            return quantizer.within(x, low, high, key)
        low, high = quantizer.bounds(jax.lax.stop_gradient(x))
        self.low[...] = old * self.low[...] + (1 - old) * low.reshape(())
        self.high[...] = old * self.high[...] + (1 - old) * high.reshape(())
        return quantizer.within(x, low, high, key)
