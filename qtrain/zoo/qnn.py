"""QNN: fixed point, and powers of two [hubara2018qnn]; all of it recalled."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qtrain.quantize import Cast
from qtrain.quantize.estimator import straight_through
from qtrain.zoo.binary import BinaryConnect, Sign
from qtrain.zoo.method import Method
from qtrain.zoo.uniform import Filled, check_bits


def linear(bits: int) -> Cast:
    """clip(round(x 2^(k-1)) / 2^(k-1), -1, 1 - 2^(1-k)), k = `bits` [hubara2018qnn, recalled].

    Numbers of `bits` bits in two's complement, all but the sign behind the point. The gradient is
    1 from the least to the largest of them, else 0 (recalled).
    """
    check_bits("linear", bits, 2)
    return Cast(f"fixed1.{bits - 1}", clip_gradient=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PowerOfTwo:
    """Sign and a power of two, the nearest one by its logarithm [hubara2018qnn, recalled].

        x' = sign(x) 2^clip(round(log2|x|), top - 2^(bits - 1) + 2, top)

    0 stays 0: with it there are 2^bits - 1 values. Which range the source takes is not known; here
    `top` is that of the largest |x| of the array, and powers below the least one move up to it.
    Float32 subnormals count as zero. The gradient is the identity's. Where the array has a NaN or
    an infinity, all values are NaN.
    """

    bits: int = 6

    sources = ("hubara2018qnn",)
    needs_key = False

    def __post_init__(self) -> None:
        check_bits("logarithmic", self.bits, 2, 8)

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Rounds a float array of any shape."""
        return straight_through(self._rounded, x)

    def _rounded(self, x: jax.Array) -> jax.Array:
        size = jnp.abs(x.astype(jnp.float32))
        size = jnp.where(size < np.float32(2.0**-126), 0, size)
        exponent, most = nearest_exponent(size), jnp.max(size, initial=0)
        top = nearest_exponent(most)
        least = jnp.maximum(top - 2 ** (self.bits - 1) + 2, -126)
        power = jnp.ldexp(jnp.float32(1), jnp.clip(exponent, least, top))
        signed = jnp.where(size == 0, 0, jnp.where(x < 0, -power, power))
        return jnp.where(jnp.isfinite(most), signed, jnp.nan).astype(x.dtype)

    def describe(self) -> str:
        """A short text for tables."""
        return f"{self.bits}-bit powers of two"


def nearest_exponent(x: jax.Array) -> jax.Array:
    """round(log2 x), int32, of positive normal float32 numbers; at most 127."""
    mantissa, exponent = jnp.frexp(x)
    # no ties: the float32 number nearest to the root of 1/2 is below it
    return jnp.minimum(exponent - (mantissa <= np.float32(np.sqrt(0.5))), 127)


def _places(bits: Any, activation_bits: Any) -> dict[str, Any]:
    """One bit: a sign."""
    return {
        "weight": BinaryConnect() if bits == 1 else Filled(quantizer=linear(bits)),
        "activation": Sign() if activation_bits == 1 else linear(activation_bits),
    }


def _method(**fields: Any) -> Method:
    """Fields that both share."""
    return Method(
        source="hubara2018qnn",
        technique="rounding",
        codebook="fixed",
        estimator="identity inside the range, else 0",
        uncertain="all of it is recalled; the range of powers of two is ours, and that weights"
        " begin by filling theirs",
        signed=True,
        weight_bits=(1, 2, 4, 8),
        activation_bits=(2, 1, 4, 8),
        **fields,
    )


METHODS = (
    _method(
        name="qnn", title="Quantized neural networks", targets=("weight", "activation"),
        places=_places,
    ),
    _method(
        name="qnn_errors", title="Quantized neural networks, errors in powers of two of 6 bits",
        targets=("weight", "activation", "error"),
        places=lambda bits, acts: _places(bits, acts) | {"error": PowerOfTwo()},
    ),
)  # fmt: skip
