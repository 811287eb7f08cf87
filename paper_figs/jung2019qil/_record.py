"""Intervals of a real run while they are learned, for `intervals.py`.

    python -m paper_figs.jung2019qil._record      # a minute and a half on one core

The recipe as it is, seed 0: float32, then 4, 3 and 2 bits. Rows go to
results/jung2019qil/intervals.jsonl, one for each stage, quantized layer and role (weight, the
layer's kernel; activation, its input): by steps, counted through all stages, the ends of the
interval, and of weights gamma and the shares that become 0 and +-1; and at the end of the stage a
histogram of their magnitudes.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from paper_figs import short_run
from qtrain.nn.hooks import HOOKS
from qtrain.recipes import jung2019qil
from qtrain.recipes.base import Recipe
from qtrain.train.data import load
from qtrain.train.state import Program, State

PAPER = "jung2019qil"
SEED = 0
LAYERS = ("conv2", "hidden")  # those that the recipe quantizes, in order
EVERY = 8  # steps from one record to the next
FLOAT32 = 32  # bits of the first stage, which has no intervals
BINS = 60  # of a histogram, from 0 to the largest magnitude


def main() -> None:
    """Trains, records and writes the rows."""
    recipe = jung2019qil.recipe()
    dataset = load(recipe.data)
    rows: list[dict] = []
    state, before = None, 0
    for stage in chain(recipe):
        program, state, step = short_run.begin(stage, dataset, SEED, state)
        steps = stage.epochs * (len(dataset.train_x) // stage.batch_size)
        of_stage = Record(stage.weight[-1].setting.bits if stage.weight else FLOAT32)
        for i in range(steps):
            if i % EVERY == 0:
                of_stage.add(program, state, before + i)
            state, _ = step(state, *short_run.batch(stage, dataset, SEED, i))
        before += steps
        of_stage.add(program, state, before)
        rows += of_stage.rows()
    short_run.write(PAPER, "intervals", rows)


def chain(recipe: Recipe) -> list[Recipe]:
    """All runs, in the order in which one begins with the other."""
    return ([] if recipe.start is None else chain(recipe.start)) + [recipe]


class Record:
    """What is seen of one stage; `bits` of its weights."""

    def __init__(self, bits: int):
        self.bits = bits
        self.seen: dict[tuple[str, str], dict[str, Any]] = {}

    def add(self, program: Program, state: State, step: int) -> None:
        """Notes the intervals that the state has; the last weights seen stay."""
        model = nnx.merge(program.train_graph, state.params, program.hooks, state.stats, copy=True)
        for layer in LAYERS:
            module = getattr(model, layer)
            kernel = module.kernel[...]
            row = self.seen.setdefault((layer, "weight"), {"step": []})
            row["kernel"] = kernel
            if self.bits == FLOAT32:
                continue
            hook = getattr(module, next(n for n in HOOKS if hasattr(module, n)))
            _extend(row, step, interval(hook.rhs, kernel))
            other = self.seen.setdefault((layer, "activation"), {"step": []})
            _extend(other, step, interval(hook.lhs, None))

    def rows(self) -> list[dict]:
        """One a layer and role."""
        found = []
        for (layer, role), row in self.seen.items():
            kernel = row.pop("kernel", None)
            counts = {} if kernel is None else histogram(np.abs(np.asarray(kernel)))
            found.append({"bits": self.bits, "layer": layer, "role": role, **row, **counts})
        return found


def interval(module: nnx.Module, kernel: jax.Array | None) -> dict[str, float]:
    """Ends of a learned interval, and what it does with the weights, if it is of weights."""
    low, high = module.low_high()
    found = {"low": float(low), "high": float(high)}
    if kernel is None:
        return found
    size = jnp.abs(module(kernel))
    gamma = module.gamma[...] if module.settings.learn_gamma else 1.0
    shares = {"pruned": jnp.mean(size == 0), "clipped": jnp.mean(jnp.abs(kernel) > high)}
    return {**found, "gamma": float(gamma), **{k: float(v) for k, v in shares.items()}}


def _extend(row: dict[str, Any], step: int, values: dict[str, float]) -> None:
    row["step"].append(step)
    for name, value in values.items():
        row.setdefault(name, []).append(round(value, 6))


def histogram(size: np.ndarray) -> dict[str, Any]:
    """Counts of magnitudes in BINS bins up to `largest`."""
    counts, _ = np.histogram(size, BINS, (0, size.max()))
    return {"counts": counts.tolist(), "largest": float(size.max())}


if __name__ == "__main__":
    main()
