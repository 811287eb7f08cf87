"""Vector quantization in a run: shared weights that move together, or none until the end."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from qtrain.optim import Constraint
from qtrain.zoo.clusters import Shared, kmeans, product_kmeans, residual_kmeans
from qtrain.zoo.method import Method


def share(g: jax.Array, codes: jax.Array, numbers: int, *, mean: bool = False) -> jax.Array:
    """The gradient of each shared number, given to each of its members.

    That is the sum of the members' gradients [han2016deep]; with `mean`, divided by how many there
    are, which is the steepest descent among weights that stay shared.

    g and codes: of one shape, codes from 0 to numbers - 1.
    """
    total = jnp.zeros(numbers, g.dtype).at[codes].add(g)
    if mean:
        total = total / jnp.maximum(jnp.zeros(numbers, g.dtype).at[codes].add(1), 1)
    return total[codes]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SharedWeights(Constraint):
    """Weights quantized before the first step; then the codebook is trained, by what it holds.

    Which weight has which number of the codebook is never changed again. All members of a number
    have the same gradient, so an optimizer that works element by element keeps them equal, bit for
    bit [han2016deep].

    bits: of a code; the codebook has 2^bits entries.
    length: None: codes are of single weights, with one codebook per layer, see `kmeans`. Else of
      pieces of so many weights, see `product_kmeans`; where that does not divide a layer's
      inputs, the largest number below that does.
    gradient_of: "sum" of the members' gradients as published (recalled): thousands of weights take
      steps thousands of times longer, unless the optimizer is one that normalizes them, as Adam.
      "mean" takes steps as long as those of free weights.
    """

    bits: int = 5
    length: int | None = None
    gradient_of: Literal["sum", "mean"] = "sum"

    sources = ("han2016deep", "gong2014compressing")

    def __post_init__(self) -> None:
        _check(self.bits, 1 if self.length is None else self.length)
        if self.gradient_of not in ("sum", "mean"):
            raise ValueError(f"unknown gradient_of {self.gradient_of!r}: sum or mean")

    def describe(self) -> str:
        """A short text for tables."""
        of = "weights" if self.length is None else f"pieces of {self.length} weights"
        return f"{2**self.bits} shared {of}, trained"

    def init(self, w: jax.Array, steps: int) -> jax.Array:
        """Each weight's code, its place in the codebook, int32; 0 before the first step."""
        return jnp.zeros(w.shape, jnp.int32)

    def project(
        self, w: jax.Array, state: jax.Array, step: jax.Array, steps: int
    ) -> tuple[jax.Array, jax.Array]:
        """Quantizes before step 0."""

        def assign():
            found = self.quantized(w)
            return found.weights.astype(w.dtype), found.codes.astype(jnp.int32)

        return lax.cond(step == 0, assign, lambda: (w, state))

    def gradient(self, g: jax.Array, w: jax.Array, state: jax.Array) -> jax.Array:
        """See `share`."""
        return share(g, state, self._numbers(w), mean=self.gradient_of == "mean")

    def quantized(self, w: jax.Array) -> Shared:
        """The codebook that a weight begins with."""
        if self.length is None:
            return kmeans(w, 2**self.bits)
        return product_kmeans(w, self.bits, _fitting(w, self.length))

    def _numbers(self, w: jax.Array) -> int:
        """Of the codebook, or of those of all places together."""
        return 2**self.bits * (1 if self.length is None else w.size // w.shape[-1])


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResidualWeights(Constraint):
    """Weights in full precision that are evaluated and shipped after residual quantization.

    Nothing is trained at the quantized weights, see `residual_kmeans` [gong2014compressing]
    (recalled). bits, length: of a code, and of the piece of weights that it stands for, as in
    `SharedWeights`.
    """

    bits: int = 4
    length: int = 4
    stages: int = 2

    sources = ("gong2014compressing",)

    def __post_init__(self) -> None:
        _check(self.bits, self.length)
        if self.stages < 1:
            raise ValueError(f"stages must be at least 1, not {self.stages}")

    def describe(self) -> str:
        """A short text for tables."""
        return f"{self.stages} stages of {2**self.bits} pieces of {self.length} weights"

    def deploy(self, w: jax.Array, state: tuple) -> jax.Array:
        """The sum of one piece per stage."""
        return residual_kmeans(w, self.bits, _fitting(w, self.length), self.stages)


def _check(bits: int, length: int) -> None:
    if not 1 <= bits <= 12:
        raise ValueError(f"bits must be 1 to 12, not {bits}")
    if length < 1:
        raise ValueError(f"length must be at least 1, not {length}")


def _fitting(w: jax.Array, length: int) -> int:
    inputs = w.size // w.shape[-1]
    return next(n for n in range(min(length, inputs), 0, -1) if inputs % n == 0)


NOT_BUILT = {
    "hessian_kmeans": "it needs the loss's curvature, which a constraint on the weights does not"
    " see; clusters.kmeans(w, k, h) is its codebook",
    "entropy_kmeans": "its codes cost their entropy, by a multiplier that is not known",
    "q_cnn": "it minimizes the error of each layer's response, with activations of many examples",
}


def _method(**fields: Any) -> Method:
    """Fields that all share."""
    return Method(
        technique="vector quantization", codebook="adaptive", targets=("weight",),
        start="pretrained", **fields,
    )  # fmt: skip


METHODS = (
    _method(
        name="kmeans", title="Trained k-means quantization, as in deep compression",
        source="han2016deep",
        places=lambda bits, _: {"weight": SharedWeights(bits=bits or 5)},
        master=False,
        estimator="the gradient of a shared value is the sum of its members'",
        uncertain="recalled; without the pruning before it and the Huffman code after it",
        weight_bits=(5, 8, 4, 3, 2),
    ),
    _method(
        name="pq", title="Product quantization", source="gong2014compressing",
        places=lambda bits, _: {"weight": SharedWeights(bits=4, length=4 // (bits or 2))},
        master=False,
        estimator="the gradient of a shared number is the sum of its members'",
        uncertain="recalled; the source does not train after quantizing, here codebooks of 16"
        " pieces are trained on as those of k-means are",
        weight_bits=(2, 1, 4),
    ),
    _method(
        name="rvq", title="Residual quantization", source="gong2014compressing",
        places=lambda bits, _: {"weight": ResidualWeights(stages=bits or 2)},
        master=True, estimator="none: quantized after training alone",
        uncertain="recalled; of pieces of 4 weights, with 16 per stage, a choice made here",
        weight_bits=(2, 1, 4),
    ),
)  # fmt: skip
