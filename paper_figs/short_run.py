"""The first steps of the run that `scripts/sweep.py` makes, for figures that look inside of it.

XLA adds in another order on another number of cores, and training enlarges that: the committed
rows come back to the last digit on one core (`taskset -c 0 python -m ...`), on two nearly.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from paper_figs import style
from qtrain.recipes.base import Recipe
from qtrain.train import metrics
from qtrain.train.data import Dataset, order
from qtrain.train.state import Program, State, create
from qtrain.train.step import train_step


def begin(
    recipe: Recipe, dataset: Dataset, seed: int, start: State | None = None
) -> tuple[Program, State, Callable]:
    """The run's program and first state, and its compiled step: (state, *batch) -> state, row.

    `start`: the last state of the run that it begins with, if there is one.
    """
    steps = recipe.epochs * (len(dataset.train_x) // recipe.batch_size)
    program, state = create(recipe, dataset, seed=seed, steps=steps, start=start)
    return program, state, jax.jit(functools.partial(train_step, program), donate_argnums=0)


def batch(recipe: Recipe, dataset: Dataset, seed: int, step: int) -> tuple[jax.Array, jax.Array]:
    """Images, uint8 (N, H, W, C), and labels of the run's step."""
    epoch, place = divmod(step, len(dataset.train_x) // recipe.batch_size)
    shuffled = order(len(dataset.train_x), seed, epoch)
    index = shuffled[place * recipe.batch_size : (place + 1) * recipe.batch_size]
    return jnp.asarray(dataset.train_x[index]), jnp.asarray(dataset.train_y[index])


def kernels(tree: Any) -> dict[str, jax.Array]:
    """The weights of an nnx state, or their gradients, by the layer's path."""
    flat = nnx.to_flat_state(tree)
    return {"/".join(map(str, path[:-1])): v[...] for path, v in flat if path[-1] == "kernel"}


def write(paper: str, name: str, rows: list[dict]) -> None:
    """The rows, as results/PAPER/NAME.jsonl; the first says by which code all were made."""
    about = metrics.provenance({})
    rows[0] |= {k: about[k] for k in ("commit", "versions")}  # of all rows: they are of one run
    path = style.RESULTS / paper / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print(f"{len(rows)} rows in {path}")
