"""What quantize_model puts into nnx's own hooks: a layer's dot_general or convolution.

A hook without random bits or state is a frozen, hashable callable: part of the graph
definition, so equal configs share a compilation. One that draws random bits is a small module
with a variable, its key, which the training step sets anew each time. A quantizer that keeps
state, such as a running range, has a `module` method: the hook holds the nnx module that it
returns, and calls that on the operand.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

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


class ModuleHook(nnx.Module):
    """A `Hook` that draws random bits, or whose quantizers keep state."""

    def __init__(self, name: str, config: DotConfig):
        """The key is zero until `set_keys` gives it one, by the layer's path."""
        self.name = name
        self.config = config
        self.lhs, self.rhs = module_of(config.lhs), module_of(config.rhs)
        if config.needs_key:
            self.key = RoundingKey(jnp.zeros(2, jnp.uint32))

    def __call__(self, lhs, rhs, *args, **kwargs):
        """The op on an activation and a kernel."""
        config, key = self.config, key_of(self)
        role = lambda name: None if key is None else fold(key, name)  # noqa: E731
        if self.lhs is not None:
            lhs, config = self.lhs(lhs, role("lhs")), dataclasses.replace(config, lhs=None)
        if self.rhs is not None:
            rhs, config = self.rhs(rhs, role("rhs")), dataclasses.replace(config, rhs=None)
        return HOOKS[self.name](lhs, rhs, *args, config=config, key=key, **kwargs)


def key_of(module: nnx.Module) -> jax.Array | None:
    """The PRNG key in a module's RoundingKey `key`; None where it has none."""
    if not hasattr(module, "key"):
        return None
    return jax.random.wrap_key_data(module.key[...], impl="threefry2x32")


def module_of(quantizer: Any) -> nnx.Module | None:
    """The state of a quantizer that keeps some: what its `module` method makes."""
    return quantizer.module() if hasattr(quantizer, "module") else None


def hook(name: str, config: DotConfig) -> Any:
    """What to set as a layer's attribute `name`; static where it can be, and nnx must be told,
    since lax's own function is static.
    """
    if config.needs_key or any(hasattr(q, "module") for q in (config.lhs, config.rhs)):
        return nnx.data(ModuleHook(name, config))
    return nnx.static(Hook(name, config))


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
