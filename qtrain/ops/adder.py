"""One rounded addition, carried in float32: `fmt(a + b)` with a single rounding.

`add` is right for every format, rounding and pair of float32 addends. `add_narrow` is the
same function in three to five vector instructions, for addends that fulfil the conditions
in `operands.py`; tests hold the two against each other and against a rational oracle.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qtrain.formats import Float
from qtrain.ops.config import Rounding
from qtrain.quantize import cast

_EXPONENT = np.uint32(0x7F800000)
_MAGNITUDE = np.uint32(0x7FFFFFFF)
_SIGN = np.uint32(0x80000000)


def add(a: jax.Array, b: jax.Array, fmt: Float, rounding: Rounding, word=None) -> jax.Array:
    """Returns a + b rounded once to `fmt`, in float32.

    Args:
      a: float32, already on the grid of `fmt` (the running sum).
      b: float32, any value (the addend).
      rounding: one of `config.ROUNDINGS`; stochastic takes the top 23 - man bits of the
        low 16 (or, for wider needs, 32) bits given in `word`, see `random_bits`.

    Exact except where a float32 intermediate is itself subnormal, which XLA may flush:
    only formats with 8 exponent bits reach that far.
    """
    if fmt.man == 23:
        return a + b
    if rounding == "stochastic":
        return _add_stochastic(a, b, fmt, word)
    if rounding == "align":
        a, b = _aligned(a, b, fmt), _aligned(b, a, fmt)
    truncated = rounding in ("align", "toward_zero")
    total = _sum_to_odd(a, b)
    if truncated and fmt.emax >= 102:  # else no sum with a value of `fmt` overflows float32
        most = np.finfo(np.float32).max
        finite = jnp.isfinite(a) & jnp.isfinite(b)
        total = jnp.where(finite, jnp.clip(total, -most, most), total)
    return cast(total, fmt, rounding="toward_zero" if truncated else "nearest")


def add_narrow(a: jax.Array, b: jax.Array, fmt: Float, rounding: str, word=None) -> jax.Array:
    """`add` where the sum neither overflows nor needs subnormal or double rounding."""
    total = a + b
    if fmt.man == 23:
        return total
    drop = 23 - fmt.man
    if rounding == "stochastic":
        return _f32((_u32(total) + word) & np.uint32(0xFFFFFFFF << drop & 0xFFFFFFFF))
    # 1.5 * 2^(e + drop): adding it leaves float32 no bits below the ulp that fmt has at 2^e
    magic = _f32((_u32(total) & _EXPONENT) + np.uint32(drop << 23 | 0x400000))
    return (total + magic) - magic


def _u32(x):
    return lax.bitcast_convert_type(x, jnp.uint32)


def _f32(x):
    return lax.bitcast_convert_type(x, jnp.float32)


def _sum_to_odd(a: jax.Array, b: jax.Array) -> jax.Array:
    """A + b rounded to odd in float32: rounding that to 22 bits or fewer, by any rule, gives
    what rounding the exact sum would [boldo2008odd, Thm. 3]. TwoSum gives the residual.
    """
    total = a + b
    rest = total - a
    error = (a - (total - rest)) + (b - rest)
    bits = _u32(total)
    away = _u32(error) ^ bits < _SIGN  # the exact sum lies beyond `total`, seen from zero
    step = jnp.where(away, np.uint32(1), np.uint32(0xFFFFFFFF))
    inexact = (jnp.abs(error) > 0) & (bits & np.uint32(1) == 0)  # False for inf and NaN sums
    return _f32(jnp.where(inexact, bits + step, bits))


def _add_stochastic(a, b, fmt: Float, word):
    """Adds N = 23 - man random bits below the ulp and truncates.

    float32's own rounding of the sum leaves exactly N bits below the ulp, half to even:
    P3109 variant C. Below the normal range, adding 2^emin moves the float32 ulp to where the
    N bits end: first to `a`, exactly, if `a` is that small too, since it is on the grid; else
    to the sum, which is exact where two such addends nearly cancel.
    """
    total = a + b
    tiny = jnp.abs(total) < np.float32(fmt.min_normal)
    shift = jnp.where(tiny, np.float32(fmt.min_normal), np.float32(0))
    shift = _f32(_u32(shift) | (_u32(total) & _SIGN))
    small = jnp.abs(a) < np.float32(2 * fmt.min_normal)
    shifted = (jnp.where(small, a, total) + shift) + jnp.where(small, b, np.float32(0))
    drop = 23 - fmt.man
    bits = (_u32(shifted) + word) & np.uint32(0xFFFFFFFF << drop & 0xFFFFFFFF)
    bits = jnp.where(jnp.isfinite(shifted), bits, _u32(shifted))
    magnitude = _u32(_f32(bits) - shift) & _MAGNITUDE
    rounded = _f32(magnitude | (_u32(total) & _SIGN))
    return cast(rounded, fmt)  # on the grid already: applies the overflow rule only


def _aligned(x, other, fmt: Float):
    """Drops the bits of `x` below the ulp, in `fmt`, of the larger of |x| and |other|."""
    larger = jnp.maximum(jnp.abs(x), jnp.abs(other))
    bits = _u32(x)
    exponent = jnp.maximum(_field(larger), max(fmt.emin + 127, 1))
    drop = 23 - fmt.man + exponent - jnp.maximum(_field(x), 1)  # in integers: no ulp is subnormal
    by = jnp.minimum(drop, 23).astype(jnp.uint32)
    kept = jnp.where(drop <= 23, bits >> by << by, bits & _SIGN)
    return _f32(jnp.where(jnp.isfinite(x), kept, bits))


def _field(x):
    """The exponent field of float32 `x`, as int32."""
    return ((_u32(x) & _EXPONENT) >> np.uint32(23)).astype(jnp.int32)
