"""Ternary weights with scales that are computed (TWN) or learned (TTQ).

A weight below a threshold is zero, one beyond it plus or minus a scale. Both methods keep
full-precision weights, and apply to them what the gradient at the ternary ones gives.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from qtrain.nn import Learned
from qtrain.quantize.estimator import straight_through
from qtrain.quantize.product import product
from qtrain.zoo.method import Method


def codes_of(w: jax.Array, threshold: jax.Array) -> jax.Array:
    """+1 above the threshold, -1 below its negative, else 0: float32, in the shape of `w`.

    A threshold is a mean or a maximum of |w|: where it is not finite, all codes are NaN.
    """
    codes = jnp.where(w > threshold, 1.0, jnp.where(w < -threshold, -1.0, 0.0))
    return jnp.where(jnp.isfinite(threshold), codes, jnp.nan)


def scale_of(w: jax.Array, codes: jax.Array) -> jax.Array:
    """The alpha of least error sum (w - alpha codes)^2, for codes of -1, 0 and 1; 0 if all are 0.

    A mean, and the mean of what it leaves, which takes most of the rounding out: the mean of
    equal numbers is that number.
    """
    kept = jnp.abs(codes)
    count = jnp.maximum(jnp.sum(kept), 1)
    signed = w.astype(jnp.float32) * codes
    first = jnp.sum(signed) / count
    return first + jnp.sum(signed - first * kept) / count  # products with codes are exact


def largest(w: jax.Array) -> jax.Array:
    """The maximum of |w|, float32; NaN if any weight is."""
    return jnp.max(jnp.abs(w.astype(jnp.float32)), initial=0)


def check_share(value: float, name: str) -> None:
    """Raises ValueError for a threshold that no weight may reach."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be at least 0 and below 1, not {value}: a share of |w|")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TWN:
    """Ternary weight network: `(w, key=None) -> alpha t`, t of -1, 0 and 1 [li2016twn].

        Delta = threshold mean|w|,   t = sign(w) where |w| > Delta, else 0
        alpha = mean of |w| over |w| > Delta

    One scale for the whole array. It is the one of least error for these t: a mean over the
    weights that are kept. The mean over all weights, as in a published code [yin2018binaryrelax,
    code], is too small by the share of those. The gradient is that of the identity.

    The best threshold is alpha / 2: 0.767 mean|w| for normal weights, 2/3 for uniform ones. 0.7 is
    recalled from the paper, and in two codes of others. For normal weights the error is 0.1916 of
    the variance, and 0.1902 at best; `optim.LossAware(bits=2, rule="optimum")` finds the best t
    of each array.

    Zeros stay zeros; a weight that is not finite, or a sum beyond float32, makes all NaN.
    """

    threshold: float = 0.7

    sources = ("li2016twn",)
    needs_key = False

    def __post_init__(self) -> None:
        check_share(self.threshold, "threshold")

    def describe(self) -> str:
        """A short text for tables."""
        return f"TWN, {self.threshold:g} mean|w|"

    def __call__(self, w: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """The ternary weights, in the shape and type of `w`; `key` is not used."""
        return straight_through(self._values, w)

    def _values(self, w: jax.Array) -> jax.Array:
        # not `mean`: XLA divides by the constant, or multiplies by its inverse under jit
        share = np.float32(self.threshold / max(w.size, 1))
        codes = codes_of(w, product(jnp.sum(jnp.abs(w.astype(jnp.float32))), share))
        return (scale_of(w, codes) * codes).astype(w.dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TTQ:
    """Trained ternary quantization: w_p, 0 or -w_n, with both levels learned [zhu2017ttq].

        Delta = threshold max|w|,   w' = w_p where w > Delta, -w_n where w < -Delta, else 0

    The threshold, and the 1 that both levels start from, are those of a published code. For the
    gradient g at w' (recalled from the paper, and as in that code):

        dw_p = sum of g over w > Delta,   dw_n = -sum of g over w < -Delta
        dw   = w_p g, g or w_n g, where w' is w_p, 0 or -w_n; Delta has no gradient

    Nothing but the loss keeps the levels positive. start "mean" (ours) takes the mean |w| of each
    side in place of 1: the levels of least error, 0 for a side without weights.
    """

    threshold: float = 0.05
    start: Literal["one", "mean"] = "one"

    sources = ("zhu2017ttq",)
    needs_key = False

    def __post_init__(self) -> None:
        check_share(self.threshold, "threshold")
        if self.start not in ("one", "mean"):
            raise ValueError(f"unknown start {self.start!r}: one or mean")

    def describe(self) -> str:
        """A short text for tables."""
        start = "" if self.start == "one" else ", from the mean"
        return f"TTQ, {self.threshold:g} max|w|{start}"

    def module(self, kernel: jax.Array) -> Levels:
        """The two levels of one layer."""
        return Levels(self, kernel)

    def codes(self, w: jax.Array) -> jax.Array:
        """-1, 0 or 1, float32; NaN where any weight is not finite."""
        return codes_of(w, product(largest(w), np.float32(self.threshold)))


class Levels(nnx.Module):
    """`TTQ` with its levels, for one layer."""

    def __init__(self, settings: TTQ, kernel: jax.Array):
        self.settings = settings
        above, below = jnp.float32(1), jnp.float32(1)
        if settings.start == "mean":
            codes = settings.codes(kernel)
            above = scale_of(kernel, jnp.maximum(codes, 0))
            below = scale_of(kernel, jnp.minimum(codes, 0))
        self.positive, self.negative = Learned(above), Learned(below)

    def __call__(self, w: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """The ternary weights, in the shape and type of `w`; `key` is not used."""
        codes = straight_through(self.settings.codes, w.astype(jnp.float32))
        below = jnp.where(codes < 0, self.negative[...], 1)
        level = jnp.where(codes > 0, self.positive[...], below)
        return (level * codes).astype(w.dtype)


METHODS = (
    Method(
        name="twn", title="Ternary weight networks", source="li2016twn", technique="optimization",
        codebook="adaptive", targets=("weight",),
        places=lambda bits, activation_bits: {"weight": TWN()}, estimator="identity",
        uncertain="the threshold 0.7 mean|w| is recalled, and seen in codes of others",
        weight_bits=(2,),
    ),
    Method(
        name="ttq", title="Trained ternary quantization", source="zhu2017ttq",
        technique="learned", codebook="adaptive", targets=("weight",),
        places=lambda bits, activation_bits: {"weight": TTQ()}, start="pretrained",
        estimator="gradient times the level, times 1 where the code is 0",
        uncertain="the backward pass is recalled; a published code does the same",
        weight_bits=(2,),
    ),
)  # fmt: skip
