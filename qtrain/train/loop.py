"""Trains one recipe: steps, evaluations, checkpoints and metrics, in an order that can be resumed.

A run lives in a folder: metrics.jsonl and checkpoints/. Killed at any moment and resumed, it
ends with the same weights and the same metrics, bit for bit: the order of the images and all
random bits follow from the seed and the step.
"""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from qtrain.recipes.base import Recipe
from qtrain.recipes.config import to_json
from qtrain.train import mesh as meshes
from qtrain.train import metrics
from qtrain.train.checkpoint import Checkpoints
from qtrain.train.data import Dataset, order
from qtrain.train.evaluate import evaluate
from qtrain.train.folders import made
from qtrain.train.interrupt import Interrupt
from qtrain.train.progress import Bar
from qtrain.train.settings import Result, Settings
from qtrain.train.starts import of_start
from qtrain.train.state import State, create, loss_scale
from qtrain.train.step import PLACES, eval_step, train_step
from qtrain.train.stopwatch import Stopwatch
from qtrain.train.text import Text
from qtrain.wire import traffic

MOST_SKIPPED = 50  # in a row; by then a dynamic loss scale has gone from 2^24 down to 1
REMEDY = "try a lower --optimizer.lr, or a format of more range"
SYNC_SECONDS = 1.0  # how often the metrics of finished steps are fetched and shown
AGREE_STEPS = 8  # instead, where several processes must do so, or stop, at the same step


class NotFinite(ValueError):
    """Training cannot go on: a number is NaN or infinite."""


def fit(recipe: Recipe, dataset: Dataset | Text, settings: Settings) -> Result:
    """Trains `recipe` on `dataset`, from the last checkpoint if `settings.resume`.

    A run to begin with (`recipe.start`) is trained first, or found where it was (`of_start`), after
    other runs that train it. If that is interrupted, its result is returned.

    Raises:
      NotFinite: loss, weights or outputs are NaN or infinite; names step, place and remedy.
      ValueError: the recipe does not fit the model or the data, or the checkpoint the settings.
      OSError: the folder cannot be written.
      KeyboardInterrupt: the last step was interrupted; it is done and saved, but what the
        caller would go on with is not wanted.
    """
    start = None
    if recipe.start is not None:
        with of_start(recipe.start, settings) as how:
            before = fit(recipe.start, dataset, how)
        if before.interrupted:
            return before
        start = before.final
    run = _Run(recipe, dataset, settings, start)
    try:
        with run.bar:
            if run.step == run.steps:  # resumed after its end
                run.evaluate()
                return run.result()
            run.compile()
            with Interrupt(run.bar.say) as interrupt:
                while run.step < run.steps and not run.stops(interrupt.requested):
                    run.advance()
                if run.saved != run.step:  # interrupted
                    run.save()
            if run.step == run.steps and run.agrees(interrupt.requested):  # in the last step
                raise KeyboardInterrupt
    finally:
        run.writer.close()
    return run.result()


