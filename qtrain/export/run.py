"""From the folder of a finished run to an exported model, and the proof that they agree."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from qtrain.export.model import Origin
from qtrain.nn import set_keys
from qtrain.recipes.config import from_json
from qtrain.train import metrics
from qtrain.train.checkpoint import Checkpoints
from qtrain.train.data import Dataset, normalize
from qtrain.train.evaluate import BATCH
from qtrain.train.state import create
from qtrain.train.text import Text


def find(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The folder of a run, which may lie beside its float32 baseline in `folder`; its config.

    Raises:
      ValueError: no run there, or several.
    """
    inside = sorted(p.parent for p in folder.glob(f"*/{metrics.NAME}"))
    narrow = [p for p in inside if p.name != "float32"]
    found = [folder] if (folder / metrics.NAME).is_file() else narrow or inside
    if len(found) != 1:
        choice = f"one of {', '.join(map(str, found))}" if found else "the folder of a run"
        raise ValueError(f"{folder} holds {len(found)} runs: give {choice}")
    header = next(metrics.read(found[0] / metrics.NAME), None)
    if header is None or header["kind"] != "run":
        raise ValueError(f"{found[0] / metrics.NAME} has no first row; {metrics.REMEDY}")
    return found[0], header["config"]


def trained(
    folder: Path, config: dict[str, Any], dataset: Dataset | Text, warn: Callable[[str], None]
) -> tuple[nnx.Module, Origin, int]:
    """The model of a run's newest checkpoint, as it is evaluated; its origin and its step.

    Raises:
      ValueError: there is no checkpoint, or every one is damaged.
    """
    recipe = from_json(config["recipe"])
    alone = dataclasses.replace(recipe, wire=None)  # workers are for training only
    program, state = create(alone, dataset, seed=config["seed"], steps=config["steps"])
    found = None
    if (folder / "checkpoints").is_dir():
        found = Checkpoints(folder / "checkpoints", config).restore(state, warn)
    if found is None:
        raise ValueError(f"{folder} has no checkpoint to export: let the run reach one")
    step, state = found
    params = jax.jit(program.moves.deploy)(state.params, state.optimizer)
    model = nnx.merge(program.eval_graph, params, program.hooks, state.stats, copy=True)
    origin = Origin(
        recipe=recipe, shape=dataset.train_x.shape[1:], num_classes=dataset.num_classes,
        mean=dataset.mean, std=dataset.std,
    )  # fmt: skip
    return set_keys(model, jax.random.key(0)), origin, step


def logits(model: nnx.Module, origin: Origin, dataset: Dataset | Text) -> np.ndarray:
    """Outputs for the whole test set, float32 (N, ..., classes), by a compiled program."""
    graph, state = nnx.split(model)

    @jax.jit
    def run(state, inputs):
        return nnx.merge(graph, state, copy=True)(normalize(inputs, origin.mean, origin.std))

    inputs = dataset.test_x
    index = np.arange(-(-len(inputs) // BATCH) * BATCH) % len(inputs)
    parts = [np.asarray(run(state, inputs[i])) for i in index.reshape(-1, BATCH)]
    return np.concatenate(parts)[: len(inputs)]


def accuracy(outputs: np.ndarray, dataset: Dataset | Text) -> float:
    """Share of labels whose output is the largest."""
    return float(np.mean(outputs.argmax(-1) == dataset.test_y))


def differing(a: np.ndarray, b: np.ndarray) -> int:
    """How many of two float32 arrays' values differ in a bit."""
    return int(np.sum(a.view(np.uint32) != b.view(np.uint32)))
