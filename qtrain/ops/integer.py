"""GEMMs of int8 operands in integers: int8 x int8 -> int32, as tensor cores and DSPs do them.

An operand that `Cast` rounded to codes times one scale is divided by that scale again, which
gives back the codes exactly. With scales that are powers of two, whose product is a normal
float32 number, and sums of magnitudes below 2^24, the result is that of the float32 GEMM, bit
for bit; otherwise that one rounds its sums too. A NaN in an operand makes all results NaN.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qtrain import formats
from qtrain.quantize import Cast


def check(role: str, quantizer) -> None:
    """Raises ValueError for a quantizer whose values int8 cannot hold with one scale."""
    fmt = formats.get(quantizer.fmt) if isinstance(quantizer, Cast) else None
    if not isinstance(fmt, formats.Int) or fmt.min < -128 or fmt.max > 127:
        raise ValueError(
            f"{role}: {quantizer} has no int8 codes; integer GEMMs need Cast to at most int8,"
            " with zero as its zero point"
        )
    scale = quantizer.scale
    if scale is None or scale.axis is not None:
        raise ValueError(f"{role}: integer GEMMs need one scale for the whole operand, not {scale}")


def scale_of(quantizer: Cast, x: jax.Array) -> jax.Array:
    """The scale that `quantizer` divides x by, a float32 scalar; NaN, which no code stands for,
    if x has one.
    """
    assert quantizer.scale is not None  # `check`
    x = lax.stop_gradient(x)
    scale = quantizer.scale(x, formats.get(quantizer.fmt)).reshape(())
    return jnp.where(jnp.any(jnp.isnan(x)), jnp.float32(jnp.nan), scale)


def matmul(a: jax.Array, b: jax.Array, scale_a: jax.Array, scale_b: jax.Array) -> jax.Array:
    """(B, M, K) times (B, K, N), both codes times their scale; float32.

    K is at most 131,071: 128^2 K must stay below 2^31.
    """
    if a.shape[-1] >= 2**17:
        raise ValueError(
            f"a sum of {a.shape[-1]} products of int8 may not fit into int32: at most 131071, or"
            " float32 GEMMs"
        )
    total = lax.dot_general(
        _codes(a, scale_a), _codes(b, scale_b), (((2,), (1,)), ((0,), (0,))),
        preferred_element_type=jnp.int32,
    )  # fmt: skip
    return total.astype(jnp.float32) * (scale_a * scale_b)


def _codes(x: jax.Array, scale: jax.Array) -> jax.Array:
    """The codes: each quotient is within 2^-15 of an integer of at most 2^7."""
    codes = lax.round(x.astype(jnp.float32) / scale, lax.RoundingMethod.TO_NEAREST_EVEN)
    return jnp.clip(codes, np.float32(-128), np.float32(127)).astype(jnp.int8)
