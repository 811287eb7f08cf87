"""Averages gradients over workers that send each other encoded ones."""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from qtrain.quantize import fold

Tree = TypeVar("Tree")


def exchange(codec: Any, grads: Tree, key: jax.Array, axis_name: str) -> Tree:
    """Each worker's gradients encoded, gathered by all, decoded and averaged in rank order.

    Call it inside `jax.shard_map`. What crosses the mesh axis is the codec's payload alone; each
    worker adds the same numbers in the same order, so all get the same bits. Workers round
    independently: the error of the mean falls as 1 / workers.

    Args:
      codec: has `encode(array, key) -> payload` and `decode(payload, like) -> array`, see
        `wire.Stochastic`.
      grads: this worker's gradients, a pytree of float arrays.
      key: one PRNG key, the same on all workers, different in each step.
    """
    worker = jax.random.fold_in(key, lax.axis_index(axis_name))

    def average(path, g):
        packed = codec.encode(g, fold(worker, jax.tree_util.keystr(path)))
        gathered = jax.tree.map(lambda x: lax.all_gather(x, axis_name), packed)
        decoded = jax.vmap(lambda one: codec.decode(one, g))(gathered)
        return jnp.mean(decoded, axis=0)

    return jax.tree_util.tree_map_with_path(average, grads)
