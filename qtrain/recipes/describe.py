"""A recipe in words: one short text per place, for tables."""

from __future__ import annotations

import dataclasses
from typing import Any

from qtrain.ops import Accumulator
from qtrain.recipes.base import FIRST, LAST, PLACES, Accumulators, Error, Recipe

_NAMES = {FIRST: "first layer", LAST: "last layer"}


def places(recipe: Recipe) -> dict[str, str]:
    """What each place of the training step does; "float32" where it is left alone."""
    found = {place: _text(getattr(recipe, place)) for place in PLACES}
    return found | ({"accumulator": "int32 in dense layers"} if recipe.integer else {})


def _text(setting: Any) -> str:
    if setting is None:
        return "float32"
    if hasattr(setting, "describe"):
        return setting.describe()
    if isinstance(setting, tuple):  # of At: the rule for all layers first, exceptions after it
        texts = [(_NAMES.get(at.path, at.path), _text(at.setting)) for at in setting]
        rest = [text for path, text in texts if path == ".*"]
        others = [f"{path} {text}" for path, text in texts if path != ".*" and text not in rest]
        return "; ".join(rest + others)
    if isinstance(setting, Accumulator):
        return _accumulator(setting)
    if isinstance(setting, Error | Accumulators):
        parts = {f.name: _text(getattr(setting, f.name)) for f in dataclasses.fields(setting)}
        if len(set(parts.values())) == 1:
            return next(iter(parts.values()))
        return ", ".join(f"{name.replace('_', ' ')} {text}" for name, text in parts.items())
    return _other(setting)


def _accumulator(accum: Accumulator) -> str:
    parts = [_with_rounding(accum.fmt, accum.rounding)]
    parts += [] if accum.chunk is None else [f"chunk {accum.chunk}"]
    parts += [] if accum.intra is None else [f"{accum.intra} inside"]
    parts += [] if accum.product is None else [f"{accum.product} products"]
    parts += [] if accum.fused is None else [f"{accum.fused} products fused"]
    return ", ".join(parts)


def _other(setting: Any) -> str:
    """Update and LossScale, and what later places bring: their fields."""
    fields = dataclasses.asdict(setting)
    if "fmt" in fields:
        return _with_rounding(fields["fmt"], fields["rounding"])
    return f"{fields['init']:g}" + (", dynamic" if fields["dynamic"] else "")


def _with_rounding(fmt: str, rounding: str) -> str:
    return fmt if rounding == "nearest" else f"{fmt} {rounding.replace('_', ' ')}"
