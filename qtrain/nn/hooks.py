"""What quantize_model puts into nnx's own hooks: a layer's dot_general or convolution.

A hook without random bits is a frozen, hashable callable: part of the graph definition, so
equal configs share a compilation. One that draws random bits is a small module with one
variable, its key, which the training step sets anew each time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from qtrain.ops import DotConfig, conv_general_dilated, dot_general
from qtrain.quantize import fold

Tree = TypeVar("Tree")
HOOKS: dict[str, Callable] = {
    "dot_general": dot_general,
    "conv_general_dilated": conv_general_dilated,
}


class RoundingKey(nnx.Variable):
    """The PRNG key data of one layer's random bits: two uint32 words, zero when not set."""


@dataclasses.dataclass(frozen=True)
class Hook:
    """A layer's op with its config; called as nnx calls lax's."""

    name: str  # of the hook, a key of HOOKS
    config: DotConfig

    def __call__(self, lhs, rhs, *args, **kwargs):
        """The op on an activation and a kernel."""
        return HOOKS[self.name](lhs, rhs, *args, config=self.config, **kwargs)


class RandomHook(nnx.Module):
    """A `Hook` that draws random bits."""

    def __init__(self, name: str, config: DotConfig):
        """The key is zero until `set_keys` gives it one, by the layer's path."""
        self.name = name
        self.config = config
        self.key = RoundingKey(jnp.zeros(2, jnp.uint32))

    def __call__(self, lhs, rhs, *args, **kwargs):
        """The op on an activation and a kernel."""
        key = jax.random.wrap_key_data(self.key[...], impl="threefry2x32")
        return HOOKS[self.name](lhs, rhs, *args, config=self.config, key=key, **kwargs)


def set_keys(model: Tree, step_key: jax.Array) -> Tree:
    """Gives every RoundingKey its key for one step: `step_key` folded by the layer's path.

    Args:
      model: an nnx state (a new one is returned) or a module (changed in place).
      step_key: a JAX PRNG key, different in each step.
    """
    if isinstance(model, nnx.Module):
        state = nnx.state(model, RoundingKey)
        nnx.update(model, set_keys(state, step_key))
        return model

    def fill(path, leaf):
        if not isinstance(leaf, RoundingKey):
            return leaf
        name = "/".join(str(getattr(p, "key", p)) for p in path)
        return leaf.replace(jax.random.key_data(fold(step_key, name)))

    is_variable = lambda x: isinstance(x, nnx.Variable)  # noqa: E731
    return jax.tree_util.tree_map_with_path(fill, model, is_leaf=is_variable)
