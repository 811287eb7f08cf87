"""The layers of a model in the order in which it calls them, with the lengths of their sums."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx

from qtrain.nn import with_scopes
from qtrain.workload import trace

Gemm = Literal["forward", "input_grad", "weight_grad"]  # names of `ops.DotConfig`'s accumulators
GEMMS: tuple[Gemm, ...] = get_args(Gemm)


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
    """Traces `model` and its gradients on an abstract float32 batch of `shape`.

    Nothing is computed, and `model` stays as it is. A layer called twice is listed once. One that
    reads characters has no input gradient; if it had one, that would add up its outputs.
    """
    batch = jax.ShapeDtypeStruct(tuple(shape), jnp.float32)

    def total(model, x):
        return jnp.sum(model(x))

    found = trace(total, with_scopes(model), batch, grad=True, argnums=(0, 1), params=0)
    outputs = {gemm.name: {"input_grad": gemm.n} for gemm in found.role("forward")}
    return tuple(Layer(path, **outputs[path] | own) for path, own in found.lengths().items())
