"""Rounding to a list of levels."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from qtrain.formats import Codebook


def round_codebook(
    x: jax.Array, fmt: Codebook, rounding: str, r=None, nbits: int = 0, variant: str = "C"
) -> jax.Array:
    """Rounds float32 `x` to one of the two levels around it; beyond the ends, to the end.

    nearest breaks ties to the level of even index; to_odd takes an inexact value to the
    level of odd index. NaN stays NaN. Float32 subnormals are taken for zero, as XLA compares them.
    Stochastic: delta, the distance to the lower level over that between the levels, is computed in
    float32; exact where the first distance is a float32 number and the second a power of two.
    """
    levels = np.array(fmt.levels, np.float32)
    if rounding in ("nearest", "nearest_away"):
        y = jnp.asarray(levels)[jnp.searchsorted(_thresholds(fmt, rounding), x)]
        return jnp.where(jnp.isnan(x), x, y)
    x = jnp.where(jnp.isnan(x), x, jnp.clip(x, levels[0], levels[-1]))
    low = jnp.clip(jnp.searchsorted(levels, x, side="right") - 1, 0, len(levels) - 2)
    below, above = jnp.asarray(levels)[low], jnp.asarray(levels)[low + 1]
    if rounding == "toward_zero":
        up = jnp.abs(above) < jnp.abs(below)
    elif rounding == "to_odd":
        up = low % 2 == 0
    else:
        unit = np.float32(1 if fmt.max - fmt.min < 2**127 else 0.5)  # a distance may overflow
        up = _stochastic_up(x, below, above, unit, r, nbits, variant)
    y = jnp.where((x == above) | (up & (x > below)), above, below)
    return jnp.where(jnp.isnan(x), x, y)


def _stochastic_up(x, below, above, unit, r, nbits: int, variant: str):
    """P3109's three ways to compare delta with N random bits, as in `reference.py`."""
    delta = (x * unit - below * unit) / (above * unit - below * unit)
    scaled = delta * np.float32(2**nbits)
    whole = jnp.round(scaled) if variant == "C" else jnp.floor(scaled)
    if variant == "B":  # not floor(scaled + 1/2), which rounds before it floors
        whole = whole + (scaled - whole >= np.float32(0.5))
    return whole.astype(jnp.uint32) + r >= np.uint32(1 << nbits)


def _thresholds(fmt: Codebook, rounding: str) -> np.ndarray:
    """For each pair of neighbours, the largest float32 that goes to the lower one."""
    levels = np.array(fmt.levels)
    middle = (levels[1:] + levels[:-1]) / 2  # exact in float64 but for absurd spans
    narrow = middle.astype(np.float32)
    below = np.where(narrow.astype(np.float64) > middle, np.nextafter(narrow, -np.inf), narrow)
    if rounding == "nearest":
        tie_up = np.arange(len(middle)) % 2 == 1
    else:
        tie_up = np.abs(levels[1:]) > np.abs(levels[:-1])
    exact = narrow.astype(np.float64) == middle
    return np.where(exact & tie_up, np.nextafter(narrow, np.float32(-np.inf)), below).astype(
        np.float32
    )
