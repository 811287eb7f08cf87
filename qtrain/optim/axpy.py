"""alpha x + y on the grid of a narrow format: what a weight update is made of.

[wang2018fp8, Sec. 3] writes SGD as three of these, each rounded stochastically, so that
updates smaller than half an ulp of the weight still arrive on average.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import optax

from qtrain import formats
from qtrain.formats import Float
from qtrain.ops.adder import add
from qtrain.quantize import cast, fold
from qtrain.quantize.product import product

Tree = TypeVar("Tree")
Rounding = Literal["nearest", "stochastic"]


def axpy(alpha, x: jax.Array, y: jax.Array, fmt: Float | str, key: jax.Array | None = None):
    """fmt(alpha x + y), float32: the product rounded to float32, then one rounded addition.

    Nearest without a key: rounded once from the exact sum. With a key, stochastic: the float32
    sum decides the odds, which its rounding shifts by at most 2^-(23 - man) of an ulp.
    """
    target = formats.get_float(fmt)
    p = product(jnp.asarray(alpha, jnp.float32), x)
    return add(y, p, target, "nearest") if key is None else cast(y + p, target, key)


def round_params(params: Tree, fmt: Float | str) -> Tree:
    """Master weights on the grid of `fmt`, nearest: what a rounded optimizer starts from."""
    return jax.tree.map(lambda w: cast(w, fmt), params)


def apply_updates(params: Tree, updates: Tree, fmt: Float | str) -> Tree:
    """`optax.apply_updates`, ending on the grid of `fmt`: on the weights w' that `updates` were
    computed from.

    params + updates alone may miss them by one float32 ulp, where a weight grows in one step by
    a factor of more than 2^(22 - man); rounding takes that ulp away again. Only a weight w that
    shrinks to less than 2^(man - 22) of itself, but not to zero, may end beside w', by at most
    2^-23 |w|: the float32 difference w' - w holds no more.
    """
    return round_params(optax.apply_updates(params, updates), fmt)


def check(fmt: str, rounding: Rounding) -> Float:
    """The format of an update.

    Raises:
      ValueError: unknown, or no float of at most 21 mantissa bits; unknown rounding.
    """
    found = formats.get(fmt)
    if not isinstance(found, Float) or found.man > 21:
        raise ValueError(
            f"cannot update weights in {fmt}: a float of at most 21 mantissa bits is needed"
        )
    if rounding not in ("nearest", "stochastic"):
        raise ValueError(f"unknown rounding {rounding!r}: nearest or stochastic")
    return found


def map_leaves(update: Callable, key: jax.Array | None, rounding: Rounding, *trees) -> tuple:
    """`update(key_of, *leaves) -> tuple` over pytrees of one structure; a tuple of pytrees.

    `key_of(role)` is the key of one addition: `key` folded by the leaf's path and the role, or
    None for nearest rounding.

    Raises:
      ValueError: stochastic rounding without a key.
    """
    if rounding == "stochastic" and key is None:
        raise ValueError("stochastic updates need a key: tx.update(grads, state, params, key=key)")

    def one(path, *leaves):
        def key_of(role: str):
            if key is None or rounding == "nearest":
                return None
            return fold(key, jax.tree_util.keystr(path), role)

        return update(key_of, *leaves)

    structure: Any  # PyTreeDef, which JAX exports without its methods
    flat, structure = jax.tree_util.tree_flatten_with_path(trees[0])
    rest = [structure.flatten_up_to(tree) for tree in trees[1:]]
    rows = [one(path, leaf, *r) for (path, leaf), *r in zip(flat, *rest, strict=True)]
    columns = zip(*rows, strict=True)
    return tuple(structure.unflatten(column) for column in columns)


def per_leaf(value: Any, params: optax.Params) -> Any:
    """A tree of one number per array of `params`: `value` itself, or the same number for all."""
    return jax.tree.map(lambda _: value, params) if isinstance(value, float | int) else value


def need_params(params) -> None:
    """Raises ValueError where `update` was called without the weights."""
    if params is None:
        raise ValueError("a rounded update needs the weights: tx.update(grads, state, params)")


def rate(learning_rate: optax.ScalarOrSchedule, count: jax.Array) -> jax.Array:
    """The learning rate at step `count`."""
    return jnp.asarray(learning_rate(count) if callable(learning_rate) else learning_rate)