class _Run:
    """The parts of a run in progress."""

    def __init__(
        self, recipe: Recipe, dataset: Dataset | Text, settings: Settings, start: State | None
    ):
        n = len(dataset.train_x)
        if n < recipe.batch_size:
            raise ValueError(
                f"batch size {recipe.batch_size} is more than the {n} training {dataset.unit} of"
                f" {dataset.name}"
            )
        self.recipe, self.data, self.settings = recipe, dataset, settings
        self.epoch = n // recipe.batch_size  # steps
        self.steps = settings.steps or self.epoch * recipe.epochs
        self.mesh = meshes.create(settings.devices, recipe.batch_size)
        program, state = create(
            recipe, dataset, seed=settings.seed, steps=self.steps, mesh=self.mesh, start=start
        )
        self.state = meshes.place(self.mesh, state)
        self.loss: float | None = None
        self.accuracy: float | None = None
        self.before: tuple[float, float] | None = None
        self.compile_seconds: float | None = None
        self._sent: float | None = None
        self._order = functools.lru_cache(1)(functools.partial(order, n, settings.seed))
        self._train: Any = jax.jit(functools.partial(train_step, program), donate_argnums=0)
        self._eval = jax.jit(functools.partial(eval_step, program))
        self._deploy = jax.jit(program.moves.deploy) if program.moves.deploys else None
        self._watch = Stopwatch()
        self._pending: list[tuple[int, dict[str, jax.Array]]] = []
        main = jax.process_index() == 0
        self.bar = Bar(
            recipe.key, total=self.steps, epoch=self.epoch, batch=recipe.batch_size,
            unit=dataset.unit, quiet=settings.quiet or not main,
        )  # fmt: skip
        config = self._config()
        folder = made(
            settings.folder / "checkpoints", what=f"results to {settings.folder}",
            remedy="choose another --out",
        )  # fmt: skip
        self.checkpoints = Checkpoints(folder, config)
        self.step, self.saved = 0, -1
        record = settings.folder / metrics.NAME
        if settings.resume:
            self._resume(record)
        self.writer = metrics.Writer(
            record if main else None,
            keep_to=None if self.saved < 0 else self.step,
            header=metrics.provenance(config),
        )
        scaling = loss_scale(self.state)
        self.skipped = 0 if scaling is None else int(scaling[1])

    def _config(self) -> dict[str, Any]:
        """What must be the same for a run to be resumed."""
        settings = self.settings
        return {
            "recipe": to_json(self.recipe), "seed": settings.seed, "steps": self.steps,
            "devices": settings.devices, "data": self.data.name,
        }  # fmt: skip

    def _resume(self, record: Path) -> None:
        """Takes up the newest checkpoint that the metrics reach."""
        found = None
        if self.checkpoints.steps():
            recorded = metrics.recorded(record, epoch=self.epoch, steps=self.steps)
            found = self.checkpoints.restore(self.state, self.bar.say, recorded=recorded)
        if found is None:
            self.bar.say(f"{self.recipe.key}: resuming from the start: no checkpoint was saved yet")
            return
        self.step, self.state = found
        self.saved = self.step
        rows = (row for row in metrics.read(record) if row["step"] <= self.step)
        self._watch.resume([row for row in rows if row["kind"] == "time"])
        self.bar.say(f"{self.recipe.key}: resuming from step {self.step}")

    def compile(self) -> None:
        """Compiles the step ahead of time, so that its time is no part of the first step's."""
        self.bar.compiling()
        start = time.perf_counter()
        images, labels = self._batch(np.arange(self.recipe.batch_size))
        self._train = self._train.lower(self.state, images, labels).compile()
        self.compile_seconds = time.perf_counter() - start
        if self.recipe.wire is not None:
            self._sent = sum(t.payload for t in traffic(self._train.as_text()))
        self.bar.start_at(self.step)
        self._watch.start()

    def _batch(self, index: np.ndarray) -> tuple[jax.Array, jax.Array]:
        images, labels = self.data.train_x[index], self.data.train_y[index]
        return meshes.share(self.mesh, images), meshes.share(self.mesh, labels)

    def stops(self, requested: bool) -> bool:
        """Whether to stop before the next step: all processes at the same one, or they would
        wait for each other, this one in a checkpoint and that one in a step.
        """
        if jax.process_count() == 1:
            return requested
        return self.step % AGREE_STEPS == 0 and self.agrees(requested)

    def agrees(self, requested: bool) -> bool:
        """Whether any process was told to stop."""
        if jax.process_count() == 1:
            return requested
        votes = multihost_utils.process_allgather(np.int32(requested))
        return bool(np.any(votes))

    def advance(self) -> None:
        """One step, and what is due after it."""
        epoch, place = divmod(self.step, self.epoch)
        size = self.recipe.batch_size
        index = self._order(epoch)[place * size : (place + 1) * size]
        self.state, row = self._train(self.state, *self._batch(index))
        self.step += 1
        self._pending.append((self.step, row))
        if self._sync_due():
            self.sync()
        ends = self.step % self.epoch == 0 or self.step == self.steps
        if ends:
            self.sync()
            self.evaluate()
            self.writer.write(kind="eval", step=self.step, **self._evaluated())
        every = self.settings.checkpoint_every
        if ends or (every and self.step % every == 0):
            self.save()

    def _sync_due(self) -> bool:
        """By the clock; among several processes by steps, so that all see a broken one together:
        one that stopped alone would leave the others waiting in a sum.
        """
        if jax.process_count() > 1:
            return self.step % AGREE_STEPS == 0
        return self._watch.running() > SYNC_SECONDS

    def sync(self) -> None:
        """Fetches the metrics of finished steps, writes and shows them.

        Raises:
          NotFinite: one of them is broken.
        """
        if not self._pending:
            return
        rows = jax.device_get([row for _, row in self._pending])
        self._watch.lap(len(rows))
        for (step, _), row in zip(self._pending, rows, strict=True):
            row = {name: value.item() for name, value in row.items()}
            self._stop_if_broken(step, row)
            del row["broken"]
            self.writer.write(kind="train", step=step, **row)
        self.skipped = row.get("skipped", 0)
        self.bar.report(
            self.step, loss=row["loss"], accuracy=row["accuracy"], overflows=self.skipped
        )
        self._pending.clear()
        self._watch.start()

    def _stop_if_broken(self, step: int, row: dict[str, Any]) -> None:
        loss = row["loss"]
        if row["broken"] >= 0:
            place = PLACES[row["broken"]]
            self._stop(step, place, loss, f"{place} not finite (loss {loss}); {REMEDY}")
        if row.get("in_a_row", 0) >= MOST_SKIPPED:
            why = (
                f"gradients not finite in {MOST_SKIPPED} steps in a row at loss scale"
                f" {row['loss_scale']:g}; try --loss-scale dynamic, or a format of more range for"
                " the errors"
            )
            self._stop(step, "gradients", loss, why)

    def _stop(self, step: int, place: str, loss: float, why: str) -> NoReturn:
        """Writes where the run ends, and raises NotFinite."""
        self.writer.write(kind="stop", step=step, place=place, loss=loss)
        saved = f"; the checkpoint of step {self.saved} is kept in {self.checkpoints.folder}"
        kept = saved if self.saved > 0 else ""
        raise NotFinite(f"step {step} of {self.recipe.key}: {why}{kept}")

    def evaluate(self) -> None:
        """Loss and accuracy on the test set, of the weights that are shipped.

        Raises:
          NotFinite: the loss is NaN or infinite.
        """
        shipped = self.state
        if self._deploy is not None:
            self.before = evaluate(self._eval, self.mesh, self.data, self.state)
            params = self._deploy(self.state.params, self.state.optimizer)
            shipped = self.state._replace(params=params)
        loss, self.accuracy = evaluate(self._eval, self.mesh, self.data, shipped)
        if not np.isfinite(loss):
            self._stop(self.step, "test loss", loss, f"test loss not finite ({loss}); {REMEDY}")
        self.loss = loss
        self._watch.start()

    def _evaluated(self) -> dict[str, float | None]:
        """What a row says about an evaluation."""
        row = {"loss": self.loss, "accuracy": self.accuracy}
        if self.before is None:
            return row
        return {**row, "loss_before": self.before[0], "accuracy_before": self.before[1]}

    def save(self) -> None:
        """A checkpoint of this step, after the metrics that lead to it."""
        self.sync()
        if (times := self._watch.row()) is not None:
            self.writer.write(kind="time", step=self.step, **times)
        self.writer.flush()
        self.checkpoints.save(self.step, self.state)
        self.saved = self.step
        self._watch.start()

    def result(self) -> Result:
        """The summary of the run so far."""
        return Result(
            key=self.recipe.key, folder=self.settings.folder, step=self.step, steps=self.steps,
            loss=self.loss, accuracy=self.accuracy, skipped=self.skipped,
            step_seconds=self._watch.mean, compile_seconds=self.compile_seconds,
            sent=self._sent, params=sum(w.size for w in jax.tree.leaves(self.state.params)),
            interrupted=self.step < self.steps, final=self.state, before=self.before,
        )  # fmt: skip
