"""How the sum over K is cut into loops, and the loop itself.

The loop over K is sequential by definition, so each step does one or a few rank-1 updates
of a tile of running sums. Chunks do not depend on each other until their sums are added:
where the output alone is too small to fill the machine, several run side by side.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

TILE = 1 << 18  # running sums per pass: 1 MiB, what two cores' level-2 caches hold
_SIDE = 1 << 16  # outputs below which several chunks run side by side
_PARALLEL = 1 << 14  # running sums per pass below which threads cost more than they save


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """K = chunks * chunk; a chunk is padded to blocks * unroll additions; `side` chunks run
    side by side, in `groups` passes; `chain` chunk sums are added per step of the last loop.
    """

    chunk: int
    chunks: int
    unroll: int
    blocks: int
    side: int
    groups: int
    chain: int
    parallel: bool  # whether one pass is worth several threads


def plan_loops(
    outputs: int, k: int, chunk: int | None, exact: bool, fused: int | None = None
) -> Plan:
    """Cuts the sums of `outputs` outputs over `k` products, `fused` of them per addition."""
    chunk = chunk or k
    chunks = -(-k // chunk)
    side = min(chunks, max(1, _SIDE // outputs))
    groups = -(-chunks // side)
    side = -(-chunks // groups)
    unroll = min(chunk + chunk % 2, _unroll(side * outputs, exact)) if chunk > 1 else 1
    unroll = unroll if fused is None else min(fused, chunk)
    chain = _unroll(outputs, exact) if side > 1 else 1
    side = -(-side // chain) * chain
    return Plan(
        chunk=chunk,
        chunks=chunks,
        unroll=unroll,
        blocks=-(-chunk // unroll),
        side=side,
        groups=groups,
        chain=chain,
        parallel=side * outputs >= _PARALLEL,
    )


def _unroll(sums: int, exact: bool) -> int:
    """Additions per pass: few, so that the processor overlaps many short dependency chains,
    but more where a pass is too short to pay for its launch.
    """
    unroll = 2 if sums >= 1 << 17 else 4 if sums >= 1 << 15 else 16
    return max(1, unroll // 4) if exact else unroll


def cut_rows(x, tiles: int, rows: int):
    """(B, M, X) to (tiles, B, rows, X), the last tile filled with zeros."""
    x = jnp.pad(x, ((0, 0), (0, tiles * rows - x.shape[1]), (0, 0)))
    return jnp.moveaxis(x.reshape(x.shape[0], tiles, rows, x.shape[2]), 1, 0)


def to_blocks(x, plan: Plan, filler: float):
    """(B, R, K) to (groups * blocks, unroll, side, B, R): one leading entry per loop step.

    Filling products are -0 * 1 = -0, which changes no sum, not even one that is -0.
    """
    x = jnp.moveaxis(x, 2, 0)
    pad = functools.partial(_pad_axis, filler=filler)
    x = pad(x, 0, plan.chunks * plan.chunk).reshape(plan.chunks, plan.chunk, *x.shape[1:])
    x = pad(pad(x, 1, plan.blocks * plan.unroll), 0, plan.groups * plan.side)
    x = x.reshape(plan.groups, plan.side, plan.blocks, plan.unroll, *x.shape[2:])
    x = jnp.transpose(x, (0, 2, 3, 1, 4, 5))
    return x.reshape(plan.groups * plan.blocks, *x.shape[2:])


def _pad_axis(x, axis: int, size: int, filler: float):
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, size - x.shape[axis])
    return jnp.pad(x, widths, constant_values=filler)


def steps(plan: Plan) -> jax.Array:
    """Steps (see `rounding_bits`) of all blocks: (groups * blocks, unroll, side)."""
    stride = plan.chunk + plan.chunk % 2
    chunk = jnp.arange(plan.groups * plan.side).reshape(plan.groups, 1, 1, plan.side)
    position = jnp.arange(plan.blocks * plan.unroll).reshape(1, plan.blocks, plan.unroll, 1)
    return (chunk * stride + position).reshape(-1, plan.unroll, plan.side)


def fold(step: Callable, total, blocks, start, count, parallel: bool):
    """`total = step(total, block)` for `count` blocks from `start`.

    The next block is carried, not sliced where it is used: XLA's CPU compiler fuses a
    dynamic slice into its consumer and then cannot vectorize it, 10 times slower.
    """

    def body(carry):
        i, total, block = carry
        total = step(total, block)
        i = _next(i) if parallel else i + 1
        return i, total, _take(blocks, start + i)

    first = _take(blocks, jnp.asarray(start, jnp.int32))
    return lax.while_loop(lambda c: c[0] < count, body, (jnp.int32(0), total, first))[1]


def _take(blocks, i):
    return jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, i, 0, keepdims=False), blocks)


def _next(i: jax.Array) -> jax.Array:
    """I + 1, by way of a sort on CPU: since jaxlib 0.11 a loop without such an instruction
    is compiled for one thread only (XLA's small-while-loop-hoisting pass).
    """
    through_sort = lambda i: lax.sort(jnp.stack([i + 1, jnp.int32(2**31 - 1)]))[0]  # noqa: E731
    return lax.platform_dependent(i, cpu=through_sort, default=lambda i: i + 1)
