"""Where the run lives whose last weights another run begins with."""

from __future__ import annotations

import dataclasses
import hashlib
import json

from qtrain.recipes.base import Recipe
from qtrain.recipes.config import to_json
from qtrain.train.settings import Settings


def of_start(recipe: Recipe, settings: Settings) -> Settings:
    """How to carry out `recipe`, with which a run of `settings` begins.

    In a folder named by all that decides its numbers, and resumed there: what is finished is only
    read, whichever run asks for it.
    """
    config = {"recipe": to_json(recipe), "seed": settings.seed, "steps": settings.steps,
              "devices": settings.devices}  # fmt: skip
    name = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]
    starts = settings.starts or settings.folder / "starts"
    return dataclasses.replace(settings, folder=starts / name, starts=starts, resume=True)
