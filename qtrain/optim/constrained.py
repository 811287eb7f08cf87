"""Weights on a constraint that may change over a run: pruned, frozen, shared, now and then rounded.

Unlike `stored` weights there is one copy of each weight and no latent one: what the constraint
takes away is gone [lee2018iterative].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from qtrain.optim.paths import check_names, find, leaf_path


class Constraint:
    """What happens to one weight array over a run of `steps` steps; by default, nothing.

    A subclass is frozen and hashable. Everything is traced in each step: rare work belongs in a
    `lax.cond` on the step.
    """

    def init(self, w: jax.Array, steps: int) -> Any:
        """A pytree of arrays that the constraint keeps; `w` is the weight to begin with."""
        return ()

    def project(
        self, w: jax.Array, state: Any, step: jax.Array, steps: int
    ) -> tuple[jax.Array, Any]:
        """The weight that step number `step` (0, 1, ..., an int32 scalar) begins with."""
        return w, state

    def gradient(self, g: jax.Array, w: jax.Array, state: Any) -> jax.Array:
        """The gradient that the optimizer sees in place of `g`, the one at `w`."""
        return g

    def deploy(self, w: jax.Array, state: Any) -> jax.Array:
        """The weight that is evaluated and shipped."""
        return w


class ConstrainedState(NamedTuple):
    """What each constraint keeps, by the path of its weight, and the state of the optimizer."""

    kept: dict[str, Any]
    inner: optax.OptState


def constrained(
    inner: optax.GradientTransformation, constraints: Mapping[str, Constraint], steps: int
) -> optax.GradientTransformationExtraArgs:
    """`inner`, whose gradients go through the constraints of their weights.

    Args:
      constraints: by path of a leaf ("conv1/kernel"). Leaves without one are free.
      steps: the length of the run.

    Before each step's gradient, `project` gives the weights to take it at; `deploy` gives those to
    evaluate.

    Raises:
      ValueError: `init` finds no weight of a name in `constraints`; `update` without the weights.
    """
    inner = optax.with_extra_args_support(inner)

    def init(params):
        check_names(constraints, params)
        kept = {n: constraints[n].init(w, steps) for n, w in _named(params).items()
                if n in constraints}  # fmt: skip
        return ConstrainedState(kept, inner.init(params))

    def update(grads, state, params=None, **extra):
        if params is None:
            raise ValueError("constrained weights need themselves: tx.update(grads, state, w)")

        def change(path, g, w):
            name = leaf_path(path)
            if name not in constraints:
                return g
            return constraints[name].gradient(g, w, state.kept[name])

        grads = jax.tree_util.tree_map_with_path(change, grads, params)
        updates, after = inner.update(grads, state.inner, params, **extra)
        return updates, ConstrainedState(state.kept, after)

    return optax.GradientTransformationExtraArgs(init, update)


def project(
    params: optax.Params,
    state: optax.OptState,
    constraints: Mapping[str, Constraint],
    step: jax.Array,
    steps: int,
) -> tuple[optax.Params, optax.OptState]:
    """Weights that satisfy the constraints of step `step`, and the state that goes with them.

    `state` may have a state of `constrained` inside others, but one only.
    """
    kept = dict(find(state, ConstrainedState).kept)
    new = {}
    for name, w in _named(params).items():
        if name in constraints:
            moved, kept[name] = constraints[name].project(w, kept[name], step, steps)
            new[name] = moved.astype(w.dtype)

    def replace(node):
        return node._replace(kept=kept) if isinstance(node, ConstrainedState) else node

    is_ours = lambda node: isinstance(node, ConstrainedState)  # noqa: E731
    return _replaced(params, new), jax.tree.map(replace, state, is_leaf=is_ours)


def deploy(
    params: optax.Params, state: optax.OptState, constraints: Mapping[str, Constraint]
) -> optax.Params:
    """The weights that are evaluated and shipped."""
    kept = find(state, ConstrainedState).kept
    new = {
        name: constraints[name].deploy(w, kept[name]).astype(w.dtype)
        for name, w in _named(params).items()
        if name in constraints
    }
    return _replaced(params, new)


def _named(params: optax.Params) -> dict[str, jax.Array]:
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return {leaf_path(path): jnp.asarray(w) for path, w in leaves}


def _replaced(params: optax.Params, new: Mapping[str, jax.Array]) -> optax.Params:
    return jax.tree_util.tree_map_with_path(lambda p, w: new.get(leaf_path(p), w), params)
