"""Straight-through estimators: gradients for functions that are flat almost everywhere."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax


def straight_through(f: Callable, x: jax.Array, *, clip: tuple | None = None) -> jax.Array:
    """f(x), with the gradient of the identity [bengio2013estimating, Sec. 4].

    With `clip` = (low, high), the gradient is zero where x lies outside: values that saturate
    do not move [hubara2016bnn, eq. (4)]. Defined everywhere, for any f of the same shape.
    """

    @jax.custom_jvp
    def rounded(x):
        return f(x)

    @rounded.defjvp
    def _(primals, tangents):
        (x,), (t,) = primals, tangents
        if clip is not None:
            t = jnp.where((x >= clip[0]) & (x <= clip[1]), t, jnp.zeros_like(t))
        return rounded(x), t

    return rounded(x)


def clip_range(fmt, scale: jax.Array | None) -> tuple:
    """The range of a format, in units of the unscaled value."""
    low = getattr(fmt, "min", -fmt.max)
    unit = 1.0 if scale is None else lax.stop_gradient(scale)
    return low * unit, fmt.max * unit
