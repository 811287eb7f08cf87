"""What quantize_model puts into nnx's own hooks: a layer's dot_general or convolution.

A hook without random bits or state is a frozen, hashable callable: part of the graph
definition, so equal configs share a compilation. One that draws random bits is a small module
with a variable, its key, which the training step sets anew each time. A quantizer that keeps
state, such as a running range, or learns, has a `module(kernel)` method, which is given the layer's
kernel: the hook holds the nnx module that it returns, and calls that on the operand. Such a module
may have more methods:

    calibrate(x)                  sets first values by the operand of one batch, see `calibrate`
    layer(op, x, kernel, key)     of a weight quantizer: does the whole layer, where `op(x, kernel)`
                                  is its own convolution or product
    deploy(kernel) -> kernel,     of one with `layer`: what a narrow weight can do in evaluation,
    narrowed(kernel)              see `deploy`
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

    def __init__(self, name: str, config: DotConfig, kernel: jax.Array):
        """The key is zero until `set_keys` gives it one, by the layer's path."""
        self.name = name
        self.config = config
        self.calibrating = False
        self.lhs, self.rhs = module_of(config.lhs, kernel), module_of(config.rhs, kernel)
        if config.needs_key:
            self.key = RoundingKey(jnp.zeros(2, jnp.uint32))

    def __call__(self, lhs, rhs, *args, **kwargs):
        """The op on an activation and a kernel."""
        lhs_module, rhs_module, config = self.lhs, self.rhs, self.config
        if lhs_module is not None:
            config = dataclasses.replace(config, lhs=None)
        if rhs_module is not None:
            config = dataclasses.replace(config, rhs=None)
        if self.calibrating:
            for module, operand in ((lhs_module, lhs), (rhs_module, rhs)):
                if hasattr(module, "calibrate"):
                    module.calibrate(operand)
            lhs_module = rhs_module = None
        key = key_of(self)
        role = lambda name: None if key is None else fold(key, name)  # noqa: E731

        def op(lhs, rhs):
            return HOOKS[self.name](lhs, rhs, *args, config=config, key=key, **kwargs)

        if lhs_module is not None:
            lhs = lhs_module(lhs, role("lhs"))
        if hasattr(rhs_module, "layer"):
            return rhs_module.layer(op, lhs, rhs, role("rhs"))
        return op(lhs, rhs if rhs_module is None else rhs_module(rhs, role("rhs")))


def key_of(module: nnx.Module) -> jax.Array | None:
    """The PRNG key in a module's RoundingKey `key`; None where it has none."""
    if not hasattr(module, "key"):
        return None
    return jax.random.wrap_key_data(module.key[...], impl="threefry2x32")


def module_of(quantizer: Any, kernel: jax.Array | None) -> Any:
    """The state of a quantizer that keeps some: what its `module` method makes, or None."""
    return quantizer.module(kernel) if hasattr(quantizer, "module") else None


def hook(name: str, config: DotConfig, kernel: jax.Array) -> Any:
    """What to set as attribute `name` of a layer with that kernel; static where it can be, and nnx
    must be told, since lax's own function is static.
    """
    if config.needs_key or any(hasattr(q, "module") for q in (config.lhs, config.rhs)):
        return nnx.data(ModuleHook(name, config, kernel))
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
