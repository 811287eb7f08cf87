"""Stochastic gradient quantization, SQ of m bits [hou2019analysis, Sec. 2]."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qtrain.formats import Int
from qtrain.quantize import cast
from qtrain.wire.pack import pack, unpack


class Packed(NamedTuple):
    """One gradient tensor as it goes over the wire."""

    words: jax.Array  # uint32, see `pack`: sign and level in one code
    scale: jax.Array  # float32 scalar, the largest magnitude


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stochastic:
    """A gradient tensor g as s sign(g) q, with s = max|g| and levels q = 0, 1/k, ..., 1.

    k = 2^(bits - 1) - 1. |g| / s becomes one of the two levels around it at random, so that the
    mean is g; the squared error is at most s |g|_1 / k in the mean [hou2019analysis, Lemma 3].

    clip: first cuts values to +-clip sigma, where sigma is the standard deviation of the tensor's
    values about their mean (values that are nearly alike far from zero are nearly erased): smaller
    s and error, but biased [hou2019analysis, Prop. 3]. Where all
    values are equal, sigma is 0: the rule would erase the gradient, so it stays as it is.
    """

    bits: int = 2
    clip: float | None = None

    sources = ("hou2019analysis",)

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 16:
            raise ValueError(f"gradient bits must be 2 to 16, not {self.bits}")
        if self.clip is not None and not 0 < self.clip < float("inf"):
            raise ValueError(
                f"clip must be positive and finite, in standard deviations, not {self.clip}"
            )

    @property
    def levels(self) -> int:
        """k, the number of levels above 0."""
        return 2 ** (self.bits - 1) - 1

    def encode(self, g: jax.Array, key: jax.Array) -> Packed:
        """Clips, rounds and packs a float array; a NaN or infinity makes the scale one."""
        g = g.astype(jnp.float32)
        if g.size == 0:
            return Packed(jnp.zeros(0, jnp.uint32), jnp.zeros((), jnp.float32))
        if self.clip is not None:
            g = _cut(g, self.clip)
        return self.encode_by(g, jnp.max(jnp.abs(g)), key)

    def encode_by(self, g: jax.Array, scale: jax.Array, key: jax.Array) -> Packed:
        """`encode` of float32 values by a scale s that is given, at least max|g|, without clip."""
        share = jnp.abs(g) / jnp.where(scale > 0, scale, 1)
        levels = cast(share * np.float32(self.levels), Int(self.bits, signed=False), key)
        codes = jnp.where(g < 0, self.levels - levels, self.levels + levels)
        return Packed(pack(codes.astype(jnp.uint32), self.bits), scale)

    def decode(self, packed: Packed, like: jax.Array | jax.ShapeDtypeStruct) -> jax.Array:
        """The gradient, in the shape and dtype of `like`."""
        codes = unpack(packed.words, self.bits, like.shape)
        # a table, because XLA would divide by multiplying, and first scale / k: q = 1 is exact here
        q = jnp.asarray(np.arange(-self.levels, self.levels + 1) / self.levels, jnp.float32)
        return (q[codes] * packed.scale).astype(like.dtype)

    def describe(self) -> str:
        """A short text for tables."""
        return f"SQ{self.bits}" + ("" if self.clip is None else f", clipped at {self.clip:g} sigma")


def _cut(g: jax.Array, clip: float) -> jax.Array:
    """Values of `g` beyond +-clip sigma moved there."""
    largest = jnp.max(jnp.abs(g))
    unit = jnp.where(largest > 0, largest, 1)
    sigma = unit * jnp.std(g / unit)  # of g itself, squares leave float32 below 1e-19, above 1e19
    equal = jnp.min(g) == jnp.max(g)  # their computed sigma is a rounding error, seldom 0
    most = jnp.where(equal, jnp.inf, clip * sigma)
    return jnp.clip(g, -most, most)
