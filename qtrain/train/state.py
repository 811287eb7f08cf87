"""What a training run carries from step to step, and how a recipe makes its first state."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from qtrain import optim
from qtrain.nn import RangeBatchNorm, RoundingKey, calibrate, quantize_model
from qtrain.quantize import fold
from qtrain.recipes.base import Recipe
from qtrain.recipes.layers import layers
from qtrain.recipes.model import model_of
from qtrain.train.data import normalize, order
from qtrain.train.mesh import AXIS
from qtrain.train.optimizer import Moves, moves


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
    moves: Moves  # of the weights
    wire: Any | None  # codec of exchanged gradients
    mesh: Mesh | None  # of the workers that exchange them
    mean: tuple[float, ...]  # of each channel of the images, in 0..1
    std: tuple[float, ...]


def create(
    recipe: Recipe,
    dataset: Any,
    *,
    seed: int,
    steps: int,
    mesh: Mesh | None = None,
    start: State | None = None,
) -> tuple[Program, State]:
    """Initializes the recipe's model for a `train.data.Dataset` and a run of `steps` steps.

    The same seed gives the same initial weights (before rounding) and data order to every
    recipe, so that runs differ by their number formats alone. A recipe that fills the wire needs
    the mesh whose devices are its workers. From `start`, the end of another run, come all numbers
    of the same path and shape: weights, statistics, and what quantizers have learned. Quantizers
    that learned nothing there are calibrated by the first batch.

    Raises:
      ValueError: unknown model, rules that match no layer, chunks longer than every sum, a wire
        without a mesh, a start of another model.
    """
    if recipe.wire is not None and mesh is None:
        raise ValueError(f"{recipe.key} exchanges gradients: it needs a mesh, see train.mesh")
    shape = dataset.train_x.shape[1:]
    workers = mesh.size if recipe.wire is not None and mesh is not None else 1
    model = model_of(
        _of_worker(recipe, workers), num_classes=dataset.num_classes, in_shape=shape,
        rngs=nnx.Rngs(seed),
    )  # fmt: skip
    found = layers(model, (recipe.batch_size // workers, *shape))  # a worker sums over its share
    if start is not None:
        _inherit(model, start)
    quantize_model(model, recipe.rules(found))
    model.train()
    first = order(len(dataset.train_x), seed, 0)[: recipe.batch_size]
    calibrate(model, normalize(jnp.asarray(dataset.train_x[first]), dataset.mean, dataset.std))
    if start is not None:
        _inherit(model, start)
    if recipe.wire is not None and recipe.norm is not None and recipe.norm.replicas == 1:
        _span_workers(model)
    model.eval()
    eval_graph = nnx.split(model)[0]
    model.train()
    parts: Any = nnx.split(model, nnx.Param, RoundingKey, ...)
    train_graph, params, hooks, stats = parts
    if recipe.update is not None:
        params = optim.round_params(params, recipe.update.fmt)
    stored = {f"{path}/kernel": q for path, q in recipe.stored(found).items()}
    constraints = {f"{path}/kernel": q for path, q in recipe.constraints(found).items()}
    how = moves(recipe, steps, params, stored, constraints)
    memory = how.transform.init(params)
    if stored:
        params = optim.narrow(memory, stored)
    program = Program(
        train_graph, eval_graph, hooks, how, recipe.wire, mesh, dataset.mean, dataset.std
    )
    key = jax.random.key_data(fold(jax.random.key(seed), "run"))
    state = State(jnp.zeros((), jnp.int32), params, stats, memory, key)
    # nnx shares equal constants between variables; a donated buffer must have one owner
    return program, jax.tree.map(lambda x: jnp.array(np.asarray(x)), state)


def _span_workers(model: nnx.Module) -> None:
    """Ranges of the whole batch are those of all workers' values."""
    for _, module in nnx.iter_modules(model):
        if isinstance(module, RangeBatchNorm):
            module.axis_name = AXIS


def _inherit(model: nnx.Module, start: State) -> None:
    """Gives `model` the numbers of `start` that have the same path and shape, in place.

    Raises:
      ValueError: a kernel of `start` finds none.
    """
    given = [x for tree in (start.params, start.stats) for x in _paths(tree)]
    old = {optim.leaf_path(path): np.asarray(x) for path, x in given}
    state = nnx.state(model, nnx.Not(RoundingKey))
    same = [n for path, x in _paths(state) if (n := optim.leaf_path(path)) in old
            and old[n].shape == x.shape]  # fmt: skip
    if alone := [n for n in old if n.endswith("/kernel") and n not in same]:
        raise ValueError(
            f"cannot begin with {alone[0]} of shape {old[alone[0]].shape}: this model has no such"
            " weight"
        )

    def take(path, x):
        name = optim.leaf_path(path)
        return jnp.asarray(old[name]) if name in same else x

    nnx.update(model, jax.tree_util.tree_map_with_path(take, state))


def _paths(tree: Any) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_flatten_with_path(tree)[0]


def _of_worker(recipe: Recipe, workers: int) -> Recipe:
    """What a worker that runs the model by itself does: replicas of the batch are the workers.

    Raises:
      ValueError: several replicas, and another number of workers.
    """
    norm = recipe.norm
    if norm is None or recipe.wire is None:
        return recipe
    if norm.replicas not in (1, workers):
        raise ValueError(
            f"{norm.replicas} replicas of range normalization do not fit {workers} workers: take 1"
            f" (the whole batch) or {workers}"
        )
    return dataclasses.replace(recipe, norm=dataclasses.replace(norm, replicas=1))


def loss_scale(state: State) -> tuple[jax.Array, jax.Array, jax.Array] | None:
    """The loss scale, steps skipped in all, and skipped in a row; None without loss scaling."""
    found = state.optimizer
    if not isinstance(found, optim.LossScaleState):
        return None
    return found.scale, found.skipped, found.in_a_row
