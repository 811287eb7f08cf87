"""DoReFa-Net: weights, activations and errors of few bits [zhou2016dorefa].

Definitions are those of the code in tensorpack, examples/DoReFa-Net.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from qtrain.quantize import Affine
from qtrain.quantize.binary_codes import BinaryCodes
from qtrain.zoo.method import Method
from qtrain.zoo.uniform import Clipped, check_bits, q_k


@dataclasses.dataclass(frozen=True, kw_only=True)
class TanhWeight:
    """Weights squeezed by tanh onto 2^bits levels from -1 to 1, for 2 bits and more.

        x = tanh(w) / (2 max|tanh w|) + 1/2,   w' = 2 q_k(x) - 1        [zhou2016dorefa, code]

    The maximum is taken over the whole layer. Only the rounding is passed straight through: the
    gradient goes through tanh, the quotient and the maximum. 0 is no level, and weights of 0 land
    beside it; a NaN makes all weights NaN.
    """

    bits: int = 2

    sources = ("zhou2016dorefa",)
    needs_key = False

    def __post_init__(self) -> None:
        check_bits("weight", self.bits, 2)

    def __call__(self, w: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Rounds a kernel of any shape."""
        return (2 * q_k(self.unit(w), self.bits) - 1).astype(w.dtype)

    def unit(self, w: jax.Array) -> jax.Array:
        """The squeezed weights x, float32 in [0, 1]."""
        t = jnp.tanh(w.astype(jnp.float32))
        most = jnp.max(jnp.abs(t), initial=0.0)
        return t / (2 * jnp.where(most == 0, 1, most)) + 0.5

    def describe(self) -> str:
        """A short text for tables."""
        return f"{self.bits} bits after tanh"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleError:
    """Errors on 2^bits levels from -m to m, m = max|g| of each example, without bias.

        u = g / (2 m) + 1/2 + noise,   g' = 2 m (q_k(clip(u, 0, 1)) - 1/2)

    [zhou2016dorefa, code]. The noise is uniform and one step wide, so this is stochastic rounding
    to one of the two neighbouring levels, and the mean is g up to the ends: what the clip cuts off
    would have rounded to the same end. An example of zeros stays so; one that is not finite becomes
    NaN.
    """

    bits: int = 6

    sources = ("zhou2016dorefa",)
    needs_key = True

    def __post_init__(self) -> None:
        check_bits("error", self.bits, 2)

    def __call__(self, g: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Rounds an error whose first axis is the examples; `key` is needed."""
        most = jnp.max(jnp.abs(g.astype(jnp.float32)), range(1, g.ndim), keepdims=True, initial=0)
        return Affine(bits=self.bits, rounding="stochastic").within(g, -most, most, key)

    def describe(self) -> str:
        """A short text for tables."""
        return f"{self.bits} bits stochastic, per sample"


def weight(bits: int) -> Any:
    """The weights of DoReFa: of one bit, the signs times mean|w| of the layer; else by tanh."""
    return BinaryCodes(per="layer") if bits == 1 else TanhWeight(bits=bits)


def _places(bits: Any, activation_bits: Any) -> dict[str, Any]:
    return {
        "weight": weight(bits),
        "activation": Clipped(bits=activation_bits),
    }


def _with_errors(bits: Any, activation_bits: Any) -> dict[str, Any]:
    return _places(bits, activation_bits) | {"error": SampleError()}


METHODS = (
    Method(
        name="dorefa", title="DoReFa-Net", source="zhou2016dorefa", technique="rounding",
        codebook="fixed", targets=("weight", "activation"), places=_places,
        estimator="through the rounding alone, not through tanh, maximum and clip",
        weight_bits=(2, 1, 3, 4, 8), activation_bits=(2, 1, 3, 4, 8),
    ),
    Method(
        name="dorefa_errors", title="DoReFa-Net with errors of 6 bits", source="zhou2016dorefa",
        technique="random rounding", codebook="fixed", targets=("weight", "activation", "error"),
        places=_with_errors,
        estimator="through the rounding alone, not through tanh, maximum and clip",
        weight_bits=(1, 2, 3, 4, 8), activation_bits=(2, 1, 3, 4, 8),
    ),
)  # fmt: skip
