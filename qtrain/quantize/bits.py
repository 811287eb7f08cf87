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
    shifts of one another.
    """
    h = counter * np.uint32(0x9E3779B1) + k0
    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x7FEB352D)
    h = (h ^ (h >> np.uint32(15))) + k1
    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x846CA68B)
    return h ^ (h >> np.uint32(16))


def random_words(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Uniform uint32 words of `shape`, one per row-major index.

    Raises:
      ValueError: 2^32 elements or more, for which the counter would repeat.
    """
    size = math.prod(shape)
    if size >= 2**32:
        raise ValueError(f"{size} elements need more than a 32-bit counter: use several keys")
    k0, k1 = key_words(key)
    return mix(lax.iota(jnp.uint32, size).reshape(shape), k0, k1)


def key_words(key: jax.Array) -> jax.Array:
    """The two uint32 words of a JAX PRNG key, typed or raw."""
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.key_data(key)
    return key.reshape(-1)[-2:]


def fold(key: jax.Array, *parts: int | str | jax.Array) -> jax.Array:
    """A key for a place in the run: folds in the step, the layer's path, the role."""
    for part in parts:
        number = zlib.crc32(part.encode()) if isinstance(part, str) else part
        key = jax.random.fold_in(key, number)
    return key
