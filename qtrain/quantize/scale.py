"""Scale selection: what to divide an array by before it is cast to a narrow format."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qtrain import formats
from qtrain.formats import Codebook, Format
from qtrain.quantize.product import product

Method = Literal["absmax", "power_of_two", "percentile", "mse"]
_LEAST, _MOST = np.float32(2.0**-126), np.float32(2.0**126)  # s and 1 / s are normal numbers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale:
    """How the scale s is chosen, so that x / s fills the range of a format.

    method:
      absmax        s = max|x| / max of the format (of a codebook, of its magnitudes): nothing
                    saturates
      power_of_two  absmax, rounded up to a power of two: dividing by it is exact
      percentile    as absmax, from the `percentile`-th percentile of |x|: outliers saturate
      mse           absmax times the factor, of 32 from 1/32 to 1, with the least squared error
    Values share a scale per tensor, or along `axis` per index of it, or per block of `block`
    neighbours along `axis`. s is at least 2^-126 and at most 2^126. It is 1 where the maximum
    (or the percentile: of mostly zeros it is 0) is zero or not finite, and for an empty array.
    Float32 subnormals may count as zero.
    """

    method: Method = "absmax"
    axis: int | None = None
    block: int | None = None
    percentile: float = 99.9

    sources = ("ocp2023mx",)

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ValueError(f"unknown scale {self.method!r}: one of {', '.join(get_args(Method))}")
        if self.block is not None and (self.axis is None or self.block < 1):
            raise ValueError(f"block {self.block} needs an axis and at least 1 value")
        if not 0 < self.percentile <= 100:
            raise ValueError(f"percentile must be in (0, 100], not {self.percentile}")

    def __call__(self, x: jax.Array, fmt: Format | str) -> jax.Array:
        """The scale of each value, float32, in a shape that broadcasts against `x`.

        Raises:
          ValueError: the axis is not one of x, or the block does not divide it.
        """
        fmt = formats.get(fmt)
        if x.size == 0:
            return jnp.ones((1,) * x.ndim, jnp.float32)
        groups, restore = self._grouped(jnp.asarray(x, jnp.float32))
        magnitude = jnp.abs(groups)
        if self.method == "percentile":
            top = _percentile(magnitude, self.percentile)
        else:
            top = jnp.max(magnitude, axis=-1, keepdims=True)
        usable = (top > 0) & jnp.isfinite(top)
        # a divisor that is no constant: XLA would multiply by its inverse, but only under jit
        scale = jnp.where(usable, top, 1) / jnp.where(usable, np.float32(_reach(fmt)), 1)
        scale = jnp.clip(scale, _LEAST, _MOST)
        if self.method == "power_of_two":
            scale = _power_above(scale)
        if self.method == "mse":
            scale = _least_error(groups, scale, fmt)
        return restore(scale)

    def _grouped(self, x: jax.Array):
        """X as (..., values that share a scale), and how to spread one scale over each."""
        if self.axis is None:
            return x.reshape(1, -1), lambda s: s.reshape((1,) * x.ndim)
        if not -x.ndim <= self.axis < x.ndim:
            raise ValueError(f"axis {self.axis} is not one of an array of shape {x.shape}")
        axis = self.axis % x.ndim
        last = jnp.moveaxis(x, axis, -1)
        if self.block is None:
            groups = jnp.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)
            shape = [1] * x.ndim
            shape[axis] = x.shape[axis]
            return groups, lambda s: s.reshape(shape)
        if x.shape[axis] % self.block:
            raise ValueError(
                f"block {self.block} does not divide axis {self.axis} of length {x.shape[axis]}"
            )
        groups = last.reshape(*last.shape[:-1], -1, self.block)
        spread = lambda s: jnp.broadcast_to(s, groups.shape).reshape(last.shape)  # noqa: E731
        return groups, lambda s: jnp.moveaxis(spread(s), -1, axis)


def _percentile(x: jax.Array, percent: float) -> jax.Array:
    """`jnp.percentile` of the last axis, kept; NaN if a value is.

    That one rounds the rank among n values to float32, in one way under jit and in another
    without. Here it is a number before anything is traced.
    """
    x = jnp.sort(x, axis=-1)
    share, below = math.modf(percent * (x.shape[-1] - 1) / 100)
    low = x[..., int(below), None]
    if share:
        low = low + product(np.float32(share), x[..., int(below) + 1, None] - low)
    return jnp.where(jnp.isnan(x[..., -1:]), np.float32(np.nan), low)


def divide(x: jax.Array, scale: jax.Array, fmt: Format) -> jax.Array:
    """Quotient x / s, float32; finite ones clipped to the range of the format, since s * max may
    round above max|x|.

    Computed as x * (1 / s), which XLA makes of it under jit: now the bits are always the same.
    """
    y = x.astype(jnp.float32) * (1 / scale)
    low, high = getattr(fmt, "min", -fmt.max), fmt.max
    return jnp.where(jnp.isfinite(y), jnp.clip(y, np.float32(low), np.float32(high)), y)


def _reach(fmt: Format) -> float:
    """The magnitude that max|x| is mapped to."""
    if isinstance(fmt, Codebook):
        return max(abs(fmt.min), abs(fmt.max))
    return fmt.max or abs(getattr(fmt, "min", 0.0))  # fixed1.0 holds -1 and 0


def _power_above(x: jax.Array) -> jax.Array:
    """The smallest power of two that is not below the positive x."""
    mantissa, exponent = jnp.frexp(x)
    exponent = jnp.clip(exponent - (mantissa == 0.5), -126, 127)
    return lax.bitcast_convert_type((exponent + 127).astype(jnp.uint32) << 23, jnp.float32)


def _least_error(groups: jax.Array, scale: jax.Array, fmt: Format) -> jax.Array:
    """Of 32 shares of `scale`, the one with the least squared error of nearest rounding."""
    from qtrain.quantize.cast import cast

    def error(factor):
        s = jnp.maximum(scale * factor, _LEAST)
        error = cast(divide(groups, s, fmt), fmt) * s - groups
        return jnp.sum(error**2, axis=-1, keepdims=True)

    factors = np.arange(32, 0, -1, dtype=np.float32) / 32  # 1 first: taken if all are alike
    errors = lax.map(error, jnp.asarray(factors))
    return jnp.maximum(scale * jnp.asarray(factors)[jnp.argmin(errors, axis=0)], _LEAST)
