"""What a quantized model becomes when training is over: its weights are narrow by themselves."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from qtrain.nn.hooks import HOOKS, Hook, ModuleHook
from qtrain.ops import integer

Model = TypeVar("Model", bound=nnx.Module)


def deploy(model: Model) -> Model:
    """A copy in evaluation mode whose weights went through their quantizers, once and for all.

    The quantizers of the weights leave the hooks; those of the activations, with their state,
    and the accumulators stay. Outputs have the bits of `model` in evaluation mode: of the jitted
    model those of the jitted one, and of the one that is not those of the one that is not, where a
    quantizer itself gives the same bits in both ways. One that adds up a whole weight (ABC-Net's)
    may not: then it is as the compiled model has it, since quantizers are compiled here.

    What stays in a hook:
      - a quantizer whose module has `layer`, since it does more than change the weight. If it has
        `deploy(kernel) -> kernel`, the weight with which a plain layer does the same, it leaves.
        If it has `narrowed(kernel) -> (module, kernel)`, a module for a narrow weight and that
        weight, which do the same together, they take its place. With neither, the weight is wide;
      - that of a layer whose products are done in integers, which needs its scale. The weight
        becomes narrow where the quantizer finds the same codes and scale in the narrow weight.

    Raises:
      ValueError: a weight's quantizer draws random bits in evaluation; a masked layer, or one
        that computes in another type than float32.
    """
    model = nnx.clone(model)
    model.eval()
    for path, layer in list(nnx.iter_modules(model)):
        for name in HOOKS:
            hook = getattr(layer, name, None)
            if isinstance(hook, Hook | ModuleHook) and hook.config.rhs is not None:
                _deploy_layer("/".join(map(str, path)), layer, name, hook)
    return model


def _deploy_layer(path: str, layer: Any, name: str, hook: Any) -> None:
    config = hook.config
    module: Any = getattr(hook, "rhs", None)
    if hasattr(module, "layer") and not (hasattr(module, "deploy") or hasattr(module, "narrowed")):
        return
    kernel = _kernel(path, layer)
    if hasattr(module, "narrowed"):
        hook.rhs, layer.kernel[...] = nnx.jit(lambda module, w: module.narrowed(w))(module, kernel)
        return
    if hasattr(module, "deploy"):
        narrow = nnx.jit(lambda module, w: module.deploy(w))(module, kernel)
    else:
        quantizer = config.rhs if module is None else module
        narrow = _applied(quantizer, kernel, 0)
        if config.rhs.needs_key and not _same(narrow, _applied(quantizer, kernel, 1)):
            raise ValueError(
                f"{path}: {config.rhs.describe()} draws its weights anew in each call, so there are"
                " none to deploy: only a quantizer without random bits can be applied once"
            )
    if config.integer and config.lhs is not None and name == "dot_general":
        if not _found_again(config.rhs, kernel, narrow):
            return
    else:
        setattr(layer, name, _without_weight(hook))
    layer.kernel[...] = narrow


def _applied(quantizer: Any, kernel: jax.Array, seed: int) -> jax.Array:
    """What a compiled program makes of the weight."""
    key = jax.random.key(seed)
    if isinstance(quantizer, nnx.Module):
        return nnx.jit(lambda quantizer, w, key: quantizer(w, key))(quantizer, kernel, key)
    return jax.jit(quantizer)(kernel, key)


def _kernel(path: str, layer: Any) -> jax.Array:
    """The weight as the hook sees it."""
    kernel = layer.kernel[...]
    if getattr(layer, "mask", None) is not None:
        raise ValueError(f"{path}: a mask comes before the quantizer: multiply the weight by it")
    for dtype in (kernel.dtype, getattr(layer, "dtype", None)):
        if dtype not in (None, jnp.float32):
            raise ValueError(f"{path}: only float32 layers can be deployed, not {dtype}")
    return kernel


def _found_again(quantizer: Any, wide: jax.Array, narrow: jax.Array) -> bool:
    """Whether the quantizer makes the same of its own result, with the same scale."""
    scales = [integer.scale_of(quantizer, w) for w in (wide, narrow)]
    return _same(*scales) and _same(quantizer(narrow), narrow)


def _same(a: jax.Array, b: jax.Array) -> bool:
    """Whether two float32 arrays have the same bits."""
    return np.array_equal(np.asarray(a).view(np.uint32), np.asarray(b).view(np.uint32))


def _without_weight(hook: Any) -> Any:
    """The hook for a weight that is narrow; what it keeps for other roles is left alone."""
    config = dataclasses.replace(hook.config, rhs=None)
    if isinstance(hook, Hook) or (hook.lhs is None and not config.needs_key):
        return nnx.static(Hook(hook.name, config))
    hook.config, hook.rhs = config, None
    if not config.needs_key and hasattr(hook, "key"):
        del hook.key
    return nnx.data(hook)
