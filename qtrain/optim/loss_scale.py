"""Loss scaling: errors times a factor, gradients divided by it, non-finite steps skipped."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


class LossScaleState(NamedTuple):
    """The factor for the next loss, and how it has gone so far."""

    scale: jax.Array  # float32
    good: jax.Array  # int32, finite steps since the factor last changed
    skipped: jax.Array  # int32, steps left out because of a gradient that was not finite
    in_a_row: jax.Array  # int32, of these, the latest without a good one between
    inner: optax.OptState


def loss_scaled(
    inner: optax.GradientTransformation,
    init: float,
    *,
    dynamic: bool = False,
    interval: int = 2000,
    factor: float = 2.0,
    largest: float = 2.0**24,
) -> optax.GradientTransformationExtraArgs:
    """`inner` on gradients of `state.scale` times the loss.

    A step whose gradients are not all finite changes nothing but the counts. With `dynamic`, it
    also divides the scale by `factor` (not below 1), and `interval` finite steps in a row
    multiply it (not above `largest`) [micikevicius2018mixed, Sec. 3.2].

    Raises:
      ValueError: a scale that is not positive and finite, a factor of at most 1.
    """
    if not 0 < init < float("inf"):
        raise ValueError(f"the loss scale must be positive and finite, not {init}")
    if factor <= 1 or interval < 1:
        raise ValueError(
            f"factor must be above 1 and interval at least 1, not {factor}, {interval}"
        )
    inner = optax.with_extra_args_support(inner)

    def begin(params):
        zero = jnp.zeros((), jnp.int32)
        return LossScaleState(jnp.asarray(init, jnp.float32), zero, zero, zero, inner.init(params))

    def update(grads, state, params=None, **extra):
        finite = all_finite(grads)
        unscaled = jax.tree.map(lambda g: g / state.scale, grads)
        updates, after = inner.update(unscaled, state.inner, params, **extra)
        updates = jax.tree.map(lambda u: jnp.where(finite, u, jnp.zeros_like(u)), updates)
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, state.inner)
        good = jnp.where(finite, state.good + 1, 0)
        scale = state.scale
        if dynamic:
            raised = jnp.where(good >= interval, jnp.minimum(scale * factor, largest), scale)
            scale = jnp.where(finite, raised, jnp.maximum(scale / factor, 1.0))
            good = jnp.where(good >= interval, 0, good)
        bad = (~finite).astype(jnp.int32)
        in_a_row = jnp.where(finite, 0, state.in_a_row + 1)
        return updates, LossScaleState(scale, good, state.skipped + bad, in_a_row, kept)

    return optax.GradientTransformationExtraArgs(begin, update)


def all_finite(tree) -> jax.Array:
    """Whether every number in a pytree of arrays is finite: a bool scalar."""
    finite = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(finite)) if finite else jnp.bool_(True)
