"""Exact numbers of non-zeros in the operands of a GEMM and among the products it adds.

The products need no GEMM of masks: sum_ijk [a_ik != 0] [b_kj != 0] is
sum_k (non-zeros in column k of a) (non-zeros in row k of b), and for a convolution the same
by channel, kernel position and output position.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Counts = tuple[int, int, int]  # non-zeros of lhs, of rhs, and among their products


def dot_counts(params, lhs: jax.Array, rhs: jax.Array) -> Counts:
    """Of lax.dot_general with these parameters."""
    (lhs_contract, rhs_contract), (lhs_batch, rhs_batch) = params["dimension_numbers"]
    a = _integers(_nonzeros(lhs, (*lhs_batch, *lhs_contract)))
    b = _integers(_nonzeros(rhs, (*rhs_batch, *rhs_contract)))
    return int(a.sum()), int(b.sum()), int((a * b).sum())


def conv_counts(params, lhs: jax.Array, rhs: jax.Array, out_shape: Sequence[int]) -> Counts:
    """Of lax.conv_general_dilated with these parameters; padding and holes are zeros."""
    numbers = params["dimension_numbers"]
    features, batches = params["feature_group_count"], params["batch_group_count"]
    lhs = jnp.transpose(lhs, numbers.lhs_spec)  # image, channel, positions
    rhs = jnp.transpose(rhs, numbers.rhs_spec)  # output channel, channel of a group, positions
    if batches > 1:  # each group its own images, and all channels
        a = _nonzeros(lhs.reshape(batches, -1, *lhs.shape[1:]), (0, *range(2, lhs.ndim + 1)))
    else:
        a = _nonzeros(lhs.reshape(lhs.shape[0], features, -1, *lhs.shape[2:]),
                      range(1, lhs.ndim + 1))  # fmt: skip
    groups = features * batches
    b = _nonzeros(rhs.reshape(groups, -1, *rhs.shape[1:]), (0, *range(2, rhs.ndim + 1)))
    pad = [(lo, hi, d - 1) for (lo, hi), d in
           zip(params["padding"], params["lhs_dilation"], strict=True)]  # fmt: skip
    padded = lax.pad(a, np.int32(0), [(0, 0, 0), (0, 0, 0), *pad])
    outputs = tuple(out_shape[d] for d in numbers.out_spec[2:])
    strides, holes = params["window_strides"], params["rhs_dilation"]
    products = _slide(_integers(padded), _integers(b), outputs, strides, holes)
    return int(_integers(a).sum()), int(_integers(b).sum()), products


@functools.partial(jax.jit, static_argnums=1)
def _sum_mask(x, axes):
    return jnp.sum(x != 0, axis=axes, dtype=jnp.int32)


def _nonzeros(x: jax.Array, kept: Sequence[int]) -> jax.Array:
    """Number of non-zeros by the `kept` axes, in that order."""
    counts = _sum_mask(x, tuple(d for d in range(x.ndim) if d not in kept))
    return jnp.transpose(counts, [sorted(kept).index(d) for d in kept])


def _integers(x: jax.Array) -> np.ndarray:
    return np.asarray(x, np.int64)


def _slide(
    a: np.ndarray,
    b: np.ndarray,
    outputs: tuple[int, ...],
    strides: Sequence[int],
    holes: Sequence[int],
) -> int:
    """Sum over outputs o and kernel positions p of a[.., o strides + p holes] b[.., p]."""
    a, b = (np.moveaxis(x, (0, 1), (-2, -1)) for x in (a, b))  # positions first
    kernel = b.shape[:-2]

    def window(start, start_steps, sizes, steps) -> np.ndarray:
        begin = [i * s for i, s in zip(start, start_steps, strict=True)]
        return a[tuple(
            slice(i, i + (size - 1) * step + 1, step)
            for i, size, step in zip(begin, sizes, steps, strict=True)
        )]  # fmt: skip

    total = 0
    # The kernel of a weight gradient is as large as an image: then the outputs are fewer.
    if math.prod(outputs) < math.prod(kernel):
        for o in itertools.product(*map(range, outputs)):
            total += int((window(o, strides, kernel, holes) * b).sum())
    else:
        axes = tuple(range(len(kernel)))
        for p in itertools.product(*map(range, kernel)):
            total += int((window(p, holes, outputs, strides).sum(axes) * b[p]).sum())
    return total
