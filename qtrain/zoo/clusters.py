"""Codebooks of vector quantization: a few values for all weights, or pieces of several weights.

Codebooks come from k-means with a fixed number of Lloyd iterations and no random choice. Float32
sums of many members depend on their order, which GPUs do not fix: there, two runs may differ in
the last bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

ITERATIONS = 25  # of Lloyd; a choice made here, no source gives one


class Shared(NamedTuple):
    """A codebook's numbers in one row, float32, and for each weight the place of its number."""

    table: jax.Array
    codes: jax.Array

    @property
    def weights(self) -> jax.Array:
        """The quantized weights."""
        return self.table[self.codes]


def kmeans(
    w: jax.Array, k: int, h: jax.Array | None = None, iterations: int = ITERATIONS
) -> Shared:
    """One of k values for each weight of an array of any shape [han2016deep; gong2014compressing].

    They begin evenly spaced from the least weight to the largest (recalled). A value that no weight
    is nearest to stays where it is.

    With the loss's curvature `h`, positive, in the shape of w, k-means minimizes
    sum h (w - c)^2, so a value is the mean of its members weighted by h [choi2017limit] (recalled).
    """
    x = w.astype(jnp.float32).reshape(-1, 1)
    h = jnp.ones(w.size) if h is None else h.astype(jnp.float32).reshape(-1)
    start = jnp.linspace(jnp.min(x), jnp.max(x), k)[:, None]
    centers, codes = _lloyd(x, start, _nearest_scalar, h, iterations)
    return Shared(centers[:, 0], codes.reshape(w.shape))


def product_kmeans(w: jax.Array, bits: int, length: int) -> Shared:
    """Product quantization of a kernel, (in, out) or (kh, kw, cin, cout) [gong2014compressing].

    The inputs of each output channel are cut into pieces of `length`; the pieces at one place, one
    of each output channel, share a codebook of 2^bits pieces, see `piece_kmeans` (recalled). Codes
    take bits / length per weight; a codebook is worth its own bits only where 2^bits is far
    below the number of output channels.

    Raises:
      ValueError: `length` does not divide the number of inputs.
    """
    pieces = _pieces(w, length).swapaxes(0, 1)  # place, channel, length
    centers, codes = jax.vmap(lambda x: piece_kmeans(x, bits))(pieces)
    places, k, _ = centers.shape
    first = (jnp.arange(places)[:, None] * k + codes) * length
    index = (first[..., None] + jnp.arange(length)).swapaxes(0, 1)
    return Shared(centers.reshape(-1), _kernel(index, w))


def residual_kmeans(w: jax.Array, bits: int, length: int, stages: int) -> jax.Array:
    """Residual quantization of a kernel, in its shape, float32 [gong2014compressing].

    Its pieces, see `product_kmeans`, share one codebook of 2^bits pieces; what that leaves over is
    quantized in the same way, by a codebook of its own, and so on (recalled). Each stage takes
    bits / length per weight.

    Raises:
      ValueError: `length` does not divide the number of inputs.
    """
    pieces = _pieces(w, length)
    x = pieces.reshape(-1, length).astype(jnp.float32)

    def stage(_, total):
        centers, codes = piece_kmeans(x - total, bits)
        return total + centers[codes]

    total = lax.fori_loop(0, stages, stage, jnp.zeros_like(x))
    return _kernel(total.reshape(pieces.shape), w)


def piece_kmeans(x: jax.Array, bits: int) -> tuple[jax.Array, jax.Array]:
    """2^bits centers, (2^bits, d), for the n rows of x, (n, d), and the center of each row.

    Starts from the mean; `bits` times, each center gets a second one at its farthest member, and
    Lloyd iterations follow (a choice made here). So the error never grows with `bits`.
    """
    x, k = x.astype(jnp.float32), 2**bits
    h = jnp.ones(len(x))

    def grow(level, centers):
        twins = jnp.roll(_farthest(x, centers), 2**level, axis=0)
        centers = jnp.where(jnp.arange(k)[:, None] < 2**level, centers, twins)
        return _lloyd(x, centers, _nearest, h, ITERATIONS)[0]

    # centers at infinity are not there yet: no row is nearest to one
    centers = jnp.full((k, x.shape[1]), jnp.inf).at[0].set(jnp.mean(x, axis=0))
    centers = lax.fori_loop(0, bits, grow, centers)
    return centers, _nearest(x, centers)


