"""What a training run carries from step to step, and how a recipe makes its first state."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from qtrain import models, optim
from qtrain.nn import RangeBatchNorm, RangeNorm, RoundingKey, quantize_model, replace_batch_norms
from qtrain.quantize import fold
from qtrain.recipes.base import Adam, Momentum, Recipe, Update
from qtrain.recipes.layers import layers
from qtrain.train.mesh import AXIS


class State(NamedTuple):
    """All arrays of a run; the data order follows from `step`, so it is the data cursor too."""

    step: jax.Array  # int32, steps done
    params: nnx.State
    stats: nnx.State  # running statistics and whatever else the model keeps
    optimizer: optax.OptState
    key: jax.Array  # uint32 words of the run's PRNG key


@dataclasses.dataclass(frozen=True)
class Program:
    """The static side of a run: graphs of the model and the optimizer."""

    train_graph: nnx.GraphDef
    eval_graph: nnx.GraphDef
    hooks: nnx.State  # rounding keys of the layers, set anew each step
    optimizer: optax.GradientTransformationExtraArgs
    apply: Callable  # (weights, updates, new state of the optimizer) -> new weights
    wire: Any | None  # codec of exchanged gradients
    mesh: Mesh | None  # of the workers that exchange them
    mean: tuple[float, ...]  # of each channel of the images, in 0..1
    std: tuple[float, ...]


def create(
    recipe: Recipe, dataset: Any, *, seed: int, steps: int, mesh: Mesh | None = None
) -> tuple[Program, State]:
    """Initializes the recipe's model for a `train.data.Dataset` and a run of `steps` steps.

    The same seed gives the same initial weights (before rounding) and data order to every
    recipe, so that runs differ by their number formats alone. A recipe that fills the wire needs
    the mesh whose devices are its workers.

    Raises:
      ValueError: unknown model, rules that match no layer, chunks longer than every sum, a wire
        without a mesh.
    """
    if recipe.wire is not None and mesh is None:
        raise ValueError(f"{recipe.key} exchanges gradients: it needs a mesh, see train.mesh")
    shape = dataset.train_x.shape[1:]
    model = models.create(
        recipe.model, num_classes=dataset.num_classes, in_shape=shape, rngs=nnx.Rngs(seed)
    )
    workers = mesh.size if recipe.wire is not None and mesh is not None else 1
    norm, exchanged = recipe.norm, recipe.wire is not None
    if norm is not None:
        replace_batch_norms(model, _per_worker(norm, workers) if exchanged else norm)
    found = layers(model, (recipe.batch_size // workers, *shape))  # a worker sums over its share
    if norm is not None and exchanged and norm.replicas == 1:
        for _, module in nnx.iter_modules(model):
            if isinstance(module, RangeBatchNorm):
                module.axis_name = AXIS  # its range is that of all workers' values
    quantize_model(model, recipe.rules(found))
    quantizers = {f"{path}/kernel": q for path, q in recipe.stored(found).items()}
    model.eval()
    eval_graph = nnx.split(model)[0]
    model.train()
    parts: Any = nnx.split(model, nnx.Param, RoundingKey, ...)
    train_graph, params, hooks, stats = parts
    if recipe.update is not None:
        params = optim.round_params(params, recipe.update.fmt)
    transform = optimizer(recipe, steps, quantizers)
    memory = transform.init(params)
    if quantizers:
        params = optim.narrow(memory, quantizers)
    program = Program(
        train_graph, eval_graph, hooks, transform, _apply(recipe, quantizers), recipe.wire, mesh,
        dataset.mean, dataset.std,
    )  # fmt: skip
    key = jax.random.key_data(fold(jax.random.key(seed), "run"))
    state = State(jnp.zeros((), jnp.int32), params, stats, memory, key)
    # nnx shares equal constants between variables; a donated buffer must have one owner
    return program, jax.tree.map(lambda x: jnp.array(np.asarray(x)), state)


def _per_worker(norm: RangeNorm, workers: int) -> RangeNorm:
    """What a worker that runs the model by itself does: replicas of the batch are the workers.

    Raises:
      ValueError: several replicas, and another number of workers.
    """
    if norm.replicas not in (1, workers):
        raise ValueError(
            f"{norm.replicas} replicas of range normalization do not fit {workers} workers: take 1"
            f" (the whole batch) or {workers}"
        )
    return dataclasses.replace(norm, replicas=1)


def optimizer(
    recipe: Recipe, steps: int, quantizers: dict[str, Any] | None = None
) -> optax.GradientTransformationExtraArgs:
    """The recipe's optimizer, with its rounding, its narrow weights and its loss scale."""
    settings, rate = recipe.optimizer, _schedule(recipe.optimizer, steps)
    inner = (
        _adam(settings, rate, recipe.update)
        if isinstance(settings, Adam)
        else _momentum(settings, rate, recipe.update)
    )
    if quantizers:
        inner = optim.stored(inner, quantizers, _apply_updates(recipe.update))
    if recipe.loss_scale is None:
        return optax.with_extra_args_support(inner)
    return optim.loss_scaled(inner, recipe.loss_scale.init, dynamic=recipe.loss_scale.dynamic)


def _apply_updates(update: Update | None) -> Callable:
    """How weights move: in float32, or on the grid of the master weights."""
    if update is None:
        return optax.apply_updates
    return functools.partial(optim.apply_updates, fmt=update.fmt)


def _apply(recipe: Recipe, quantizers: dict[str, Any]) -> Callable:
    """`Program.apply`: weights that are stored narrow follow from the wide ones alone."""
    if quantizers:
        return lambda params, updates, memory: optim.narrow(memory, quantizers)
    move = _apply_updates(recipe.update)
    return lambda params, updates, memory: move(params, updates)


def _momentum(
    settings: Momentum, rate: optax.ScalarOrSchedule, update: Update | None
) -> optax.GradientTransformation:
    decay, momentum = settings.weight_decay, settings.momentum
    if update is None:
        return optax.chain(optax.add_decayed_weights(decay), optax.sgd(rate, momentum=momentum))
    return optim.sgd(
        rate, momentum=momentum, weight_decay=decay, fmt=update.fmt, rounding=update.rounding
    )


def _adam(
    settings: Adam, rate: optax.ScalarOrSchedule, update: Update | None
) -> optax.GradientTransformation:
    chosen = {name: getattr(settings, name) for name in ("b1", "b2", "eps", "weight_decay")}
    if update is None:
        return optax.adamw(rate, **chosen)
    return optim.adam(rate, **chosen, fmt=update.fmt, rounding=update.rounding)


def _schedule(settings: Momentum | Adam, steps: int) -> optax.ScalarOrSchedule:
    if settings.schedule == "constant":
        return settings.lr
    return optax.cosine_decay_schedule(settings.lr, steps)


def loss_scale(state: State) -> tuple[jax.Array, jax.Array, jax.Array] | None:
    """The loss scale, steps skipped in all, and skipped in a row; None without loss scaling."""
    found = state.optimizer
    if not isinstance(found, optim.LossScaleState):
        return None
    return found.scale, found.skipped, found.in_a_row
