"""Numbers of a quantizer that are trained with the weights, such as a threshold or an interval."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


class Learned(nnx.Param):
    """A trained number of a quantizer; a parameter of the model like its weights.

    `rate` multiplies its learning rate; `decay` says whether weight decay acts on it.
    """

    def __init__(
        self, value: jax.Array, *, rate: float = 1.0, decay: bool = False, **metadata: Any
    ):
        super().__init__(value, rate=rate, decay=decay, **metadata)


def rates(params: nnx.State, *, weights: float = 1.0) -> nnx.State:
    """For each array of `params`, what multiplies its learning rate; `weights` is that of others.

    A tree of the same structure, of floats.
    """
    return _of_variables(params, lambda v: v.rate if isinstance(v, Learned) else weights)


def decayed(params: nnx.State) -> nnx.State:
    """For each array of `params`, whether weight decay acts on it: a tree of bools."""
    return _of_variables(params, lambda v: v.decay if isinstance(v, Learned) else True)


def _of_variables(params: nnx.State, choose) -> nnx.State:
    is_variable = lambda x: isinstance(x, nnx.Variable)  # noqa: E731
    return jax.tree.map(lambda v: jax.tree.map(lambda _: choose(v), v), params, is_leaf=is_variable)


def calibrate(model: nnx.Module, batch: jax.Array) -> None:
    """Gives quantizers with a `calibrate` method their first values, in place.

    `batch` goes through the model in training mode, without the quantizers that keep state, so
    that each of them sees what the float32 model would give it; the last operand, where a layer is
    called several times. Statistics stay as they were.
    """
    from qtrain.nn.hooks import ModuleHook

    hooks = [module for _, module in nnx.iter_modules(model) if isinstance(module, ModuleHook)]
    if not any(hasattr(q, "calibrate") for h in hooks for q in (h.lhs, h.rhs)):
        return
    before = jax.tree.map(jnp.copy, nnx.state(model, nnx.BatchStat))
    for one in hooks:
        one.calibrating = True
    model(batch)
    for one in hooks:
        one.calibrating = False
    nnx.update(model, before)
