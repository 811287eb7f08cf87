"""Straight-through estimators: gradients for functions that are flat almost everywhere."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax


def straight_through(f: Callable, x: jax.Array, *, clip: tuple | None = None) -> jax.Array:
    """f(x), with the gradient of the identity [bengio2013estimating, Sec. 4].

    With `clip` = (low, high), the gradient is zero where x lies outside: values that saturate
    do not move [hubara2016bnn, eq. (4)]. Defined everywhere, for any f of the same shape;
    whatever f closes over has no gradient.
    """
    return _tangent_of(x, lax.stop_gradient(f(lax.stop_gradient(x))), clip)


@jax.custom_jvp
def _tangent_of(x, y, clip: tuple | None):
    """The value of `y` with the tangent of `x`.

    Takes all it needs as arguments: a rule that closes over traced values, such as a scale or a
    key, escapes their trace under remat, scan, cond and inner jits.
    """
    return y


@_tangent_of.defjvp
def _(primals, tangents):
    x, y, clip = primals
    t = tangents[0]
    if clip is not None:
        t = jnp.where((x >= clip[0]) & (x <= clip[1]), t, jnp.zeros_like(t))
    return _tangent_of(x, y, clip), t


def clip_range(fmt, scale: jax.Array | None) -> tuple:
    """The range of a format, in units of the unscaled value."""
    low = getattr(fmt, "min", -fmt.max)
    unit = 1.0 if scale is None else lax.stop_gradient(scale)
    return low * unit, fmt.max * unit
