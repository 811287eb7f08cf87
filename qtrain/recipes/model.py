"""The model that a recipe trains, before its layers are quantized."""

from __future__ import annotations

from flax import nnx

from qtrain import models
from qtrain.nn import replace_batch_norms
from qtrain.recipes.base import Recipe


def model_of(
    recipe: Recipe, *, num_classes: int, in_shape: tuple[int, ...], rngs: nnx.Rngs
) -> nnx.Module:
    """The recipe's model in its width, with its signs and its normalization, see `models.create`.

    Raises:
      ValueError: as `models.create`.
    """
    model = models.create(
        recipe.model, num_classes=num_classes, in_shape=in_shape, rngs=rngs,
        width=recipe.widen, signed=recipe.signed,
    )  # fmt: skip
    return model if recipe.norm is None else replace_batch_norms(model, recipe.norm)
