"""Random bits from a counter: cheap enough to fuse into the rounding they are for.

A word is a hash of its index and a key, so it does not matter how an array is cut over
devices or loop steps. `jax.random.bits` (threefry) costs about 80 times as much as rounding.
"""

from __future__ import annotations

import math
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def mix(counter: jax.Array, k0, k1) -> jax.Array:
    """Hashes uint32 counters under the key words k0 and k1; elementwise, uint32.

    Two multiply-xorshift rounds [wellons2018prospecting, lowbias32] with one key word before
    each: since k1 enters between the rounds, the streams of two keys are not permutations or
    shifts of one another. Not for raw keys, which differ in few bits: see `key_words`.
    """
    h = counter * np.uint32(0x9E3779B1) + k0
    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x7FEB352D)
    h = (h ^ (h >> np.uint32(15))) + k1
    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x846CA68B)
    return h ^ (h >> np.uint32(16))


def random_words(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Uniform uint32 words of `shape`, one per row-major index.

    Raises:
      ValueError: 2^32 elements or more, for which the counter would repeat; several keys.
    """
    size = math.prod(shape)
    if size >= 2**32:
        raise ValueError(f"{size} elements need more than a 32-bit counter: use several keys")
    k0, k1 = key_words(key)
    return mix(lax.iota(jnp.uint32, size).reshape(shape), k0, k1)


def key_words(key: jax.Array) -> jax.Array:
    """The two uint32 words that seed `mix`, from a JAX PRNG key, typed or raw.

    `mix` is short: of words that differ in a few low bits, as those of key(0) and key(1) do, it
    makes streams that depend on each other. So the key goes through its own generator first.

    Raises:
      ValueError: several keys at once.
    """
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if key.ndim != 1 - typed:
        raise ValueError(f"one key is needed, not an array of shape {key.shape}: use jax.vmap")
    key = fold(key, "random bits")
    return (jax.random.key_data(key) if typed else key).reshape(-1)[-2:]


def fold(key: jax.Array, *parts: int | str | jax.Array) -> jax.Array:
    """A key for a place in the run: folds in the step, the layer's path, the role."""
    for part in parts:
        number = zlib.crc32(part.encode()) if isinstance(part, str) else part
        key = jax.random.fold_in(key, number)
    return key
