"""How the weights of a recipe move: optimizer, rounding, and what becomes of them between steps."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
from flax import nnx

from qtrain import optim
from qtrain.nn.learned import Learned, decayed, rates
from qtrain.recipes.base import Adam, Momentum, Recipe, Update


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moves:
    """How the weights of a run move, and which of them are constrained."""

    transform: optax.GradientTransformationExtraArgs
    apply: Callable  # (weights, updates, new state of the optimizer) -> new weights
    constraints: Mapping[str, optim.Constraint]  # by path of the weight, see `optim.constrained`
    steps: int  # of the run

    def begin(self, params: Any, memory: Any, step: jax.Array) -> tuple[Any, Any]:
        """Weights and state of the optimizer with which a step begins."""
        if not self.constraints:
            return params, memory
        return optim.project(params, memory, self.constraints, step, self.steps)

    @property
    def deploys(self) -> bool:
        """Whether other weights are shipped than are trained."""
        plain = optim.Constraint.deploy
        return any(type(one).deploy is not plain for one in self.constraints.values())

    def deploy(self, params: Any, memory: Any) -> Any:
        """The weights that are evaluated and shipped."""
        return optim.deploy(params, memory, self.constraints) if self.deploys else params


def moves(
    recipe: Recipe,
    steps: int,
    params: nnx.State,
    stored: Mapping[str, Any] | None = None,
    constraints: Mapping[str, optim.Constraint] | None = None,
) -> Moves:
    """The recipe's optimizer for the weights `params`, with its rounding and its loss scale.

    Raises:
      ValueError: some weights are stored narrow and others constrained, or only quantizers are to
        be trained and none learns.
    """
    stored, constraints = stored or {}, constraints or {}
    if stored and constraints:
        raise ValueError(
            f"{recipe.key} stores {next(iter(stored))} narrow and constrains"
            f" {next(iter(constraints))}: a run can do one of both"
        )
    inner = _chosen(recipe, steps, params)
    if constraints:
        inner = optim.constrained(inner, constraints, steps)
    move = _apply_updates(recipe.update)
    apply: Callable = lambda params, updates, memory: move(params, updates)  # noqa: E731
    if stored:
        inner = optim.stored(inner, stored, move)
        # those that are stored narrow follow from the wide ones alone
        apply = lambda params, updates, memory: optim.narrow(memory, stored)  # noqa: E731
    if recipe.loss_scale is not None:
        inner = optim.loss_scaled(inner, recipe.loss_scale.init, dynamic=recipe.loss_scale.dynamic)
    return Moves(
        transform=optax.with_extra_args_support(inner), apply=apply, constraints=constraints,
        steps=steps,
    )  # fmt: skip


def _chosen(recipe: Recipe, steps: int, params: nnx.State) -> optax.GradientTransformation:
    """Momentum or Adam; learned numbers of quantizers move at their own rates."""
    settings, rate = recipe.optimizer, _schedule(recipe.optimizer, steps)
    variables = jax.tree.leaves(params, is_leaf=lambda x: isinstance(x, nnx.Variable))
    learns = any(isinstance(v, Learned) for v in variables)
    only = recipe.trains == "quantizers"
    if only and not learns:
        raise ValueError(f"{recipe.key} trains quantizers only, and none of them learns anything")
    mask = decayed(params) if learns else None
    kind: Callable = _adam if isinstance(settings, Adam) else _momentum
    inner = kind(settings, rate, recipe.update, mask)
    if not learns:
        return inner
    return optax.chain(inner, _scaled(rates(params, weights=0.0 if only else 1.0)))


def _scaled(factors: nnx.State) -> optax.GradientTransformation:
    """Updates times `factors`, leaf by leaf."""
    return optax.stateless(
        lambda updates, params=None: jax.tree.map(lambda u, f: f * u, updates, factors)
    )


def _apply_updates(update: Update | None) -> Callable:
    """How weights move: in float32, or on the grid of the master weights."""
    if update is None:
        return optax.apply_updates
    return functools.partial(optim.apply_updates, fmt=update.fmt)


def _momentum(
    settings: Momentum, rate: optax.ScalarOrSchedule, update: Update | None, mask: Any
) -> optax.GradientTransformation:
    decay, momentum = settings.weight_decay, settings.momentum
    if update is None:
        return optax.chain(
            optax.add_decayed_weights(decay, mask), optax.sgd(rate, momentum=momentum)
        )
    return optim.sgd(
        rate, momentum=momentum, weight_decay=_masked(decay, mask), fmt=update.fmt,
        rounding=update.rounding,
    )  # fmt: skip


def _adam(
    settings: Adam, rate: optax.ScalarOrSchedule, update: Update | None, mask: Any
) -> optax.GradientTransformation:
    chosen = {name: getattr(settings, name) for name in ("b1", "b2", "eps", "weight_decay")}
    if update is None:
        return optax.adamw(rate, **chosen, mask=mask)
    chosen["weight_decay"] = _masked(settings.weight_decay, mask)
    return optim.adam(rate, **chosen, fmt=update.fmt, rounding=update.rounding)


def _masked(decay: float, mask: Any) -> Any:
    """One decay for all, or one per array: 0 where the mask is False."""
    return decay if mask is None else jax.tree.map(lambda m: decay if m else 0.0, mask)


def _schedule(settings: Momentum | Adam, steps: int) -> optax.ScalarOrSchedule:
    if settings.schedule == "constant":
        return settings.lr
    return optax.cosine_decay_schedule(settings.lr, steps)
