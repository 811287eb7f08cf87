"""The interval quantizer of [jung2019qil] as functions of c, d and gamma.

A transformer stretches the magnitudes in [c - d, c + d] over 0 to 1; what is below becomes 0,
what is above 1. A discretizer rounds the result [jung2019qil, eq. (1)].
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from qtrain.quantize.estimator import straight_through
from qtrain.zoo.uniform import round_steps

LEAST_U = 1e-6  # in the derivative of u^gamma, which has a pole at 0 for gamma < 1
SMALL, ADDED = 1e-3, 1e-4  # of the guards


def transform(
    x: jax.Array, c: jax.Array, d: jax.Array, gamma: jax.Array | None = None
) -> jax.Array:
    """0 below c - d, 1 above c + d, else u^gamma with u = (x - c + d) / (2 d), of x's shape.

    [jung2019qil, eq. (5)], which has no gamma; None stands for 1. The sources write u as alpha x +
    beta, alpha = 0.5 / d, beta = 0.5 - 0.5 c / d. Needs d > 0 and gamma > 0, see `guarded`.
    Gradients to all four arguments are the derivatives inside the interval, ends included, and
    zero outside; in u^gamma they take u as 1e-6 at least. NaN stays NaN.
    """
    u = (x - (c - d)) * (1 / (2 * d))  # as compilers would divide by a scalar: the same bits
    outside = (u < 0) | (u > 1)
    if gamma is None:
        inside = u
    else:
        inside = _power(jnp.where(outside, 0.5, u), gamma)
    return jnp.where(outside, jnp.where(u > 1, 1.0, 0.0), inside)


def transform_signed(
    w: jax.Array, c: jax.Array, d: jax.Array, gamma: jax.Array | None = None
) -> jax.Array:
    """sign(w) `transform`(|w|), in [-1, 1]: for weights [jung2019qil, eq. (3)]."""
    sign = jnp.where(w < 0, -1.0, 1.0)
    return sign * transform(sign * w, c, d, gamma)


@jax.custom_jvp
def _power(u, gamma):
    """u^gamma, 0 <= u <= 1; LEAST_U bounds u in gamma u^(gamma - 1) and in u^gamma ln u, 0 at 0."""
    return u**gamma


@_power.defjvp
def _(primals, tangents):
    u, gamma = primals
    value, kept = u**gamma, jnp.maximum(u, LEAST_U)
    by_u, by_gamma = gamma * kept ** (gamma - 1), value * jnp.log(kept)
    return value, by_u * tangents[0] + by_gamma * tangents[1]


def discretize(v: jax.Array, q: int) -> jax.Array:
    """round(v q) / q, halves to even, for v in [-1, 1] [jung2019qil, eq. (2)].

    The gradient is the identity's where |v| <= 1, else zero. Each value is the float32 number
    nearest to j / q, compiled or not.
    """
    return straight_through(lambda v: round_steps(v, q), v, clip=(-1.0, 1.0))


def thresholds(c, d, q: int, gamma=1.0) -> tuple[jax.Array, jax.Array]:
    """Where |w| starts to be more than 0, and where it starts to be 1: the effective thresholds.

        th_p = c - d + 2 d (0.5 / q)^(1 / gamma),   th_c = c - d + 2 d (1 - 0.5 / q)^(1 / gamma)

    By the algebra of `transform` and `discretize`. An implementation note prints [jung2019qil,
    eq. (4)] as th_p = c + d + 0.5 d / q and th_c = c - d - 0.5 d / q, which is not that: both lie
    outside the interval, the pruning one above the clipping one. Nor is it with the signs of d
    exchanged, c - d + 0.5 d / q and c + d - 0.5 d / q: a step of the grid is 2 d / q wide, and half
    of it d / q. What the paper itself prints is uncertain.
    """
    low = c - d
    return (
        low + 2 * d * (0.5 / q) ** (1 / gamma),
        low + 2 * d * (1 - 0.5 / q) ** (1 / gamma),
    )


def guarded(c: jax.Array, d: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Guards: c and d as the transformer may use them, both positive, and d <= c.

    |c| and |d|, 1e-4 more where below 1e-3, then d = min(d, c), as a public implementation does
    with the parameters. Here the parameters stay as they are; the gradient passes the minimum
    as if it were not there, so that d, once beyond c, can come back.
    """
    c, d = positive(c), positive(d)
    return c, straight_through(lambda d: jnp.minimum(d, lax.stop_gradient(c)), d)


def positive(v: jax.Array) -> jax.Array:
    """|v|, 1e-4 more where that is below 1e-3."""
    size = jnp.where(v < 0, -v, v)
    return jnp.where(size < SMALL, size + ADDED, size)
