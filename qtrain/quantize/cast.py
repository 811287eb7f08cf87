"""Rounds arrays onto the grid of a format.

Values are carried in float32. `reference.py` spells out every mode in integers; here, the two
modes that training spends its time in take a few vector instructions with the same bits.
"""

from __future__ import annotations

from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qtrain import formats
from qtrain.formats import Codebook, Float, Format
from qtrain.quantize.bits import random_words
from qtrain.quantize.codebook import round_codebook
from qtrain.quantize.reference import INFINITY, SIGN, finish, round_float, round_steps

Rounding = Literal["nearest", "nearest_away", "toward_zero", "to_odd", "stochastic"]
Variant = Literal["A", "B", "C"]
ROUNDINGS = get_args(Rounding)


def cast(
    x: jax.Array,
    fmt: Format | str,
    key: jax.Array | None = None,
    *,
    rounding: Rounding | None = None,
    random_bits: int | None = None,
    variant: Variant = "C",
) -> jax.Array:
    """Rounds `x` to the nearest values of `fmt`, or stochastically; the dtype is unchanged.

    A value beyond the largest is rounded as if the exponent had no limit, then becomes what
    the format says: infinity, NaN, or the largest value (always, for integers and codebooks).
    toward_zero and to_odd turn finite ones into the largest value. NaN stays NaN; the sign of
    zero is kept where the format has one. Stochastic rounding draws N bits R per element and
    rounds away from zero if delta 2^N + R >= 2^N, where delta is the distance to the lower
    neighbour in ulps and the variant says how delta 2^N becomes an integer [p3109, Sec. 4]:
    A truncates it, B rounds it half up, C half to even.

    Args:
      x: float array; other dtypes than float32 go through float32, and values of `fmt` that
        they lack (float16 has no 2^16) are rounded to them, to infinity too.
      key: one PRNG key for stochastic rounding. Under vmap with one key for all examples, all
        draw the same random bits.
      rounding: default "nearest" without a key, "stochastic" with one.
      random_bits: N, 1 to 24; default: as many as float32 has below the format's ulp,
        23 - man (24 for integers and codebooks).

    Raises:
      TypeError: `x` is no float array, or `fmt` neither a format nor a name.
      ValueError: unknown format, rounding or variant; no key, several, or one nobody uses.
    """
    fmt = formats.get(fmt)
    x = jnp.asarray(x)
    rounding = rounding or ("nearest" if key is None else "stochastic")
    _check(x, rounding, key, random_bits, variant)
    nbits = random_bits or (max(23 - fmt.man, 1) if isinstance(fmt, Float) else 24)
    words = None
    if key is not None:  # only stochastic rounding may have one
        words = random_words(key, x.shape) >> np.uint32(32 - nbits)
    return cast_with_bits(x, fmt, rounding, words, nbits, variant)


def cast_with_bits(x, fmt: Format, rounding: Rounding, r, nbits: int, variant: Variant = "C"):
    """`cast` with the random bits given: uint32 below 2^nbits, in the shape of `x`."""
    y = x.astype(jnp.float32)
    if isinstance(fmt, Codebook):
        y = round_codebook(y, fmt, rounding, r, nbits, variant)
    elif not isinstance(fmt, Float):
        frac = 0 if isinstance(fmt, formats.Int) else fmt.frac
        if frac == 0 and rounding == "nearest":
            y = lax.round(y, lax.RoundingMethod.TO_NEAREST_EVEN)
        elif frac == 0 and (rounding, nbits, variant) == ("stochastic", 24, "C"):
            y = _stochastic_integer(y, r)
        else:
            y = round_steps(y, frac, rounding, r, nbits, variant)
        y = jnp.clip(y, np.float32(fmt.min), np.float32(fmt.max))
        y = jnp.where(y == 0, np.float32(0), y)  # one zero; XLA would simplify y + 0.0 to y
    elif fast := _fast(fmt, rounding, nbits, variant):
        y = fast(y, fmt, r)
    else:
        y = round_float(y, fmt, rounding, r, nbits, variant)
    return y.astype(x.dtype)


def _fast(fmt: Float, rounding: str, nbits: int, variant: str):
    """The short way to round, where there is one."""
    default_bits = rounding == "stochastic" and variant == "C" and nbits == 23 - fmt.man
    if fmt.man == 0 or (rounding != "nearest" and not default_bits):
        return None
    if fmt.emin == -126:
        return _wide
    # no bits left to drop, or magic numbers beyond float32
    if fmt.man > 21 or fmt.emax + 24 - fmt.man > 127:
        return None
    # XLA may flush float32 subnormals: below this exponent, inputs must round to zero anyway
    least = fmt.emin - fmt.man - 1 if rounding == "nearest" else fmt.emin - 24
    if least < -126:
        return None
    return _nearest if rounding == "nearest" else _stochastic


