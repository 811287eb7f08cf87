"""GEMMs of int8 operands in integers: int8 x int8 -> int32, as tensor cores and DSPs do them.

An operand that `Cast` rounded to codes times one scale is divided by that scale again, which
gives back the codes exactly. With scales that are powers of two and sums below 2^24, the
result is that of the float32 GEMM, bit for bit; otherwise only that one rounds.
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
    """The scale that `quantizer` divides x by, a float32 scalar."""
    assert quantizer.scale is not None  # `check`
    return quantizer.scale(lax.stop_gradient(x), formats.get(quantizer.fmt)).reshape(())


def matmul(a: jax.Array, b: jax.Array, scale_a: jax.Array, scale_b: jax.Array) -> jax.Array:
    """(B, M, K) times (B, K, N), both codes times their scale; float32.

    K is at most 131,071: 128^2 K must stay below 2^31.
    """
    if a.shape[-1] >= 2**17:
        raise ValueError(f"a sum of {a.shape[-1]} products of int8 may not fit into int32")
    total = lax.dot_general(
        _codes(a, scale_a), _codes(b, scale_b), (((2,), (1,)), ((0,), (0,))),
        preferred_element_type=jnp.int32,
    )  # fmt: skip
    return total.astype(jnp.float32) * scale_a * scale_b


def _codes(x: jax.Array, scale: jax.Array) -> jax.Array:
    """The codes: each quotient is within 2^-22 of an integer below 2^8."""
    codes = lax.round(x.astype(jnp.float32) / scale, lax.RoundingMethod.TO_NEAREST_EVEN)
    return jnp.clip(codes, np.float32(-128), np.float32(127)).astype(jnp.int8)
