"""Loss-aware weight quantization: LAB and LAQ [hou2018lossaware; hou2019analysis, Sec. 2].

A weight tensor w becomes alpha b, with one scale alpha and codes b on a fixed grid, so that the
error weighted by the loss's curvature, sum c (alpha b - w)^2, is small. c = sqrt(v) + 1e-8, where
v is the second moment that an adaptive optimizer keeps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

ITERATIONS, TOLERANCE = 10, 1e-6  # of the alternating rules [hou2018lossaware, code]
THRESHOLD = 0.7  # of first ternary codes, in units of the mean |w| [hou2018lossaware, code]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossAware:
    """A weight as alpha b: `(w, v) -> alpha b` in the shape of w, float32.

    bits 1 (LAB): b = sign(w), alpha = sum c |w| / sum c, which is exact. From 2 bits on
    (LAQ2, ...) codes are j / k for j = -k..k with k = 2^(bits - 1) - 1, by one of these rules:

      least_squares  alternates alpha = sum c w b / sum c b^2, and b nearest to w / alpha, until
                     alpha moves by less than 1e-6 or ten times
      published      the same with alpha = sum |c w b| / sum |c b|, which is least squares for
                     ternary codes only; above, it clips, and more bits hardly help
      optimum        the pair of least error among all, by sorting

    What alternates starts from the codes `begin`, which the optimum does not need:

      signs    sign(w)
      ternary  sign(w) where |w| > 0.7 mean|w|, else 0: the first codes of the source's code

    It ends, with least_squares, with no more error than the best scale of those codes has. It need
    not be near the optimum: from signs, a few large weights leave a scale that is too small; from
    ternary codes, weights that they drop stay dropped, however large their curvature is.

    A tensor of zeros becomes zeros; one that is not finite, or has such moments, not finite.
    """

    bits: int = 2
    rule: Literal["least_squares", "published", "optimum"] = "least_squares"
    begin: Literal["signs", "ternary"] = "signs"

    sources = ("hou2018lossaware", "hou2019analysis")
    stored = True  # the optimizer applies it, see `optim.stored`; no forward pass does

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 16:
            raise ValueError(f"bits must be 1 to 16, not {self.bits}")
        if self.rule not in ("least_squares", "published", "optimum"):
            raise ValueError(f"unknown rule {self.rule!r}: least_squares, published or optimum")
        if self.begin not in ("signs", "ternary"):
            raise ValueError(f"unknown begin {self.begin!r}: signs or ternary")

    @property
    def levels(self) -> int:
        """Positive codes: 1 for binary, else 2^(bits - 1) - 1."""
        return max(2 ** (self.bits - 1) - 1, 1)

    def __call__(self, w: jax.Array, v: jax.Array | None = None) -> jax.Array:
        """Quantizes `w`; `v`, of its shape and not negative, weighs the error; None: evenly."""
        w = w.astype(jnp.float32)
        c = jnp.ones_like(w) if v is None else jnp.sqrt(v.astype(jnp.float32)) + 1e-8
        if self.bits == 1:
            alpha = jnp.sum(c * jnp.abs(w)) / jnp.sum(c)
            return alpha * jnp.where(w < 0, -1.0, 1.0)
        if self.rule == "optimum":
            alpha, codes = _optimum(w, c, self.levels)
        else:
            fit = _least_squares if self.rule == "least_squares" else _published
            alpha, codes = _alternate(w, c, self.levels, fit, self.first(w))
        finite = jnp.isfinite(jnp.sum(c * jnp.abs(w)))  # else codes and scale may have become 0
        return jnp.where(finite, alpha * codes, jnp.nan)

    def first(self, w: jax.Array) -> jax.Array:
        """The codes that an alternation starts from, float32 in the shape of `w`."""
        if self.begin == "signs":
            return jnp.sign(w)
        size, share = jnp.abs(w), np.float32(THRESHOLD / max(w.size, 1))
        return jnp.where(size > jnp.sum(size) * share, jnp.sign(w), 0)

    def describe(self) -> str:
        """A short text for tables."""
        if self.bits == 1:
            return "LAB, in the optimizer"
        rule = "" if self.rule == "least_squares" else f" ({self.rule})"
        begin = "" if self.begin == "signs" else ", from ternary codes"
        return f"LAQ{self.bits}{rule}{begin}, in the optimizer"


def _alternate(w, c, k: int, fit: Callable, first) -> tuple[jax.Array, jax.Array]:
    """Scale for given codes and codes for given scale, in turn, from the codes `first`."""

    def unsettled(carry):
        _, _, step, moved = carry
        return (step < ITERATIONS) & (moved >= TOLERANCE)

    def refine(carry):
        alpha, codes, step, _ = carry
        new = fit(w, c, codes)
        return new, _nearest(w, new, k), step + 1, jnp.abs(new - alpha)

    alpha = fit(w, c, first)
    start = (alpha, _nearest(w, alpha, k), 0, jnp.float32(jnp.inf))
    alpha, codes, _, _ = lax.while_loop(unsettled, refine, start)
    return alpha, codes


def _nearest(w, alpha, k: int) -> jax.Array:
    """round(clip(w / alpha, -1, 1) k) / k, halves away from zero as in the source's code."""
    x = jnp.where(alpha > 0, jnp.abs(w) / jnp.where(alpha > 0, alpha, 1), 0)
    return jnp.sign(w) * jnp.floor(jnp.minimum(x, 1) * k + 0.5) / k


def _least_squares(w, c, codes) -> jax.Array:
    return _quotient(jnp.sum(c * w * codes), jnp.sum(c * codes**2))


def _published(w, c, codes) -> jax.Array:
    return _quotient(jnp.sum(jnp.abs(c * w * codes)), jnp.sum(jnp.abs(c * codes)))


def _quotient(p, s) -> jax.Array:
    return jnp.where(s > 0, p / jnp.where(s > 0, s, 1), 0)


def _optimum(w, c, k: int) -> tuple[jax.Array, jax.Array]:
    """Scale and codes of least error.

    The nearest codes change only at the d k scales alpha where |w_i| / alpha = (j - 1/2) / k, j =
    1..k. As alpha falls through one of these, code i grows from (j - 1) / k to j / k, and so do
    P = sum c |w| b and S = sum c b^2: the largest P^2 / S wins, its scale is P / S. Time and
    memory grow as d k.
    """
    if w.size * k > 2**27:
        raise ValueError(
            f"the optimum of {w.size} weights with {k} levels sorts {w.size * k:,} numbers: use"
            " least_squares, or fewer bits"
        )
    size, j = jnp.abs(w).reshape(-1, 1), jnp.arange(1, k + 1, dtype=jnp.float32)
    weight = c.reshape(-1, 1)
    where = (size * (2 * k / (2 * j - 1))).reshape(-1)
    order = jnp.argsort(-where, stable=True)
    p = jnp.cumsum((jnp.broadcast_to(weight * size, (size.size, k)) / k).reshape(-1)[order])
    s = jnp.cumsum((weight * (2 * j - 1) / k**2).reshape(-1)[order])
    best = jnp.argmax(p / jnp.sqrt(s))  # the square of p may underflow
    reached = jnp.argsort(order) <= best
    codes = jnp.sign(w) * reached.reshape(-1, k).sum(axis=1).reshape(w.shape) / k
    return _least_squares(w, c, codes), codes
