"""Non-zero ratios of every GEMM's operands and products, counted on real arguments."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import jax
import numpy as np

from qtrain.workload.counts import conv_counts, dot_counts
from qtrain.workload.gemm import NonZero, shape_of
from qtrain.workload.interpret import evaluate
from qtrain.workload.listing import Workload
from qtrain.workload.trace import Options, stage, workload


def measure_sparsity(
    fn: Callable,
    *args,
    grad: bool = False,
    argnums: int | Sequence[int] = 0,
    params: int | Sequence[int] | None = None,
    has_aux: bool = False,
    **kwargs,
) -> Workload:
    """`trace`, and every GEMM's `nonzero` counted while the function runs once.

    The average over outputs and, in a loop, over iterations. Runs operation by operation;
    what holds no GEMM runs compiled. A GEMM that was not reached (the branch not taken) or
    that lies below shard_map keeps None.

    Args: those of `trace`, with real arrays.

    Raises:
      ValueError: as `trace`, or an argument is abstract.
    """
    staged = stage(fn, args, kwargs, Options(grad, argnums, params, has_aux))
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in staged.leaves):
        raise ValueError(
            f"cannot measure {staged.name}: an argument is a ShapeDtypeStruct; pass real arrays"
        )
    listed = workload(staged)
    counts: dict[tuple[int, ...], list[tuple[float, float, float]]] = {
        g.address: [] for g in listed
    }

    def note(address, eqn, lhs, rhs):
        if address in counts:
            counts[address].append(_ratios(eqn, lhs, rhs))

    evaluate(staged.jaxpr, staged.consts, staged.leaves, set(counts), note)
    return dataclasses.replace(listed, gemms=tuple(
        dataclasses.replace(g, nonzero=NonZero(*map(float, np.mean(counts[g.address], axis=0))))
        if counts[g.address] else g
        for g in listed
    ))  # fmt: skip


def _ratios(eqn, lhs, rhs) -> tuple[float, float, float]:
    """Non-zero ratios of lhs, rhs and of the products."""
    if eqn.primitive.name == "dot_general":
        counts = dot_counts(eqn.params, lhs, rhs)
    else:
        counts = conv_counts(eqn.params, lhs, rhs, eqn.outvars[0].aval.shape)
    shape = shape_of(eqn)
    products = math.prod(shape.get(d, 1) for d in ("m", "n", "k", "batch", "groups"))
    totals = (lhs.size, rhs.size, products)
    a, b, c = (count / max(total, 1) for count, total in zip(counts, totals, strict=True))
    return a, b, c
