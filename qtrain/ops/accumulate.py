"""A batched GEMM whose every addition is rounded [wang2018fp8, Sec. 3].

Each step of the loop over K (see `blocks.py`) is one pass over a tile of running sums that
stays in cache: XLA fuses product, addition, rounding and random bits.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qtrain import formats
from qtrain.ops import adder, fused
from qtrain.ops.blocks import TILE, Plan, cut_rows, fold, plan_loops, steps, to_blocks
from qtrain.ops.config import Accumulator
from qtrain.ops.operands import Extent, extent, narrow
from qtrain.quantize import cast
from qtrain.quantize.bits import key_words, mix
from qtrain.quantize.product import product


def accumulate(
    lhs: jax.Array,
    rhs: jax.Array,
    accum: Accumulator,
    key: jax.Array | None = None,
    *,
    extents: tuple[Extent, Extent] | None = None,
    index: jax.Array | None = None,
) -> jax.Array:
    """Multiplies (B, M, K) by (B, K, N) into (B, M, N); all float32.

    Products are added along K in index order, each addition rounded as `accum` says. Where
    the operands allow it (see `operands.narrow`; found out at run time) a shorter rounding
    sequence with the same bits runs.

    Args:
      key: PRNG key; needed for stochastic rounding only. The bits of an addition depend
        on the key and on its global (output, k), not on how the loop is cut.
      extents: of lhs and rhs, where the caller has them cheaper (before taking patches).
      index: uint32 (B, M, N), names the outputs for the random bits; default row-major.

    Raises:
      TypeError: an operand is not float32.
      ValueError: chunk longer than K, or no key for stochastic rounding.
      NotImplementedError: differentiated; `dot` and `conv` define a gradient, which is not.
    """
    for x in (lhs, rhs):
        if x.dtype != jnp.float32:
            raise TypeError(f"cannot accumulate {x.dtype} operands: cast them to float32 first")
    (batch, m, k), n = lhs.shape, rhs.shape[2]
    if accum.chunk is not None and accum.chunk > max(k, 1):
        raise ValueError(
            f"chunk {accum.chunk} is longer than the accumulation of length {k}: use a chunk of"
            f" at most {k}, or None"
        )
    if accum.needs_key and key is None:
        raise ValueError("stochastic accumulation needs a key: pass key=jax.random.key(seed)")
    if batch * m * n * k == 0:
        return jnp.zeros((batch, m, n), jnp.float32)
    accum = _without_single_chunks(accum)
    operands = [_differentiable_never(lhs), _differentiable_never(rhs)]
    if accum.needs_key and key is not None:
        if index is None:
            index = lax.iota(jnp.uint32, batch * m * n).reshape(batch, m, n)
        operands += [index, key_words(key)]
    if flipped := n < m:  # the longer side becomes the vector dimension
        operands = [jnp.swapaxes(x, 1, 2) if x.ndim == 3 else x for x in operands]
        operands[:2] = operands[1::-1]
        if accum.operands is not None:
            accum = dataclasses.replace(accum, operands=accum.operands[::-1])
    exact = functools.partial(_by_tiles, accum=accum, exact=True)
    short = functools.partial(_by_tiles, accum=accum, exact=False)
    if accum.rounding in ("nearest", "stochastic"):
        out = lax.cond(
            narrow(*(extents or (extent(lhs), extent(rhs))), k, accum), short, exact, *operands
        )
    else:
        out = exact(*operands)
    return jnp.swapaxes(out, 1, 2) if flipped else out


@jax.custom_jvp
def _differentiable_never(x):
    """`x`, with one clear error in place of what JAX says of loops."""
    return x


@_differentiable_never.defjvp
def _(primals, tangents):
    raise NotImplementedError(
        "sums that are rounded have a gradient but no second derivative: for that, use a config"
        " without accumulators"
    )


def _without_single_chunks(accum: Accumulator) -> Accumulator:
    """Chunks of one product only round it, which one chunk with rounded products does faster.

    The bits are the same: the first addition to -0 rounds the product, and only that.
    """
    plain = accum.rounding == "nearest" and accum.product is None
    if accum.chunk != 1 or not plain or accum.intra not in (None, accum.fmt):
        return accum
    return dataclasses.replace(accum, chunk=None, product=accum.fmt)


def to_float32(x: jax.Array) -> jax.Array:
    """An operand as the rounded sums carry it.

    Raises:
      TypeError: not a real float, so that float32 would not hold its values, nor the
        operand's dtype the sums.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"cannot accumulate {x.dtype} operands: cast them to float32 first")
    return x.astype(jnp.float32)


def rounding_bits(words: jax.Array, level: int, step, output, nbits: int) -> jax.Array:
    """The `nbits` random bits of one stochastic addition, as uint32.

    Up to 16 bits, an even step and the next share one hash and take its low and high half.

    Args:
      words: two uint32 words, from `quantize.bits.key_words`.
      level: 0 for additions inside a chunk, 1 for those between chunks.
      step: int, which addition. Level 0: the position in the chunk, plus the chunk's index
        times the chunk length (rounded up to even). Level 1: the chunk's index.
      output: int, index of the output: row-major in the result of the dot or convolution.
    """
    step, output = jnp.asarray(step, jnp.uint32), jnp.asarray(output, jnp.uint32)
    return _half(mix(output, *_stream(words, level, step, nbits)), step % 2, nbits)


