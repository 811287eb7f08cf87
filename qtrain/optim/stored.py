"""Weights that are stored narrow: the model computes with them, the optimizer keeps the wide ones.

Unlike a quantizer in the forward pass, there is no estimator: the gradient is taken at the narrow
weights and applied to the wide ones [hou2019analysis, Sec. 2].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import optax

from qtrain.optim.paths import check_names, find, leaf_path

Stored = Callable[[jax.Array, jax.Array | None], jax.Array]  # (wide weight, curvature) -> narrow


class StoredState(NamedTuple):
    """The full-precision weights, and the state of the optimizer that moves them."""

    wide: optax.Params
    inner: optax.OptState


def stored(
    inner: optax.GradientTransformation,
    quantizers: Mapping[str, Stored],
    apply_updates: Callable[[optax.Params, optax.Updates], optax.Params] = optax.apply_updates,
) -> optax.GradientTransformationExtraArgs:
    """`inner` on full-precision weights that live in the state.

    Args:
      quantizers: by path of a leaf ("conv1/kernel"), what makes the narrow weight of the wide one
        and of its second moment ("nu" in the state of optax's or qtrain's Adam or RMSProp; None
        where the optimizer has none). Leaves without one are stored as they are.
      apply_updates: how the wide weights move, e.g. `optim.apply_updates` on a grid of their own.

    `init` takes the wide weights, of which `narrow` gives those to begin with. `update` returns
    the difference to the next narrow weights: after `optax.apply_updates`, they may be off by a
    rounding, since p + (q - p) need not be q; `narrow` gives them exactly.

    Raises:
      ValueError: `init` finds no weight of a name in `quantizers`; `update` without the weights.
    """
    inner = optax.with_extra_args_support(inner)

    def init(params):
        check_names(quantizers, params)
        return StoredState(params, inner.init(params))

    def update(grads, state, params=None, **extra):
        if params is None:
            raise ValueError("stored weights need the narrow weights: tx.update(grads, state, w)")
        updates, after = inner.update(grads, state.inner, state.wide, **extra)
        after = StoredState(apply_updates(state.wide, updates), after)
        moved = jax.tree.map(lambda q, p: q - p, narrow(after, quantizers), params)
        return moved, after

    return optax.GradientTransformationExtraArgs(init, update)


def narrow(state: optax.OptState, quantizers: Mapping[str, Stored]) -> optax.Params:
    """The narrow weights that belong to a state of `stored`, which may be inside others.

    Raises:
      ValueError: there is none, or several.
    """
    found = find(state, StoredState)
    wide, moments = found.wide, _second_moments(found.inner)

    def quantize(path, w):
        name = leaf_path(path)
        if name not in quantizers:
            return w
        return quantizers[name](w, moments.get(name)).astype(w.dtype)

    return jax.tree_util.tree_map_with_path(quantize, wide)


def _second_moments(state: optax.OptState) -> dict[str, jax.Array]:
    """By leaf path: the tree called "nu", if the optimizer keeps one."""
    nu = optax.tree.get(state, "nu")
    if nu is None:
        return {}
    return {leaf_path(path): v for path, v in jax.tree_util.tree_flatten_with_path(nu)[0]}
