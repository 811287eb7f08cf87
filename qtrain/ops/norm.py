"""Range batch normalization: the range of a channel stands in for its standard deviation.

A maximum and a minimum can be had in eight bits; a sum of squares and its root can not
[banner2018scalable, Sec. 2].
"""

from __future__ import annotations

import functools
import math
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import lax

from qtrain.quantize.estimator import straight_through

Constant = Literal["paper", "code"]


class Moments(NamedTuple):
    """What normalizes a channel, float32, one value per channel."""

    mean: jax.Array
    spread: jax.Array  # C(n) range + epsilon, in place of the standard deviation


def range_constant(n: int, constant: Constant = "paper") -> float:
    """C(n), by which the range of n Gaussian values is multiplied.

    "paper" is 1 / sqrt(2 ln n) [banner2018scalable, Sec. 2], about 1.5 to 1.8 standard
    deviations; "code", 0.175 (1 + sqrt(pi ln 4)) times that, about 0.8 to 1.0 of one.

    Raises:
      ValueError: n below 2, or another constant.
    """
    if n < 2:
        raise ValueError(f"a range needs at least 2 values per channel (and chunk), not {n}")
    if constant not in get_args(Constant):
        raise ValueError(f"unknown constant {constant!r}: paper or code")
    scale = 1.0 if constant == "paper" else 0.175 * (1 + math.sqrt(math.pi * math.log(4)))
    return scale / math.sqrt(2 * math.log(n))


def range_moments(
    x: jax.Array,
    *,
    constant: Constant = "paper",
    chunks: int = 1,
    epsilon: float = 1e-5,
    axis_name: str | None = None,
) -> Moments:
    """Mean and C(n) range of each channel, over all axes of `x` but the last.

    Args:
      x: (N, ..., C).
      chunks: the values of a channel are cut into that many contiguous parts of n values each;
        max and min are means over those of the parts, which outliers move less.
      axis_name: inside `jax.shard_map`, the mesh axis that the batch is split over: the values
        of all its devices count. Without it, those of this device alone.

    The mean lies between the least and the largest value, however sums round: a constant channel
    has itself as mean. The gradient of a maximum is shared among the values that attain it.

    Raises:
      ValueError: chunks do not divide the number of values, or are of fewer than 2.
    """
    values = x.astype(jnp.float32).reshape(math.prod(x.shape[:-1]), x.shape[-1])
    if chunks < 1 or len(values) % chunks:
        raise ValueError(f"{len(values)} values per channel cannot be cut into {chunks} chunks")
    length = len(values) // chunks
    if axis_name is not None and chunks == 1:
        length *= lax.axis_size(axis_name)
    factor = range_constant(length, constant)
    parts = values.reshape(chunks, -1, x.shape[-1])
    high, low, mean = parts.max(axis=1), parts.min(axis=1), values.mean(axis=0)
    least, largest = low.min(axis=0), high.max(axis=0)
    spread = high.mean(axis=0) - low.mean(axis=0)  # of one chunk: the range itself
    if axis_name is not None:
        mean, spread = lax.pmean((mean, spread), axis_name)
        least = -lax.pmax(lax.stop_gradient(-least), axis_name)
        largest = lax.pmax(lax.stop_gradient(largest), axis_name)
        if chunks == 1:  # the range of all values; chunks stay parts of one device's values
            high, low = (_attained(values, x, axis_name) for x in (largest, least))
            spread = high - low
    mean = straight_through(lambda m: jnp.clip(m, least, largest), mean)
    return Moments(mean, factor * spread + jnp.float32(epsilon))


def _attained(values: jax.Array, extreme: jax.Array, axis_name: str) -> jax.Array:
    """`extreme` of all devices' values, a constant, with a gradient: those of the values that
    attain it share it equally, as on one device. JAX knows no gradient of pmax.
    """
    here = values == extreme
    moved = jnp.where(here, values - lax.stop_gradient(values), 0).sum(axis=0)
    return extreme + lax.psum(moved, axis_name) / lax.psum(here.sum(axis=0), axis_name)


def round_error(x: jax.Array, quantizer, key: jax.Array | None = None) -> jax.Array:
    """`x`; what comes back through it as gradient goes through `quantizer`, as an op's error."""
    return _round_error(quantizer, x, key if quantizer.needs_key else None)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _round_error(quantizer, x, key):
    return x


def _round_error_fwd(quantizer, x, key):
    return x, key


def _round_error_bwd(quantizer, key, error):
    return quantizer(error, key), None


_round_error.defvjp(_round_error_fwd, _round_error_bwd)