def _nearest(x: jax.Array, fmt: Float, _) -> jax.Array:
    """Nearest, ties to even, by letting a float32 addition do it.

    1.5 * 2^(e + 23 - man) has a float32 ulp equal to the format's ulp at 2^e, so adding and
    subtracting it rounds. With e at least emin, subnormals are rounded by the same addition.
    """
    bits = _u32(x)
    field = jnp.clip(
        bits & INFINITY, np.uint32(fmt.emin + 127 << 23), np.uint32(fmt.emax + 1 + 127 << 23)
    )
    magic = _f32(field + np.uint32(23 - fmt.man << 23 | 0x400000))
    rounded = _u32((jnp.abs(x) + magic) - magic)
    return _finish(x, bits, rounded, fmt)


def _wide(x: jax.Array, fmt: Float, r: jax.Array | None) -> jax.Array:
    """Nearest or stochastic for emin = -126, where float32 has the format's own spacing.

    Adds half an ulp, or random bits, to the bits below the ulp. No float instruction touches
    the value, so float32 subnormals survive.
    """
    drop = 23 - fmt.man
    bits = _u32(x)
    magnitude = bits & ~SIGN
    if drop:
        odd = (magnitude >> np.uint32(drop)) & np.uint32(1)
        extra = np.uint32((1 << drop - 1) - 1) + odd if r is None else r
        magnitude = (magnitude + extra) & np.uint32(0xFFFFFFFF << drop & 0xFFFFFFFF)
    return finish(x, bits & SIGN, jnp.minimum(magnitude, INFINITY), fmt, "nearest")


def _stochastic(x: jax.Array, fmt: Float, r: jax.Array) -> jax.Array:
    """Adds the random bits below the ulp and truncates: P3109 variant C, N = 23 - man.

    Below the normal range, adding 2^emin first aligns the float32 ulp with the last random
    bit, and rounds what lies below it half to even, as variant C does.
    """
    bits = _u32(x)
    magnitude = jnp.abs(x)
    floor = np.float32(fmt.min_normal)
    shift = jnp.where(magnitude < floor, floor, np.float32(0))
    aligned = _u32(magnitude + shift)
    mask = np.uint32(0xFFFFFFFF << (23 - fmt.man) & 0xFFFFFFFF)
    truncated = jnp.minimum((aligned + r) & mask, INFINITY)
    return _finish(x, bits, _u32(_f32(truncated) - shift), fmt)


def _stochastic_integer(x: jax.Array, r: jax.Array) -> jax.Array:
    """To an integer, by 24 random bits: P3109 variant C in float instructions.

    Adding 1/2 rounds a magnitude below it to a multiple of 2^-24, half to even, as variant C
    does; from 1/2 up, float32 has no finer values. The rest is exact.
    """
    magnitude = jnp.abs(x)
    shift = jnp.where(magnitude < 0.5, np.float32(0.5), np.float32(0))
    magnitude = (magnitude + shift) - shift
    down = jnp.floor(magnitude)
    # a signed type: conversion from uint32 takes CPUs several instructions
    random = r.astype(jnp.int32).astype(jnp.float32) * np.float32(2.0**-24)
    up = random >= 1 - (magnitude - down)
    return jnp.copysign(down + up.astype(jnp.float32), x)


def _finish(x, bits, rounded, fmt: Float):
    """`reference.finish` in fewer instructions, where it comes to the same."""
    if not fmt.subnormals or fmt.top == "fnuz":
        return finish(x, bits & SIGN, rounded, fmt, "nearest")
    top = np.float32(fmt.max)
    y = _f32(rounded)
    if fmt.overflow == "saturate":
        y = jnp.where(y > top, top, y)
    elif fmt.overflow == "inf":
        y = jnp.where(y > top, np.float32(np.inf), y)
    else:
        y = jnp.where(y > top, np.float32(np.nan), y)
    return jnp.where(jnp.isnan(x), np.float32(np.nan), _f32(_u32(y) | (bits & SIGN)))


def _u32(x):
    return lax.bitcast_convert_type(x, jnp.uint32)


def _f32(x):
    return lax.bitcast_convert_type(x, jnp.float32)


def _check(x, rounding, key, random_bits, variant) -> None:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"cannot round {x.dtype} values: cast them to float32 first")
    if rounding not in ROUNDINGS:
        raise ValueError(f"unknown rounding {rounding!r}: one of {', '.join(ROUNDINGS)}")
    if variant not in get_args(Variant):
        raise ValueError(f"unknown variant {variant!r}: A, B or C")
    if (key is None) == (rounding == "stochastic"):
        need = "needs a key: pass key=jax.random.key(seed)" if key is None else "uses no key"
        raise ValueError(f"{rounding} rounding {need}")
    if random_bits is not None and not 1 <= random_bits <= 24:
        raise ValueError(f"random_bits must be 1 to 24, not {random_bits}")
