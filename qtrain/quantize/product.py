"""A float32 product that stays one: what makes bits the same with and without a compiler."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def product(a: jax.Array | np.float32, b: jax.Array | np.float32) -> jax.Array:
    """The float32 product, rounded by itself: the select keeps compilers from fusing it
    with the following addition, which would change its bits.
    """
    p = a * b
    return jnp.where(p == p, p, jnp.float32(jnp.nan))