def _stream(words, level: int, step, nbits: int):
    """The hash's two key words for all outputs at `step`, in the shape of `step`."""
    counter = step >> 1 if nbits <= 16 else step
    first = mix(counter, words[0] ^ np.uint32(level), words[1])
    return first, first ^ words[1]


def _half(word, odd, nbits: int):
    if nbits > 16:
        return word >> np.uint32(32 - nbits)
    return (word >> jnp.uint32(16 * odd) & np.uint32(0xFFFF)) >> np.uint32(16 - nbits)


def _by_tiles(lhs, rhs, index=None, words=None, *, accum: Accumulator, exact: bool):
    """Cuts the rows (B, M, K) so that a tile of running sums stays in cache."""
    (batch, m, k), n = lhs.shape, rhs.shape[2]
    rows = max(1, TILE // (batch * n)) if batch == 1 else m
    tiles = -(-m // rows)
    rows = -(-m // tiles)
    plan = plan_loops(batch * rows * n, k, accum.chunk, exact, accum.fused)
    right = to_blocks(jnp.swapaxes(rhs, 1, 2), plan, filler=1.0)
    tile = functools.partial(_tile, right=right, words=words, plan=plan, accum=accum, exact=exact)
    if tiles == 1:
        return tile((lhs, index))
    cut = functools.partial(cut_rows, tiles=tiles, rows=rows)
    out = lax.map(tile, (cut(lhs), None if index is None else cut(index)))
    return jnp.moveaxis(out, 0, 1).reshape(batch, tiles * rows, n)[:, :m]


def _tile(operands, right, words, *, plan: Plan, accum: Accumulator, exact: bool):
    """The running sums of one tile: (B, rows, N)."""
    lhs, index = operands
    k = lhs.shape[-1]
    left = to_blocks(lhs, plan, filler=-0.0)
    total = jnp.full((*lhs.shape[:2], right.shape[-1]), -0.0, jnp.float32)
    inner = _Level(0, formats.get_float(accum.intra or accum.fmt), accum, exact, words, index)
    outer = _Level(1, formats.get_float(accum.fmt), accum, exact, words, index)
    inner_streams = inner.streams(steps(plan))
    outer_streams = outer.streams(jnp.arange(plan.groups * plan.side).reshape(-1, plan.chain))

    def group(g, total):
        count: int | jax.Array = plan.blocks
        if plan.side == 1:  # a short last chunk needs fewer blocks
            count = jnp.minimum(plan.blocks, -(-(k - g * plan.chunk) // plan.unroll))
        sums = fold(
            inner.add_products,
            jnp.full((plan.side, *total.shape), -0.0, jnp.float32),
            (left, right, inner_streams), g * plan.blocks, count, plan.parallel,
        )  # fmt: skip
        links = plan.side // plan.chain
        streams = jax.tree.map(
            lambda x: lax.dynamic_slice_in_dim(x, g * links, links), outer_streams
        )
        sums = sums.reshape(links, plan.chain, *total.shape)
        return fold(outer.add_sums, total, (sums, streams), 0, links, plan.parallel)

    return lax.fori_loop(0, plan.groups, group, total)


@dataclasses.dataclass(frozen=True)
class _Level:
    """The additions of one level: 0 inside chunks, 1 between them."""

    level: int
    fmt: formats.Float
    accum: Accumulator
    exact: bool
    words: jax.Array | None
    index: jax.Array | None

    def streams(self, steps: jax.Array):
        """Key words of the random bits for all steps, or None where none are drawn."""
        if not self.accum.needs_key:
            return None
        steps = steps.astype(jnp.uint32)
        return *_stream(self.words, self.level, steps, 23 - self.fmt.man), steps % 2

    def add_products(self, total, block):
        """Adds unroll products to (side, B, M, N) sums."""
        left, right, streams = block
        if self.accum.fused is not None:
            return fused.dot_add(total, left, right, self.fmt, self.accum.operands)
        multiply = product if self.exact else jnp.multiply
        for u in range(left.shape[0]):
            p = multiply(left[u][..., :, None], right[u][..., None, :])
            if self.exact and self.accum.product is not None:
                p = cast(p, formats.get_float(self.accum.product))
            total = self._add(total, p, self._bits(streams, u))
        return total

    def add_sums(self, total, block):
        """Adds chain chunk sums to (B, M, N) sums."""
        sums, streams = block
        for c in range(sums.shape[0]):
            total = self._add(total, sums[c], self._bits(streams, c))
        return total

    def _add(self, total, addend, bits):
        add = adder.add if self.exact else adder.add_narrow
        return add(total, addend, self.fmt, self.accum.rounding, bits)

    def _bits(self, streams, u: int):
        """Bits of the u-th addition of a block; blocks of even length start at even steps."""
        if streams is None or self.index is None:
            return None
        nbits = 23 - self.fmt.man
        paired = nbits <= 16 and len(streams[0]) % 2 == 0
        first, second, odd = (x[u - u % 2 if paired else u] for x in streams)
        index = self.index
        spread = lambda x: x[(...,) + (None,) * index.ndim]  # noqa: E731
        word = mix(index, spread(first), spread(second))
        return _half(word, u % 2 if paired else spread(odd), nbits)
