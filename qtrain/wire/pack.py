"""Small unsigned integers side by side in 32-bit words."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np


def pack(codes: jax.Array, bits: int) -> jax.Array:
    """Codes below 2^bits, of any shape, as uint32 (words,): floor(32 / bits) to a word.

    Row-major; the first code is in the lowest bits. Bits that are left over are zero, so the
    cost is 32 / floor(32 / bits) bits a code: 2 for 2, 3.2 for 3, 4 for 4.

    Raises:
      ValueError: bits not 1 to 32.
    """
    each = _per_word(bits)
    flat = codes.reshape(-1).astype(jnp.uint32)
    words = -(-flat.size // each)
    rows = jnp.pad(flat, (0, words * each - flat.size)).reshape(words, each)
    shifts = np.arange(each, dtype=np.uint32) * np.uint32(bits)
    return jnp.sum(rows << shifts, axis=1, dtype=jnp.uint32)  # disjoint bits: a sum is an or


def unpack(words: jax.Array, bits: int, shape: tuple[int, ...]) -> jax.Array:
    """The uint32 codes of `shape` that `pack` was given.

    Raises:
      ValueError: bits not 1 to 32, or another number of words than `shape` needs.
    """
    each, size = _per_word(bits), math.prod(shape)
    if words.shape != (-(-size // each),):
        raise ValueError(
            f"{size} codes of {bits} bits take {-(-size // each)} words, not {words.shape}"
        )
    shifts = np.arange(each, dtype=np.uint32) * np.uint32(bits)
    mask = np.uint32(2**bits - 1)
    return ((words[:, None] >> shifts) & mask).reshape(-1)[:size].reshape(shape)


def _per_word(bits: int) -> int:
    if not 1 <= bits <= 32:
        raise ValueError(f"codes must have 1 to 32 bits, not {bits}")
    return 32 // bits
