"""The layers of a model in the order in which it calls them, with the lengths of their sums."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

GEMMS = ("forward", "input_grad", "weight_grad")  # the names of `ops.DotConfig`'s accumulators


@dataclasses.dataclass(frozen=True)
class Layer:
    """One convolution or matrix product, and how many products each of its GEMMs adds up."""

    path: str  # attribute names from the model down, joined by "/"
    forward: int  # kernel positions x input channels
    input_grad: int  # kernel positions x output channels
    weight_grad: int  # examples x output positions

    @property
    def lengths(self) -> dict[str, int]:
        """K of each GEMM."""
        return {gemm: getattr(self, gemm) for gemm in GEMMS}


def layers(model: nnx.Module, shape: Sequence[int]) -> tuple[Layer, ...]:
    """Traces `model` on an abstract float32 batch of `shape` and records every hooked layer.

    Nothing is computed, and `model` stays as it is. A layer called twice is listed once.
    """
    probe = nnx.clone(model)
    found: dict[str, Layer] = {}
    for path, module in nnx.iter_modules(probe):
        name = "/".join(map(str, path))
        if hasattr(module, "conv_general_dilated"):
            module.conv_general_dilated = _recorder(found, name, lax.conv_general_dilated)
        elif hasattr(module, "dot_general"):
            module.dot_general = _recorder(found, name, lax.dot_general)
    graphdef, state = nnx.split(probe)
    batch = jax.ShapeDtypeStruct(tuple(shape), jnp.float32)
    jax.eval_shape(lambda s, x: nnx.merge(graphdef, s)(x), state, batch)
    return tuple(found.values())


def _recorder(found: dict[str, Layer], path: str, op):
    """`op` itself, with a note of the first call's shapes."""

    def call(lhs, rhs, *args, **kwargs):
        out = op(lhs, rhs, *args, **kwargs)
        outputs = rhs.shape[-1]  # nnx kernels are (*kernel, in / groups, out)
        groups = kwargs.get("feature_group_count", 1)
        found.setdefault(path, Layer(
            path,
            forward=math.prod(rhs.shape[:-1]),
            input_grad=math.prod(rhs.shape[:-2]) * outputs // groups,
            weight_grad=math.prod(out.shape[:-1]),
        ))  # fmt: skip
        return out

    return call
