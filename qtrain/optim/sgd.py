"""SGD with momentum and L2, every addition rounded [wang2018fp8, Sec. 3]."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from qtrain.optim.axpy import Rounding, axpy, check, map_leaves, need_params, per_leaf, rate


class SgdState(NamedTuple):
    """Steps so far, and v on the grid of the format."""

    count: jax.Array  # type: ignore[assignment]  # int32; optax's name, though tuple has it too
    velocity: optax.Params


def sgd(
    learning_rate: optax.ScalarOrSchedule,
    *,
    momentum: float = 0.9,
    weight_decay: float | optax.Params = 0.0,
    fmt: str = "e6m9",
    rounding: Rounding = "stochastic",
) -> optax.GradientTransformationExtraArgs:
    """G <- Q(g + weight_decay w);  v <- Q(g + momentum v);  w <- Q(w - learning_rate v).

    Q rounds to `fmt`. The weights themselves are the master copy: start from `round_params`,
    and go on by `apply_updates`, which ends on the same grid.

    `weight_decay` is one number, or a tree of one per array. `update` takes the weights and, for
    stochastic rounding, a `key`, different in each step.

    Raises:
      ValueError: a format that sums cannot be rounded to, an unknown rounding, a missing key.
    """
    target = check(fmt, rounding)

    def init(params):
        return SgdState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(grads, state, params=None, *, key=None, **_):
        need_params(params)
        lr = rate(learning_rate, state.count)

        def leaf(key_of, g, v, w, decay):
            g = axpy(decay, w, g, target, key_of("decay"))
            v = axpy(momentum, v, g, target, key_of("momentum"))
            return axpy(-lr, v, w, target, key_of("update")) - w, v

        decays = per_leaf(weight_decay, params)
        updates, velocity = map_leaves(leaf, key, rounding, grads, state.velocity, params, decays)
        return updates, SgdState(state.count + 1, velocity)

    return optax.GradientTransformationExtraArgs(init, update)
