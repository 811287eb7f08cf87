"""A model as named tensors, and the model that a file gives back."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from qtrain.export.codes import encode, plain
from qtrain.export.file import Export, read
from qtrain.nn import RoundingKey, quantize_model, set_keys
from qtrain.nn.deploy import deploy
from qtrain.optim.paths import leaf_path
from qtrain.recipes.base import Recipe
from qtrain.recipes.config import from_json, to_json
from qtrain.recipes.layers import layers
from qtrain.recipes.model import model_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
    """What a model is made by, and what it reads."""

    recipe: Recipe
    shape: tuple[int, ...]  # of one input
    num_classes: int
    mean: tuple[float, ...]  # per channel, of images scaled to 0..1; empty for text
    std: tuple[float, ...]


def export(model: nnx.Module, origin: Origin) -> Export:
    """The tensors of a model whose weights are narrow by themselves, as `deploy` leaves them.

    Parameters of two axes and more are coded; biases, statistics and what quantizers of
    activations keep are stored as they are.

    Raises:
      ValueError: a value is NaN; names its tensor.
    """
    tensors = {}
    for name, x in _named(model).items():
        coded = x.ndim > 1 and x.dtype == np.float32
        try:
            tensors[name] = (encode if coded else plain)(x)
        except ValueError as error:
            raise ValueError(f"{name}: {error}; such a model is not exported") from None
    return Export(about=to_json(origin), tensors=tensors)


def load(path: Path | str) -> nnx.Module:
    """The model of a file, in evaluation mode; it reads normalized inputs.

    Its outputs have the bits of the model that was exported. Random bits of activations are those
    of the evaluation: `nn.set_keys` gives others.

    Raises:
      ValueError: the file is damaged, not from qtrain, or of another version.
      FileNotFoundError: there is none.
    """
    return restore(read(Path(path)), str(path))


def origin_of(found: Export) -> Origin:
    """What the model of a file is made by.

    Raises:
      ValueError: this version of qtrain does not have its recipe.
    """
    origin = from_json(found.about)
    if not isinstance(origin, Origin):
        raise ValueError(f"{type(origin).__name__} is not what a model is made by")
    return origin


def restore(found: Export, source: str) -> nnx.Module:
    """`load` of what was read already; `source` is named in errors."""
    origin = origin_of(found)
    model = deploy(_built(origin))
    arrays, wanted = found.arrays(), _named(model)
    shapes = lambda tensors: {name: (x.shape, x.dtype) for name, x in tensors.items()}  # noqa: E731
    if shapes(arrays) != shapes(wanted):
        wrong = sorted(dict(shapes(arrays).items() ^ shapes(wanted).items()))
        raise ValueError(
            f"{source} has other tensors than its recipe's model in this version of qtrain:"
            f" {', '.join(wrong)}"
        )
    state = _state(model)
    filled = jax.tree_util.tree_map_with_path(
        lambda path, _: jnp.asarray(arrays[leaf_path(path)]), state
    )
    nnx.update(model, filled)
    return set_keys(model, jax.random.key(0))


def _built(origin: Origin) -> nnx.Module:
    """The recipe's model with its quantizers and its initial weights.

    As `train.state.create` makes it, but for what is only used in training.
    """
    recipe = origin.recipe
    model = model_of(
        recipe, num_classes=origin.num_classes, in_shape=origin.shape, rngs=nnx.Rngs(0)
    )
    return quantize_model(model, recipe.rules(layers(model, (recipe.batch_size, *origin.shape))))


def _state(model: nnx.Module) -> nnx.State:
    return nnx.state(model, nnx.Not(RoundingKey))


def _named(model: nnx.Module) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_flatten_with_path(_state(model))[0]
    return {leaf_path(path): np.asarray(x) for path, x in leaves}
