"""BalancedQ: every code is used equally often [zhou2017balanced]."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from qtrain.quantize.estimator import straight_through
from qtrain.quantize.product import product
from qtrain.zoo.method import Method
from qtrain.zoo.uniform import check_bits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Balanced:
    """Splits the values into 2^bits bins of equal size and spaces the bins evenly.

    Halves the array at its median, each half at its own median, and so on: bin i of n + 1 = 2^bits
    [zhou2017balanced, abstract]. A value becomes m i / n, or signed m (2 i / n - 1), with m =
    max|x| of the array. This last map, and the gradient, which is that of the identity, are
    recalled. Equal values share a bin, the lowest that one of them falls in, so that an array of
    few values is not balanced. A NaN makes all values NaN.

    split: "mean" takes means in place of medians, which is cheaper: bins are nearly of equal size
      where the values are spread evenly [zhou2017balanced, abstract]. An empty bin stays empty.
    """

    bits: int = 2
    signed: bool = True
    split: Literal["median", "mean"] = "median"

    sources = ("zhou2017balanced",)
    needs_key = False

    def __post_init__(self) -> None:
        check_bits("balanced", self.bits, 1, 8)
        if self.split not in ("median", "mean"):
            raise ValueError(f"unknown split {self.split!r}: median or mean")

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Rounds a float array of any shape."""
        return straight_through(self._rounded, x)

    def _rounded(self, x: jax.Array) -> jax.Array:
        if x.size == 0:
            return x
        flat, n = x.astype(jnp.float32), 2**self.bits - 1
        bins = by_median(flat, self.bits) if self.split == "median" else by_mean(flat, self.bits)
        steps = 2 * bins - n if self.signed else bins
        # a table: XLA would divide by the constant, or multiply by its inverse under jit
        levels = jnp.asarray(np.arange(-n, n + 1) / n, jnp.float32)
        return product(jnp.max(jnp.abs(flat)), levels[steps + n]).astype(x.dtype)

    def describe(self) -> str:
        """A short text for tables."""
        kind = "" if self.split == "median" else " by means"
        return f"{self.bits} bits balanced{kind}, {'signed' if self.signed else 'from 0'}"


def by_median(x: jax.Array, bits: int) -> jax.Array:
    """The bin of each value, int32: how many of the 2^bits - 1 largest values of lower bins are
    below it. Distinct values fill bins whose sizes differ by one at most.
    """
    ordered, count = jnp.sort(x.reshape(-1)), 2**bits
    last = [max(-(-x.size * j // count) - 1, 0) for j in range(1, count)]
    return jnp.sum(jnp.stack([x > ordered[i] for i in last]), axis=0, dtype=jnp.int32)


def by_mean(x: jax.Array, bits: int) -> jax.Array:
    """The bin of each value, int32: each bin is split at the mean of its values, `bits` times."""
    bins = jnp.zeros(x.shape, jnp.int32)
    for level in range(bits):
        total, size = (
            jax.ops.segment_sum(v.reshape(-1), bins.reshape(-1), 2**level)
            for v in (x, jnp.ones_like(x))
        )
        bins = 2 * bins + (x > (total / jnp.maximum(size, 1))[bins])
    return bins


def _places(bits: Any, activation_bits: Any) -> dict[str, Any]:
    return {
        "weight": Balanced(bits=bits),
        "activation": Balanced(bits=activation_bits, signed=False),
    }


METHODS = (
    Method(
        name="balanced", title="Balanced quantization", source="zhou2017balanced",
        technique="rounding", codebook="adaptive", targets=("weight", "activation"),
        places=_places, estimator="identity",
        uncertain="the map from bins to values and the gradient are recalled; which function the"
        " source gives activations is not known",
        weight_bits=(2, 1, 3, 4), activation_bits=(2, 1, 3, 4),
    ),
)  # fmt: skip