def _lloyd(x, centers, assign: Callable, h, iterations: int) -> tuple[jax.Array, jax.Array]:
    """Members to the nearest center and centers to the mean of their members, in turn.

    x is (n, d), centers (k, d), h (n,). A center moves by the mean of its members' differences
    from it: those are small, so sums over many members lose little.
    """

    def step(_, centers):
        codes = assign(x, centers)
        total = jnp.zeros(len(centers)).at[codes].add(h)[:, None]
        moves = jnp.zeros_like(centers).at[codes].add(h[:, None] * (x - centers[codes]))
        return jnp.where(total > 0, centers + moves / jnp.where(total > 0, total, 1), centers)

    centers = lax.fori_loop(0, iterations, step, centers)
    return centers, assign(x, centers)


def _nearest_scalar(x, centers) -> jax.Array:
    """For ascending centers, (k, 1): a binary search for the middle between two of them."""
    c = centers[:, 0]
    return jnp.searchsorted(c[:-1] + (c[1:] - c[:-1]) / 2, x[:, 0])


def _distances(x, centers) -> jax.Array:
    """Squared, (n, k): as sums of squares, which cannot be negative."""
    return jnp.sum((x[:, None] - centers) ** 2, axis=-1)


def _nearest(x, centers) -> jax.Array:
    return jnp.argmin(_distances(x, centers), axis=1)


def _farthest(x, centers) -> jax.Array:
    """Of each center's members, the first of those farthest from it; without members, itself."""
    d, k, n = _distances(x, centers), len(centers), len(x)
    codes, d = jnp.argmin(d, axis=1), jnp.min(d, axis=1)
    most = jnp.zeros(k).at[codes].max(d)
    first = jnp.full(k, n).at[codes].min(jnp.where(d == most[codes], jnp.arange(n), n))
    return jnp.where((first < n)[:, None], x[jnp.minimum(first, n - 1)], centers)


def _pieces(w: jax.Array, length: int) -> jax.Array:
    """A kernel as (output channel, place, length)."""
    inputs, outputs = w.size // w.shape[-1], w.shape[-1]
    if inputs % length:
        raise ValueError(f"pieces of {length} do not divide {inputs} inputs: choose a divisor")
    return w.reshape(inputs, outputs).T.reshape(outputs, inputs // length, length)


def _kernel(pieces: jax.Array, w: jax.Array) -> jax.Array:
    """The inverse of `_pieces`, in the shape of `w`."""
    return pieces.reshape(w.shape[-1], -1).T.reshape(w.shape)


def shared_rate(weights: int, k: int, *, width: int = 32) -> float:
    """How many times smaller n weights with k shared values are: n b / (n log2 k + k b).

    Codes of log2 k bits and a codebook of k values, beside n values of b = `width` bits
    [han2016deep] (recalled).
    """
    return weights * width / (weights * math.log2(k) + k * width)


def product_bits(k: int, pieces: int, inputs: int) -> float:
    """Bits per weight of the codes of product quantization: log2(k) s / n, for s pieces of the n
    inputs of a channel [gong2014compressing] (recalled). Codebooks come on top: see `product_rate`.
    """
    return math.log2(k) * pieces / inputs


def product_rate(inputs: int, outputs: int, k: int, pieces: int, *, width: int = 32) -> float:
    """How many times smaller an (inputs, outputs) kernel is, codebooks of k pieces included."""
    codes = product_bits(k, pieces, inputs) * inputs * outputs
    return inputs * outputs * width / (codes + k * inputs * width)


def residual_rate(
    inputs: int, outputs: int, k: int, length: int, stages: int, *, width: int = 32
) -> float:
    """How many times smaller it is with `stages` codebooks, each of k pieces of `length`."""
    weights = inputs * outputs
    codes = stages * math.log2(k) * weights / length
    return weights * width / (codes + stages * k * length * width)
