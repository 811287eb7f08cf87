"""Where the run lives whose last weights another run begins with, and who may train it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import sys
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

from qtrain.recipes.base import Recipe
from qtrain.recipes.config import to_json
from qtrain.train.folders import locked, made
from qtrain.train.settings import Settings

REMEDY = "choose another folder of starts, or --out"


@contextlib.contextmanager
def of_start(recipe: Recipe, settings: Settings) -> Iterator[Settings]:
    """How to carry out `recipe`, with which a run of `settings` begins; meanwhile no other run may.

    In a folder named by all that decides its numbers, and resumed there: whichever run asks for
    it, what is finished is not trained again. Its last checkpoint is read and evaluated, its
    metrics get one row that says so, and what a killed run left unfinished there is removed. So
    the runs that share it come one after the other: the file `lock` in the folder is held.

    Raises:
      OSError: the folder cannot be written.
    """
    config = {"recipe": to_json(recipe), "seed": settings.seed, "steps": settings.steps,
              "devices": settings.devices}  # fmt: skip
    name = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]
    starts = settings.starts or settings.folder / "starts"
    folder = made(starts / name, what=str(starts / name), remedy=REMEDY)
    how = dataclasses.replace(settings, folder=folder, starts=starts)

    def wait() -> None:
        if not settings.quiet:
            line = f"another run is training its start {recipe.key} in {how.folder}: waiting for it"
            print(line, file=sys.stderr, flush=True)  # noqa: T201

    with contextlib.ExitStack() as held:
        if jax.process_index() == 0:
            held.enter_context(locked(how.folder / "lock", wait))
        if jax.process_count() > 1:  # the others must not read what is still written
            multihost_utils.sync_global_devices(f"start {name}")
        begun = (how.folder / "checkpoints").exists()
        yield dataclasses.replace(how, resume=True) if begun else how
