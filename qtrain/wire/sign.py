"""signSGD: one bit of each number [bernstein2018signsgd]."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from qtrain.wire.pack import pack, unpack
from qtrain.wire.stochastic import Packed


@dataclasses.dataclass(frozen=True)
class Sign:
    """A gradient tensor as its signs, +1 for 0; a tensor of zeros stays one.

    Biased: the size of the gradient is lost, and numbers near 0 count as much as others. `exchange`
    takes the mean of the workers' signs; the sign of that mean would be their majority vote. The
    definition is recalled [bernstein2018signsgd].
    """

    sources = ("bernstein2018signsgd",)

    def encode(self, g: jax.Array, key: jax.Array | None = None) -> Packed:
        """Packs a float array, one bit each; `key` is not used.

        The scale is 1, 0 for a tensor of zeros, and NaN if there is a NaN or an infinity.
        """
        largest = jnp.max(jnp.abs(g.astype(jnp.float32)), initial=0)
        scale = jnp.where(largest > 0, jnp.float32(1), 0)
        scale = jnp.where(jnp.isfinite(largest), scale, jnp.nan)
        return Packed(pack(g >= 0, 1), scale)

    def decode(self, packed: Packed, like: jax.Array | jax.ShapeDtypeStruct) -> jax.Array:
        """The signs, in the shape and dtype of `like`."""
        positive = unpack(packed.words, 1, like.shape)
        return jnp.where(positive == 1, packed.scale, -packed.scale).astype(like.dtype)

    def describe(self) -> str:
        """A short text for tables."""
        return "sign"
