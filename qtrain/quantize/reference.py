"""The rounding rules, spelled out in integers [p3109, Sec. 4; modern formats differ in top codes].

|x| = significand * 2^exponent with a 24-bit significand. Dropping `shift` low bits leaves
i + delta, 0 <= delta < 1, in units of the target's last place; the mode decides between i and
i + 1. Works for float32 subnormals, which float instructions may flush. `cast.py` has faster
ways for the common modes; this one does all of them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qtrain.formats import Float

SIGN = np.uint32(0x80000000)
INFINITY = np.uint32(0x7F800000)
NAN = np.uint32(0x7FC00000)


def round_float(x: jax.Array, fmt: Float, rounding: str, r=None, nbits=0, variant="C"):
    """Rounds float32 `x` to a float format; `r` are `nbits` random bits, for "stochastic"."""
    bits = lax.bitcast_convert_type(x, jnp.uint32)
    sign, magnitude = bits & SIGN, bits & ~SIGN
    significand, exponent = _split(magnitude)
    leading = exponent + (31 - _clz(significand))
    ulp = jnp.maximum(leading, fmt.emin) - fmt.man
    odd = None
    if fmt.man == 0:  # one significand bit: "even" means an even code
        odd = (leading >= fmt.emin) & ((leading + fmt.bias_value) % 2 == 1)
    kept = _round(significand, ulp - exponent, rounding, (r, nbits, variant), odd)
    rounded = _join(kept, jnp.maximum(ulp, exponent))
    return finish(x, sign, rounded, fmt, rounding)


def finish(x, sign, rounded, fmt: Float, rounding: str) -> jax.Array:
    """Applies what the format does outside its range, to magnitude bits on the grid."""
    top = np.float32(fmt.max).view(np.uint32)
    beyond = {"inf": INFINITY, "nan": NAN, "saturate": top}[fmt.overflow]
    if not fmt.subnormals:
        rounded = jnp.where(rounded < np.float32(fmt.min_normal).view(np.uint32), 0, rounded)
    over = jnp.broadcast_to(beyond, rounded.shape)
    if rounding in ("toward_zero", "to_odd"):  # these never round a finite value to infinity
        magnitude = lax.bitcast_convert_type(x, jnp.uint32) & ~SIGN
        over = jnp.where(magnitude < INFINITY, top, over)
    rounded = jnp.where(rounded > top, over, rounded)
    rounded = jnp.where(jnp.isnan(x), NAN, rounded)
    if fmt.top == "fnuz":
        sign = jnp.where(rounded == 0, 0, sign)
    return lax.bitcast_convert_type(rounded | sign, jnp.float32)


def round_steps(x: jax.Array, frac: int, rounding: str, r=None, nbits=0, variant="C"):
    """Rounds float32 `x` to a multiple of 2^-frac, without limits; NaN and infinity stay."""
    bits = lax.bitcast_convert_type(x, jnp.uint32)
    significand, exponent = _split(bits & ~SIGN)
    kept = _round(significand, -frac - exponent, rounding, (r, nbits, variant), None)
    rounded = _join(kept, jnp.maximum(-frac, exponent)) | (bits & SIGN)
    return jnp.where(jnp.isfinite(x), lax.bitcast_convert_type(rounded, jnp.float32), x)


def _split(magnitude):
    """Significand (uint32, below 2^24) and exponent (int32) of magnitude bits."""
    field = (magnitude >> np.uint32(23)).astype(jnp.int32)
    fraction = magnitude & np.uint32(0x7FFFFF)
    significand = jnp.where(field > 0, fraction | np.uint32(1 << 23), fraction)
    return significand, jnp.maximum(field, 1) - 150


def _clz(x):
    return lax.clz(x).astype(jnp.int32)


def _shift_right(x, by):
    return jnp.where(by < 32, x >> jnp.minimum(by, 31).astype(jnp.uint32), jnp.uint32(0))


def _round(significand, shift, rounding: str, random, odd):
    """I or i + 1; where nothing is dropped (shift <= 0), the significand itself."""
    drop = jnp.clip(shift, 0, 31)  # beyond 24 bits all of the significand is below one half
    down = significand >> drop.astype(jnp.uint32)
    rest = significand - (down << drop.astype(jnp.uint32))
    half = jnp.uint32(1) << jnp.maximum(drop - 1, 0).astype(jnp.uint32)
    odd = down % 2 == 1 if odd is None else odd
    inexact = rest > 0
    if rounding == "nearest":
        up = (rest > half) | ((rest == half) & inexact & odd)
    elif rounding == "nearest_away":
        up = (rest >= half) & inexact
    elif rounding == "toward_zero":
        up = jnp.zeros_like(inexact)
    elif rounding == "to_odd":
        up = inexact & ~odd
    else:
        up = _stochastic_up(rest, shift, *random)
    return down + up.astype(jnp.uint32)


def _stochastic_up(rest, shift, r, nbits: int, variant: str):
    """P3109's three ways to compare delta = rest / 2^shift with N random bits."""
    if variant == "B":  # half a step more on either side
        return _scaled(rest, shift, nbits + 1)[0] + 2 * r + 1 >= np.uint32(1 << (nbits + 1))
    whole, left, half = _scaled(rest, shift, nbits)
    if variant == "C":
        tie_up = (left == half) & (whole % 2 == 1)
        whole = whole + ((left > 0) & ((left > half) | tie_up)).astype(jnp.uint32)
    return whole + r >= np.uint32(1 << nbits)


def _scaled(rest, shift, nbits: int):
    """floor(rest 2^nbits / 2^shift), what is left over, and half of a unit of that."""
    excess = jnp.clip(shift - nbits, 0, 31).astype(jnp.uint32)
    more = jnp.clip(nbits - shift, 0, nbits).astype(jnp.uint32)
    whole = jnp.where(shift > nbits, rest >> excess, rest << more)
    left = jnp.where(shift > nbits, rest - ((rest >> excess) << excess), 0)
    half = jnp.where(shift > nbits, jnp.uint32(1) << (jnp.maximum(excess, 1) - 1), 1)
    return whole, left, half


def _join(integer, exponent):
    """Magnitude bits of integer * 2^exponent, which must be a float32 or too large for one."""
    leading = 31 - _clz(integer)
    field = exponent + leading + 127
    normal = jnp.where(
        leading <= 23,
        integer << jnp.clip(23 - leading, 0, 31).astype(jnp.uint32),
        _shift_right(integer, leading - 23),
    ) & np.uint32(0x7FFFFF)
    normal = normal | (jnp.clip(field, 1, 255).astype(jnp.uint32) << np.uint32(23))
    normal = jnp.where(field >= 255, INFINITY, normal)
    subnormal = integer << jnp.clip(exponent + 149, 0, 31).astype(jnp.uint32)
    return jnp.where(integer == 0, jnp.uint32(0), jnp.where(field >= 1, normal, subnormal))
