"""Measures two GEMM operands to prove that the short rounding sequence is exact for them.

Sums of FP8 products in a 16-bit accumulator almost never overflow or underflow, and never
round twice. Where that can be proved from a few maxima, `adder.add_narrow` replaces `add`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qtrain import formats
from qtrain.ops.config import Accumulator


class Extent(NamedTuple):
    """What bounds every product of two arrays; scalars."""

    largest: jax.Array  # float32, largest magnitude; inf or NaN if there is one
    quantum_exp: jax.Array  # int32: all values are multiples of 2^quantum_exp
    significand: jax.Array  # int32: no value needs more significand bits, 1..24


def extent(x: jax.Array) -> Extent:
    """Measures a float32 array of any shape, by three integer reductions."""
    bits = lax.bitcast_convert_type(x, jnp.uint32) & np.uint32(0x7FFFFFFF)
    over = tuple(range(x.ndim))
    largest = lax.reduce(bits, np.uint32(0), lax.max, over)
    smallest = lax.reduce(bits - 1, np.uint32(0xFFFFFFFF), lax.min, over) + 1  # skips zeros
    held = bits | np.uint32(1 << 23)
    # of each value's last set bit; not an or-reduction, which CPU devices cannot do together
    lowest = lax.reduce(held & (~held + np.uint32(1)), np.uint32(1 << 23), lax.min, over)
    significand = jnp.int32(24) - (jnp.int32(31) - lax.clz(lowest).astype(jnp.int32))
    exponent = jnp.maximum(smallest >> 23, 1).astype(jnp.int32) - 127
    return Extent(
        largest=lax.bitcast_convert_type(largest, jnp.float32),
        quantum_exp=jnp.where(largest == 0, 127, exponent - significand + 1),
        significand=significand,
    )


def narrow(a: Extent, b: Extent, length: int, accum: Accumulator) -> jax.Array:
    """Whether `add_narrow` equals `add` for every sum of `length` products; a bool scalar.

    With P = man + 1 bits in the accumulator and Pp bits in a product, all of:
      no subnormal   every product is a multiple of the format's smallest value
      no overflow    no sum of such products leaves the range, however it is rounded
      exact product  Pp <= 24
      one rounding   (nearest) either float32 holds all the sums exactly, or Pp <= P <= 11
                     and P + Pp <= 23: a sum that float32 rounds then lies farther from a
                     tie than that rounding can move it
      ties to even   (nearest) man > 0: without mantissa bits, even means an even exponent
                     code, which the float32 addition does not see
    """
    fmt = formats.get_float(accum.fmt)
    intra = formats.get_float(accum.intra or accum.fmt)
    ties_to_code = accum.rounding == "nearest" and 0 in (fmt.man, intra.man)
    if accum.rounding not in ("nearest", "stochastic") or ties_to_code:
        return jnp.bool_(False)
    bits = a.significand + b.significand
    quantum = (a.quantum_exp + b.quantum_exp).astype(jnp.float32)
    chunk = min(accum.chunk or length, length)
    growth = _growth(chunk, intra, accum) + _growth(-(-length // chunk), fmt, accum)
    top = jnp.log2(a.largest) + jnp.log2(b.largest) + (growth + 0.001)
    top = jnp.where((a.largest == 0) | (b.largest == 0), -jnp.inf, top)
    ok = (bits <= 24) & (quantum >= max(_smallest_exp(f) for f in (fmt, intra)))
    ok &= top <= min(math.log2(f.max) for f in (fmt, intra))
    ok &= top <= 127 - 24  # the magic number of `add_narrow` stays finite
    if accum.product is not None:
        held = formats.get_float(accum.product)
        ok &= (bits <= held.precision) & (quantum >= _smallest_exp(held))
        ok &= top <= math.log2(held.max)
    if accum.rounding == "nearest":
        ok &= (top - quantum <= 24) | _rounds_once(bits, intra, fmt)
    return ok


def _growth(terms: int, fmt: formats.Float, accum: Accumulator) -> float:
    """log2 of the most that a rounded sum of `terms` values can be, in units of the largest.

    Every addition may grow the sum by a factor 1 + u; and where it rounds to nearest, a sum
    beyond 2^(man + 2) terms has an ulp of more than twice any term and grows no further.
    """
    nearest = accum.rounding == "nearest"
    unit = 2.0 ** -(fmt.man + nearest)
    grown = math.log2(terms) + terms * unit / math.log(2)
    return min(grown, fmt.man + 3.0) if nearest else grown


def _rounds_once(product_bits: jax.Array, intra: formats.Float, fmt: formats.Float) -> jax.Array:
    """No double rounding, for products into `intra` and for chunk sums into `fmt`."""
    if intra.man == 23:
        inner = jnp.bool_(True)
    else:
        inner = product_bits <= min(intra.precision, 23 - intra.precision)
        inner &= 2 * intra.precision <= 23
    outer = fmt.man == 23 or intra.precision <= min(fmt.precision, 23 - fmt.precision)
    return inner & outer


def _smallest_exp(fmt: formats.Float) -> float:
    """Exponent above which nothing is subnormal, in the format or in float32."""
    smallest = fmt.min_subnormal if fmt.subnormals else fmt.min_normal
    return max(math.log2(smallest), -126.0)
