"""QSGD: stochastic levels in units of the gradient's length [alistarh2017qsgd]."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from qtrain.wire.stochastic import Packed, Stochastic


@dataclasses.dataclass(frozen=True, kw_only=True)
class QSGD:
    """A gradient tensor g as |g|_2 sign(g) q, with levels q = 0, 1/s, ..., 1 [alistarh2017qsgd].

    `Stochastic` with the 2-norm of the tensor in place of its largest magnitude, and so without
    bias (recalled). s = 2^(bits - 1) - 1. Most of d values are near |g|_2 / sqrt(d): with s far
    below sqrt(d) nearly all become 0, and a few of them |g|_2 / s.

    Differs from the source: codes have a fixed width, not Elias's, and the norm is that of the
    whole tensor, not of buckets.
    """

    bits: int = 8

    sources = ("alistarh2017qsgd",)

    def __post_init__(self) -> None:
        Stochastic(bits=self.bits)

    @property
    def levels(self) -> int:
        """s, the number of levels above 0."""
        return Stochastic(bits=self.bits).levels

    def encode(self, g: jax.Array, key: jax.Array) -> Packed:
        """Rounds and packs a float array; a NaN or infinity makes the scale a NaN."""
        g = g.astype(jnp.float32)
        largest = jnp.max(jnp.abs(g), initial=0)
        unit = jnp.where(largest == 0, 1, largest)
        # of g itself, squares leave float32 below 1e-19, above 1e19
        norm = largest * jnp.sqrt(jnp.sum((g / unit) ** 2))
        return Stochastic(bits=self.bits).encode_by(g, norm, key)

    def decode(self, packed: Packed, like: jax.Array | jax.ShapeDtypeStruct) -> jax.Array:
        """The gradient, in the shape and dtype of `like`."""
        return Stochastic(bits=self.bits).decode(packed, like)

    def describe(self) -> str:
        """A short text for tables."""
        return f"QSGD, {self.bits} bits"
