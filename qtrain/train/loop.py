"""Trains one recipe: steps, evaluations, checkpoints and metrics, in an order that can be resumed.

A run lives in a folder: metrics.jsonl and checkpoints/. Killed at any moment and resumed, it
ends with the same weights and the same metrics, bit for bit: the order of the images and all
random bits follow from the seed and the step.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from qtrain.recipes.base import Recipe
from qtrain.recipes.config import to_json
from qtrain.train import mesh as meshes
from qtrain.train import metrics
from qtrain.train.checkpoint import Checkpoints
from qtrain.train.data import Dataset, order
from qtrain.train.interrupt import Interrupt
from qtrain.train.progress import Bar
from qtrain.train.state import State, create
from qtrain.train.step import PLACES, eval_step, train_step

EVAL_BATCH = 500
MOST_SKIPPED = 50  # in a row; by then a dynamic loss scale has gone from 2^24 down to 1
AGREE_STEPS = 8  # between questions among several processes whether one was told to stop
SYNC_SECONDS = 1.0  # how often the metrics of finished steps are fetched and shown


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How a run is carried out; nothing here changes its numbers except seed, steps and devices."""

    folder: Path
    seed: int = 0
    steps: int | None = None  # stop there instead of after the recipe's epochs
    devices: int = 1  # data-parallel
    resume: bool = False
    checkpoint_every: int | None = None  # steps; None: each epoch
    quiet: bool = False

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("checkpoint_every", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and not least <= value < 2**32:  # a JAX key keeps 32 bits
                raise ValueError(f"{name} must be at least {least} and below 2^32, not {value}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """What came out of a run; test loss and accuracy are None if it was interrupted before."""

    key: str
    folder: Path
    step: int
    steps: int
    loss: float | None
    accuracy: float | None
    skipped: int  # steps that the loss scale left out
    step_seconds: float | None  # mean, without compilation, evaluation and checkpoints
    compile_seconds: float
    interrupted: bool


class NotFinite(ValueError):
    """Training cannot go on: a number is NaN or infinite."""


def fit(recipe: Recipe, dataset: Dataset, settings: Settings) -> Result:
    """Trains `recipe` on `dataset`, from the last checkpoint if `settings.resume`.

    Raises:
      NotFinite: loss, weights or outputs are NaN or infinite; names step, place and remedy.
      ValueError: the recipe does not fit the model or the data, or the checkpoint the settings.
      OSError: the folder cannot be written.
    """
    run = _Run(recipe, dataset, settings)
    try:
        with run.bar, Interrupt(run.bar.say) as interrupt:
            run.compile()
            while run.step < run.steps and not run.stops(interrupt.requested):
                run.advance()
            if run.saved != run.step:  # interrupted
                run.save()
            if run.step == run.steps and run.accuracy is None:  # resumed after its end
                run.evaluate()
    finally:
        run.writer.close()
    return run.result()


class _Run:
    """The parts of a run in progress."""

    def __init__(self, recipe: Recipe, dataset: Dataset, settings: Settings):
        if len(dataset.train_x) < recipe.batch_size:
            raise ValueError(
                f"batch size {recipe.batch_size} is more than the {len(dataset.train_x)} training"
                f" images of {dataset.name}"
            )
        self.recipe, self.data, self.settings = recipe, dataset, settings
        self.epoch = len(dataset.train_x) // recipe.batch_size  # steps
        self.steps = settings.steps or self.epoch * recipe.epochs
        self.mesh = meshes.create(settings.devices, recipe.batch_size)
        program, state = create(recipe, dataset, seed=settings.seed, steps=self.steps)
        self.state = meshes.place(self.mesh, state)
        self.loss: float | None = None
        self.accuracy: float | None = None
        self.skipped = 0
        self._program = program
        self._open(self._config())
        self._pending: list[tuple[int, dict[str, jax.Array]]] = []
        self._seconds, self._timed = 0.0, 0

    def _config(self) -> dict[str, Any]:
        """What must be the same for a run to be resumed."""
        settings = self.settings
        return {
            "recipe": to_json(self.recipe), "seed": settings.seed, "steps": self.steps,
            "devices": settings.devices, "data": self.data.name,
        }  # fmt: skip

    def _open(self, config: dict[str, Any]) -> None:
        """Reads the last checkpoint, if there is one to resume, and opens the metrics."""
        folder, main = self.settings.folder, jax.process_index() == 0
        try:
            (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                f"cannot write results to {folder}: {error.strerror}; choose another --out"
            ) from None
        self.checkpoints = Checkpoints(folder / "checkpoints", config)
        self.bar = Bar(
            self.recipe.key, total=self.steps, epoch=self.epoch,
            batch=self.recipe.batch_size, quiet=self.settings.quiet or not main,
        )  # fmt: skip
        found = None
        if self.settings.resume:
            found = self._restore(folder / metrics.NAME)
            at = f"step {found[0]}" if found else "the start: no checkpoint was saved yet"
            self.bar.say(f"{self.recipe.key}: resuming from {at}")
        self.step = 0
        if found is not None:
            self.step, self.state = found
        self.saved = self.step if found else -1
        self.writer = metrics.Writer(
            folder / metrics.NAME if main else None,
            keep_to=None if found is None else self.step,
            header=metrics.provenance(config),
        )

    def _restore(self, record: Path) -> tuple[int, State] | None:
        """Step and state of the newest checkpoint that the metrics reach."""
        if not self.checkpoints.steps():
            return None
        recorded = metrics.recorded(record, epoch=self.epoch, steps=self.steps)
        return self.checkpoints.restore(self.state, self.bar.say, recorded=recorded)

    def compile(self) -> None:
        """Compiles the step ahead of time, so that its time is no part of the first step's."""
        start = time.perf_counter()
        images, labels = self._batch(
            self.data.train_x, self.data.train_y, np.arange(self.recipe.batch_size)
        )
        step = jax.jit(functools.partial(train_step, self._program), donate_argnums=0)
        self._train = step.lower(self.state, images, labels).compile()
        self._eval = jax.jit(functools.partial(eval_step, self._program))
        self.compile_seconds = time.perf_counter() - start
        self.bar.start_at(self.step)
        self._clock = time.perf_counter()

    def _batch(self, images: np.ndarray, labels: np.ndarray, index: np.ndarray):
        return meshes.share(self.mesh, images[index]), meshes.share(self.mesh, labels[index])

    def stops(self, requested: bool) -> bool:
        """Whether to stop before the next step: all processes at the same one, or they would
        wait for each other, this one in a checkpoint and that one in a step.
        """
        if jax.process_count() == 1:
            return requested
        if self.step % AGREE_STEPS:
            return False
        votes = multihost_utils.process_allgather(np.int32(requested))
        return bool(np.any(votes))

    def advance(self) -> None:
        """One step, and what is due after it."""
        epoch, place = divmod(self.step, self.epoch)
        if place == 0 or not hasattr(self, "_order"):
            self._order = order(len(self.data.train_x), self.settings.seed, epoch)
        size = self.recipe.batch_size
        index = self._order[place * size : (place + 1) * size]
        images, labels = self._batch(self.data.train_x, self.data.train_y, index)
        self.state, row = self._train(self.state, images, labels)
        self.step += 1
        self._pending.append((self.step, row))
        if time.perf_counter() - self._clock > SYNC_SECONDS:
            self.sync()
        ends = self.step % self.epoch == 0 or self.step == self.steps
        if ends:
            self.sync()
            self.evaluate()
        every = self.settings.checkpoint_every
        if ends or (every and self.step % every == 0):
            self.save()

    def sync(self) -> None:
        """Fetches the metrics of finished steps, writes and shows them.

        Raises:
          NotFinite: one of them is broken.
        """
        if not self._pending:
            return
        rows = jax.device_get([row for _, row in self._pending])
        self._seconds += time.perf_counter() - self._clock
        self._timed += len(rows)
        for (step, _), row in zip(self._pending, rows, strict=True):
            row = {name: value.item() for name, value in row.items()}
            self._stop_if_broken(step, row)
            self.writer.write(
                kind="train", step=step, **{k: v for k, v in row.items() if k != "broken"}
            )
        self.skipped = row.get("skipped", 0)
        self.bar.report(
            self.step, loss=row["loss"], accuracy=row["accuracy"], overflows=self.skipped
        )
        self._pending.clear()
        self._clock = time.perf_counter()

    def _stop_if_broken(self, step: int, row: dict[str, Any]) -> None:
        if row["broken"] >= 0:
            self.writer.write(kind="stop", step=step, place=PLACES[row["broken"]], loss=row["loss"])
            saved = f"; the checkpoint of step {self.saved} is kept in {self.checkpoints.folder}"
            kept = saved if self.saved > 0 else ""
            raise NotFinite(
                f"step {step} of {self.recipe.key}: {PLACES[row['broken']]} not finite (loss"
                f" {row['loss']}); try a lower --optimizer.lr, or a format of more range{kept}"
            )
        if row.get("in_a_row", 0) >= MOST_SKIPPED:
            raise NotFinite(
                f"step {step} of {self.recipe.key}: gradients not finite in {MOST_SKIPPED} steps in"
                f" a row at loss scale {row['loss_scale']:g}; try --loss-scale dynamic, or a"
                " format of more range for the errors"
            )

    def evaluate(self) -> None:
        """Loss and accuracy on the test images; a row of metrics unless this step has one."""
        images, labels = self.data.test_x, self.data.test_y
        size = -(-EVAL_BATCH // self.mesh.size) * self.mesh.size
        sums = {"loss": 0.0, "correct": 0.0}
        for start in range(0, len(labels), size):
            index = np.arange(start, start + size)
            padded = np.where(index < len(labels), labels[index % len(labels)], -1).astype(np.int32)
            batch = (
                meshes.share(self.mesh, images[index % len(labels)]),
                meshes.share(self.mesh, padded),
            )
            found = jax.device_get(self._eval(self.state.params, self.state.stats, *batch))
            sums = {name: sums[name] + found[name].item() for name in sums}
        self.loss, self.accuracy = sums["loss"] / len(labels), sums["correct"] / len(labels)
        if not np.isfinite(self.loss):
            raise NotFinite(
                f"step {self.step} of {self.recipe.key}: test loss not finite ({self.loss}); try a"
                " lower --optimizer.lr, or a format of more range"
            )
        if self._timed:  # otherwise the row is there, from before this run was resumed
            self.writer.write(kind="eval", step=self.step, loss=self.loss, accuracy=self.accuracy)
            self.writer.write(kind="time", step=self.step, seconds=self._seconds, steps=self._timed)
        self._clock = time.perf_counter()

    def save(self) -> None:
        """A checkpoint of this step, after the metrics that lead to it."""
        self.sync()
        self.writer.flush()
        self.checkpoints.save(self.step, self.state)
        self.saved = self.step
        self._clock = time.perf_counter()

    def result(self) -> Result:
        """The summary of the run so far."""
        return Result(
            key=self.recipe.key, folder=self.settings.folder, step=self.step, steps=self.steps,
            loss=self.loss, accuracy=self.accuracy, skipped=self.skipped,
            step_seconds=self._seconds / self._timed if self._timed else None,
            compile_seconds=self.compile_seconds, interrupted=self.step < self.steps,
        )  # fmt: skip
