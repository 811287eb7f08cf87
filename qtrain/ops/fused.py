"""The fused dot-add of tensor cores: one alignment, one exact sum, one truncation.

Hopper's FP8 instruction adds 32 products to the running sum this way and keeps 13 fraction
bits: L = 32 and e8m13 [xie2025mmasim].
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qtrain import formats
from qtrain.quantize import cast

_EXPONENT = np.uint32(0x7F800000)
_MAGNITUDE = np.uint32(0x7FFFFFFF)


def dot_add(
    total: jax.Array,
    left: jax.Array,
    right: jax.Array,
    fmt: formats.Float,
    operands: tuple[str, str] | None = None,
) -> jax.Array:
    """Adds the L products left[l] right[l]^T to `total`, in float32.

    With F = fmt.man and e the largest of all e(left[l]) + e(right[l]) and e(total),

      S = trunc(total / 2^(e - F)) + sum_l trunc(left[l] right[l] / 2^(e - F))

    and the result is S 2^(e - F) truncated to F fraction bits. e(x) is the exponent of x; it
    is at least emin of the operand's format, if that is given, and of `fmt` for the total.
    Exponents add, products are not renormalised: |left right| < 4 * 2^(e(left) + e(right)).
    A product that is zero takes no part, so that any number of them changes no bit. Zero sums
    are +0; sums beyond the format become its largest value; infinities and NaN add as usual.

    Exact where int32 holds S, (4 L + 2) 2^F < 2^31, which `config.Accumulator` checks. 2^(e - F)
    is at least 2^-126: what lies below, XLA may flush.

    Args:
      total: (..., M, N), on the grid of `fmt`.
      left, right: (L, ..., M) and (L, ..., N); products are formed in float32.
      operands: names of the formats of left and right: their subnormals have exponent emin.
    """
    first, second = operands or (None, None)
    product = lambda a, b, k: a[k][..., :, None] * b[k][..., None, :]  # noqa: E731
    binades = functools.partial(product, _binade(left, first), _binade(right, second))
    products = functools.partial(product, left, right)
    lowest = np.uint32(max(fmt.emin, fmt.man - 126) + 127 << 23)
    largest = jnp.maximum(_u32(total) & _EXPONENT, lowest)
    for k in range(left.shape[0]):  # as integers: a maximum of floats looks for NaN first
        largest = jnp.maximum(largest, _u32(binades(k)) & _MAGNITUDE)
    per_ulp = _f32(np.uint32(254 + fmt.man << 23) - largest)
    steps, special = _steps(total, per_ulp)
    for k in range(left.shape[0]):
        more, others = _steps(products(k), per_ulp)
        steps, special = steps + more, special + others
    total = _truncate(steps, fmt.man) * _f32(largest - np.uint32(fmt.man << 23))
    total = jnp.clip(total, np.float32(-fmt.max), np.float32(fmt.max))
    return cast(jnp.where(special == 0, total, special), fmt, rounding="toward_zero")


def _binade(x, name: str | None):
    """2^e(x), and 0 for 0."""
    binade = _f32(_u32(x) & _EXPONENT)
    if name is not None:
        binade = jnp.maximum(binade, np.float32(formats.get_float(name).min_normal))
    return jnp.where(x == 0, np.float32(0), binade)


def _steps(addend, per_ulp):
    """The addend in ulps, truncated to int32; and itself where it is infinite or NaN, else 0."""
    special = jnp.where(jnp.abs(addend) < np.inf, np.float32(0), addend)
    return (addend * per_ulp).astype(jnp.int32), special


def _truncate(steps, man: int):
    """Keeps the man + 1 leading bits; float32."""
    magnitude = jnp.abs(steps)
    drop = jnp.maximum(31 - man - lax.clz(magnitude), 0)
    return jnp.sign(steps).astype(jnp.float32) * (magnitude >> drop << drop).astype(jnp.float32)


def _u32(x):
    return lax.bitcast_convert_type(x, jnp.uint32)


def _f32(x):
    return lax.bitcast_convert_type(x, jnp.float32)
