"""Plain training in float32: every place is left alone."""

from __future__ import annotations

import dataclasses

from qtrain.recipes.base import Recipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Nothing to choose."""


def recipe(options: Options = Options()) -> Recipe:
    """Any model, in float32 throughout."""
    del options
    return Recipe(key="float32")
