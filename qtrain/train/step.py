"""One training step and one evaluation step: pure functions of arrays, for `jax.jit`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import PartitionSpec

from qtrain.nn import RoundingKey, set_keys
from qtrain.optim.loss_scale import all_finite
from qtrain.quantize import fold
from qtrain.train.data import normalize
from qtrain.train.mesh import AXIS
from qtrain.train.state import Program, State, loss_scale
from qtrain.wire import exchange

PLACES = ("weights", "outputs of the model", "loss", "gradients", "updated weights")  # in order


def train_step(
    program: Program, state: State, images: jax.Array, labels: jax.Array
) -> tuple[State, dict[str, jax.Array]]:
    """Forward, backward, update.

    Args:
      images: uint8 (N, H, W, C), or windows of text: uint8 (N, T).
      labels: int32 (N,), or (N, T): one per character. The loss is the mean over all.

    Returns:
      The new state, and scalars: loss, accuracy, skipped (in all), in_a_row, loss_scale, and
      `broken`, the index in PLACES of the first place that is not finite, or -1.
    """
    key = fold(jax.random.wrap_key_data(state.key), state.step)
    scaling = loss_scale(state)
    scale = jnp.float32(1.0) if scaling is None else scaling[0]
    moves = program.moves
    params, memory = moves.begin(state.params, state.optimizer, state.step)
    gradients = _gradients if program.wire is None else _exchanged
    grads, seen, stats = gradients(program, params, state.stats, key, scale, images, labels)
    updates, optimizer = moves.transform.update(grads, memory, params, key=fold(key, "update"))
    params = moves.apply(params, updates, optimizer)
    after = State(state.step + 1, params, stats, optimizer, state.key)
    finite_grads = None if scaling else all_finite(grads)  # a loss scale skips these by itself
    finite = (
        all_finite(state.params), seen["finite"], jnp.isfinite(seen["loss"]), finite_grads,
        all_finite(params),
    )  # fmt: skip
    metrics = {
        "loss": seen["loss"],
        "accuracy": seen["accuracy"],
        "broken": _first_broken(finite),
        **_scaling(after),
    }
    return after, metrics


def _gradients(program: Program, params, stats, key, scale, images, labels):
    """Gradients of `scale` times the loss; loss, accuracy, whether outputs are finite; stats."""

    def scaled_loss(params):
        hooks = set_keys(program.hooks, key)
        # a copy: what the model tracks is set inside the trace of the gradient
        model = nnx.merge(program.train_graph, params, hooks, stats, copy=True)
        logits = model(normalize(images, program.mean, program.std))
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        parts: Any = nnx.split(model, nnx.Param, RoundingKey, ...)
        return loss * scale, (loss, logits, parts[3])

    grads, (loss, logits, stats) = jax.grad(scaled_loss, has_aux=True)(params)
    accuracy = jnp.mean(jnp.argmax(logits, -1) == labels)
    return grads, {"loss": loss, "accuracy": accuracy, "finite": all_finite(logits)}, stats


def _exchanged(program: Program, params, stats, key, scale, images, labels):
    """The same over the mesh: each worker has its share of the batch and its own random bits, and
    tells the others its encoded gradients. What they see and track is averaged in float32.
    """

    def worker(params, stats, key, scale, images, labels):
        own = jax.random.fold_in(key, jax.lax.axis_index(AXIS))
        grads, seen, stats = _gradients(program, params, stats, own, scale, images, labels)
        grads = exchange(program.wire, grads, fold(key, "wire"), AXIS)
        finite = jax.lax.pmin(seen.pop("finite").astype(jnp.int32), AXIS) > 0
        seen, stats = jax.lax.pmean((seen, stats), AXIS)
        return grads, {**seen, "finite": finite}, stats

    whole, shared = PartitionSpec(), PartitionSpec(AXIS)
    specs = (whole, whole, whole, whole, shared, shared)
    across = jax.shard_map(
        worker, mesh=program.mesh, in_specs=specs, out_specs=whole, check_vma=False
    )
    return across(params, stats, key, scale, images, labels)


def eval_step(
    program: Program, params: nnx.State, stats: nnx.State, images: jax.Array, labels: jax.Array
) -> dict[str, jax.Array]:
    """Sums over a batch in which labels of -1 are padding: loss, correct."""
    hooks = set_keys(program.hooks, jax.random.key(0))  # the same bits in each evaluation
    model = nnx.merge(program.eval_graph, params, hooks, stats)
    logits = model(normalize(images, program.mean, program.std))
    real = labels >= 0
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    return {
        "loss": jnp.sum(jnp.where(real, losses, 0)),
        "correct": jnp.sum((jnp.argmax(logits, -1) == labels) & real),
    }


def _first_broken(finite) -> jax.Array:
    broken = jnp.stack([jnp.asarray(False) if ok is None else ~ok for ok in finite])
    return jnp.where(jnp.any(broken), jnp.argmax(broken), -1)


def _scaling(state: State) -> dict[str, jax.Array]:
    found = loss_scale(state)
    if found is None:
        return {}
    return dict(zip(("loss_scale", "skipped", "in_a_row"), found, strict=True))
