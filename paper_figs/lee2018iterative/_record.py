"""Each distortion of a retraining: how far weights move, what it costs, and where they lie.

    python -m paper_figs.lee2018iterative._record      # ten minutes on one core

The small CNN on fashion-mnist-8k, seed 0, 6 epochs in float32, and then 12 more with a distortion
after each, once for each of 1 to 4 bits, for two greedy ones, and for one bit at a constant rate.
Rows go to results/lee2018iterative/cycles.jsonl, one per run and cycle: cycle 0 is the first
distortion, of the trained weights, the last one that of the weights that are shipped.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np

from paper_figs import short_run
from qtrain.recipes import lee2018iterative
from qtrain.recipes.base import Recipe
from qtrain.train import mesh as meshes
from qtrain.train.data import Dataset, load
from qtrain.train.evaluate import evaluate
from qtrain.train.state import State
from qtrain.train.step import eval_step

PAPER = "lee2018iterative"
SEED, BITS = 0, (1, 2, 3, 4)
GREEDY = "2 bits, greedy"
STEADY = "1 bit, steady"  # the same at a constant rate: what the falling rate does by itself
REACH, WIDTH = 4.0, 0.1  # of the histograms, in units of each channel's mean |w|


def main() -> None:
    """Trains and writes the rows."""
    recipes = runs()
    dataset = load(recipes[STEADY].data)
    start = last(recipes[STEADY].start, dataset, SEED)
    rows = []
    for run, recipe in recipes.items():
        rows += [{"run": run, **row} for row in cycles(recipe, dataset, SEED, start)]
        short_run.write(PAPER, "cycles", rows)


def runs() -> dict[str, Recipe]:
    """The recipe in 1 to 4 bits by falling rates, two greedy ones, and one by a constant rate."""
    found = {
        f"{bits} bit" + ("s" if bits > 1 else ""): lee2018iterative.recipe(
            lee2018iterative.Options(bits=bits)
        )
        for bits in BITS
    }
    greedy = lee2018iterative.Options(bits=2, method="greedy")
    found[GREEDY] = lee2018iterative.recipe(greedy)
    first = found["1 bit"]
    steady = dataclasses.replace(first.optimizer, schedule="constant")
    return {**found, STEADY: dataclasses.replace(first, optimizer=steady)}


def last(recipe: Recipe, dataset: Dataset, seed: int) -> State:
    """The state at the end of a run without constraints."""
    _, state, step = short_run.begin(recipe, dataset, seed)
    for i in range(_steps(recipe, dataset)):
        state, _ = step(state, *short_run.batch(recipe, dataset, seed, i))
    return state


def cycles(recipe: Recipe, dataset: Dataset, seed: int, start: State) -> list[dict]:
    """A row for each distortion of a run, and for what its last weights are shipped as."""
    program, state, step = short_run.begin(recipe, dataset, seed, start)
    deploy, test = jax.jit(program.moves.deploy), jax.jit(functools.partial(eval_step, program))
    score = functools.partial(_score, dataset, deploy, test)
    period = recipe.weight[-1].setting.period
    rows = []
    for i in range(_steps(recipe, dataset)):
        if i % period == 0:
            rows.append({"cycle": len(rows), "step": i, **score(state)})
        state, _ = step(state, *short_run.batch(recipe, dataset, seed, i))
    return [*rows, {"cycle": len(rows), "step": int(state.step), **score(state)}]


def _steps(recipe: Recipe, dataset: Dataset) -> int:
    return recipe.epochs * (len(dataset.train_x) // recipe.batch_size)


def _score(dataset: Dataset, deploy: Callable, test: Callable, state: State) -> dict:
    """Test loss and accuracy before and after, and what `measured` says, by layer."""
    shipped = state._replace(params=deploy(state.params, state.optimizer))
    mesh = meshes.create(1, 1)
    found = {
        when: dict(zip(("loss", "accuracy"), evaluate(test, mesh, dataset, s), strict=True))
        for when, s in (("before", state), ("after", shipped))
    }
    before, after = short_run.kernels(state.params), short_run.kernels(shipped.params)
    layers = {k: measured(np.asarray(w), np.asarray(after[k])) for k, w in before.items()}
    weights = sum(layer["n"] for layer in layers.values())
    moved = sum(layer["n"] * layer["moved"] for layer in layers.values()) / weights
    return {**found, "moved": moved, "layers": layers}


def measured(before: np.ndarray, after: np.ndarray) -> dict:
    """What a distortion does to one layer's weights.

    n         how many there are
    moved     mean (before - after)^2 [lee2018iterative, the quantization loss]
    share     the same over the mean square before
    counts    of before / mean|before| of its output channel, from -REACH to REACH by WIDTH
    """
    w, q = before.astype(np.float64), after.astype(np.float64)
    rows = w.reshape(-1, w.shape[-1])
    unit = np.abs(rows).mean(0)
    counts, _ = np.histogram(rows / np.where(unit > 0, unit, 1), edges())
    moved = ((w - q) ** 2).mean()
    return {
        "n": w.size, "moved": float(f"{moved:.6g}"),
        "share": float(f"{moved / (w**2).mean():.6g}"), "counts": counts.tolist(),
    }  # fmt: skip


def edges() -> np.ndarray:
    """Of the histograms' bins."""
    return np.linspace(-REACH, REACH, round(2 * REACH / WIDTH) + 1)


if __name__ == "__main__":
    main()
