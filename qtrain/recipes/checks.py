"""Whether the rules of a recipe fit the layers of its model: none may silently do nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qtrain.recipes.layers import Layer

if TYPE_CHECKING:
    from qtrain.recipes.base import Recipe


def check_paths(recipe: Recipe, layers: Sequence[Layer]) -> None:
    """Raises ValueError for a rule whose path matches no layer."""
    for place in ("weight", "activation", "error", "accumulator"):
        for at in getattr(recipe, place) or ():
            if not any(at.matches(layer, layers) for layer in layers):
                paths = ", ".join(layer.path for layer in layers)
                raise ValueError(
                    f"{recipe.key}: the {place} rule {at.path!r} matches no layer of"
                    f" {recipe.model}; its layers are {paths}"
                )


def check_chunks(recipe: Recipe, layers: Sequence[Layer]) -> None:
    """Raises ValueError for chunks longer than every sum: they would mean no chunks at all."""
    chunks = [
        (chunk, layer.lengths[gemm], layer.path, gemm)
        for layer in layers
        if (setting := recipe.setting("accumulator", layer, layers)) is not None
        for gemm, chunk in setting.chunks().items()
        if chunk is not None
    ]
    if chunks and all(chunk > length for chunk, length, _, _ in chunks):
        chunk, length, path, gemm = max(chunks, key=lambda c: c[1])
        raise ValueError(
            f"chunk {chunk} is longer than every accumulation of {recipe.model}: the longest is"
            f" K = {length}, in the {gemm} GEMM of layer {path} at batch size"
            f" {recipe.batch_size}; use at most that, or None for one chunk"
        )
