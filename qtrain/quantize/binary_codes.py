"""Weights as sums of signs: w ~ a_1 b_1 + ... + a_k b_k, each b_i of -1 and 1, a few scales a_i.

Network sketching and alternating multi-bit quantization [guo2017network; xu2018alternating]; their
rules are recalled, not read (survey-quantized-nns, 4.20).
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qtrain.quantize.estimator import straight_through

Rule = Literal["greedy", "refined", "alternating"]
_DEPENDENT = np.float32(1e-6)  # of a pivot, which is the survivors where codes are independent


class Codes(NamedTuple):
    """The values are sum over k of scales codes."""

    scales: jax.Array  # float32 (k, groups)
    codes: jax.Array  # float32 (k, weights of a group, groups): -1 or 1, 0 where masked


@dataclasses.dataclass(frozen=True, kw_only=True)
class BinaryCodes:
    """Weights of k = `bits` binary codes: `(w, key=None) -> w'`, the gradient of the identity.

        greedy       b_i = sign(r), a_i = mean|r|, r <- r - a_i b_i, from r = w
        refined      the same, but all a_1..a_i are solved anew after each b_i: least squares
        alternating  from the refined scales, `iterations` times: each weight takes the nearest of
                     the 2^k values, then scales are solved anew. Never worse than refined, but
                     for rounding. Where the source starts it is uncertain.

    Scales are per index of the last axis (`channel`), or one set per tensor (`layer`). A group that
    has a NaN or an infinity becomes NaN; zeros stay zeros. With one bit a second call changes no
    bit. Up to 2^24 weights a group.
    """

    bits: int = 1
    rule: Rule = "greedy"
    per: Literal["channel", "layer"] = "channel"
    iterations: int = 10  # of the alternation

    sources = ("guo2017network", "xu2018alternating")
    needs_key = False

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise ValueError(f"bits must be 1 to 8, not {self.bits}")
        if self.rule not in get_args(Rule):
            raise ValueError(f"unknown rule {self.rule!r}: greedy, refined or alternating")
        if self.per not in ("channel", "layer"):
            raise ValueError(f"scales are per channel or layer, not per {self.per!r}")
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, not {self.iterations}")

    def describe(self) -> str:
        """A short text for tables."""
        return f"{self.bits}-bit {self.rule} codes, per {self.per}"

    def __call__(self, w: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Quantizes `w`, of any shape."""
        return straight_through(self.quantize, w)

    def quantize(self, w: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """The values alone: 0 where `mask`, of w's shape, is false; no scale counts those."""
        found = self.codes(w, mask)
        return values(found).reshape(w.shape).astype(w.dtype)

    def codes(self, w: jax.Array, mask: jax.Array | None = None) -> Codes:
        """Scales and codes; groups are the columns of `grouped(w)`."""
        rows = self.grouped(w).astype(jnp.float32)
        kept = jnp.ones_like(rows) if mask is None else self.grouped(mask).astype(jnp.float32)
        found = _sequential(rows, kept, self.bits, refine=self.rule != "greedy")
        if self.rule != "alternating":
            return found
        return alternate(rows, kept, found.scales, self.iterations)

    def grouped(self, w: jax.Array) -> jax.Array:
        """(weights of a group, groups)."""
        return w.reshape(-1, w.shape[-1] if self.per == "channel" and w.ndim else 1)


def values(found: Codes) -> jax.Array:
    """(weights of a group, groups). Products with signs are exact, so each sum rounds once."""
    total = found.scales[0] * found.codes[0]
    for scale, code in zip(found.scales[1:], found.codes[1:], strict=True):
        total = total + scale * code
    return total


def alternate(w: jax.Array, kept: jax.Array, scales: jax.Array, iterations: int) -> Codes:
    """Codes of the nearest values and scales of least squares, in turn, from these `scales`.

    Args:
      w: float32 (weights, groups).
      kept: 1, or 0 for weights whose codes are 0 and which no scale counts; of its shape.
      scales: float32 (k, groups).
    """
    again = lambda _, a: least_squares(w, _nearest(w, kept, a))  # noqa: E731
    scales = lax.fori_loop(0, iterations - 1, again, scales)
    codes = _nearest(w, kept, scales)
    return Codes(least_squares(w, codes), codes)


def _sequential(w, kept, k: int, *, refine: bool) -> Codes:
    """One code after another, each the sign of what is left."""
    left, codes, scales = w, [], []
    for _ in range(k):
        code = jnp.where(left < 0, -kept, kept)
        codes.append(code)
        if refine:
            found = Codes(least_squares(w, jnp.stack(codes)), jnp.stack(codes))
            left = w - values(found)
            scales = list(found.scales)
        else:
            scales.append(least_squares(left, code[None])[0])
            left = left - scales[-1] * code
    return Codes(jnp.stack(scales), jnp.stack(codes))


def _nearest(w, kept, scales) -> jax.Array:
    """Codes (k, weights, groups) of the nearest values; the lower one of two as near."""
    signs = np.array(list(itertools.product((-1, 1), repeat=len(scales))), np.float32)  # (2^k, k)
    levels = sum(signs[:, i, None] * scale for i, scale in enumerate(scales))  # (2^k, groups)
    order = jnp.argsort(levels, axis=0)
    levels = jnp.take_along_axis(levels, order, axis=0)
    index = sum((w > middle).astype(jnp.int32) for middle in (levels[:-1] + levels[1:]) / 2)
    chosen = jnp.take_along_axis(order, index, axis=0)
    return jnp.moveaxis(jnp.asarray(signs)[chosen], -1, 0) * kept


def least_squares(w, codes) -> jax.Array:
    """Scales (k, groups) of least squares. With one code, the mean of w b.

    What the first solution leaves is fitted once more, which takes most of the sums' rounding out:
    the mean of equal numbers is that number.
    """
    gram = [[jnp.sum(b * c, axis=0) for c in codes] for b in codes]  # exact: integers
    first = _solve(gram, [jnp.sum(w * b, axis=0) for b in codes])
    left = w - values(Codes(first, codes))
    return first + _solve(gram, [jnp.sum(left * b, axis=0) for b in codes])


def _solve(gram, right) -> jax.Array:
    """Elimination; a code that depends on those before it, or has no weights, gets scale 0."""
    k, rows, right = len(right), [list(row) for row in gram], list(right)
    inverse = []
    for i in range(k):
        free = rows[i][i] > _DEPENDENT * gram[i][i]
        inverse.append(jnp.where(free, 1 / jnp.where(free, rows[i][i], 1), 0))
        for j in range(i + 1, k):
            factor = rows[j][i] * inverse[i]
            right[j] = right[j] - factor * right[i]
            rows[j] = [a - factor * b for a, b in zip(rows[j], rows[i], strict=True)]
    for i in reversed(range(k)):
        known = sum((rows[i][j] * right[j] for j in range(i + 1, k)), start=jnp.float32(0))
        right[i] = (right[i] - known) * inverse[i]
    return jnp.stack(right)
