"""Affine quantization: evenly spaced values from the least to the largest of an array.

As GEMMLOWP does it [banner2018scalable, Sec. 3]: unlike a `Scale`, the range need not be
symmetric, and zero need not be one of the values.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qtrain.formats import Int
from qtrain.quantize.cast import cast
from qtrain.quantize.estimator import straight_through
from qtrain.quantize.product import product

Range = Literal["tensor", "channel", "sample", "sample_mean"]
_LEAST = np.float32(2.0**-126)  # 1 / step stays finite


@dataclasses.dataclass(frozen=True, kw_only=True)
class Affine:
    """Rounds to 2^bits evenly spaced values: `(x, key=None) -> x`, hashable, differentiable.

        S = (max - min) / (2^bits - 1),   q = round(clip((x - min) / S)),   x' = q S + min

    Float arithmetic ("fake quantization"): x' is off by a rounding of q S and one of the sum,
    each of them done, whatever the compiler fuses. The gradient is that of the identity. Values
    that share a range and are all the same stay as they are (with sample_mean, but for the rounding
    of the mean); a NaN, an infinity or max - min beyond float32 makes all of them NaN. Float32
    subnormals may count as zero.

    range, of which min and max are taken:
      tensor       the whole array
      channel      each index of the last axis: output channels of an nnx kernel
      sample       each index of the first axis
      sample_mean  the whole array has one range: the mean over the first axis of each
                   example's min, and of its max; values beyond it saturate

    Stochastic rounding takes the next value up or down at random, without bias; the ends saturate.
    The source's code rounds q + U(-1/2, 1/2), which comes to the same, and bounds S below by 1e-8,
    which would lose errors of large batches: here S is at least 2^-126.
    """

    bits: int = 8
    rounding: Literal["nearest", "stochastic"] = "nearest"
    range: Range = "tensor"

    sources = ("banner2018scalable",)

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 16:
            raise ValueError(f"bits must be 2 to 16, not {self.bits}")
        if self.rounding not in ("nearest", "stochastic"):
            raise ValueError(f"unknown rounding {self.rounding!r}: nearest or stochastic")
        if self.range not in get_args(Range):
            raise ValueError(f"unknown range {self.range!r}: one of {', '.join(get_args(Range))}")

    @property
    def needs_key(self) -> bool:
        """Whether a call draws random bits."""
        return self.rounding == "stochastic"

    def describe(self) -> str:
        """A short text for tables."""
        rounding = "" if self.rounding == "nearest" else f" {self.rounding}"
        per = {"sample_mean": "mean range of samples"}.get(self.range, f"per {self.range}")
        return f"{self.bits}-bit affine{rounding}, {per}"

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Rounds `x`, of at least one dimension; `key` is for stochastic rounding alone.

        Raises:
          TypeError: `x` is no float array.
          ValueError: stochastic rounding has no key.
        """
        return self.within(x, *self.bounds(lax.stop_gradient(x)), key)

    def bounds(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Min and max, float32, in shapes that broadcast against `x`."""
        if x.size == 0:
            zero = jnp.zeros((1,) * x.ndim, jnp.float32)
            return zero, zero
        x = x.astype(jnp.float32)
        kept = {"tensor": (), "channel": (x.ndim - 1,), "sample": (0,), "sample_mean": (0,)}
        over = tuple(d for d in range(x.ndim) if d not in kept[self.range])
        low, high = jnp.min(x, over, keepdims=True), jnp.max(x, over, keepdims=True)
        if self.range == "sample_mean":
            # not `mean`: XLA divides by the constant, or multiplies by its inverse under jit
            share = np.float32(1 / len(x))
            low, high = (product(b.sum(0, keepdims=True), share) for b in (low, high))
        return low, high

    def within(
        self, x: jax.Array, low: jax.Array, high: jax.Array, key: jax.Array | None = None
    ) -> jax.Array:
        """Rounds `x` to 2^bits values from `low` to `high`; the gradient is the identity's."""
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(f"cannot round {x.dtype} values: cast them to float32 first")
        key = key if self.needs_key else None
        fmt = Int(self.bits, signed=False)
        spread = high - low
        # a divisor that is no constant: XLA would multiply by its inverse, but only under jit
        top = jnp.where(spread > 0, np.float32(fmt.max), 1)
        step = jnp.maximum(jnp.where(spread > 0, spread, 1) / top, _LEAST)

        def rounded(x):
            steps = (x.astype(jnp.float32) - low) * (1 / step)
            codes = cast(steps, fmt, key, rounding=self.rounding)
            return jnp.where(spread == 0, low, product(codes, step) + low).astype(x.dtype)

        return straight_through(rounded, x)
