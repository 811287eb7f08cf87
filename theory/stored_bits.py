"""Bits that weights of k binary codes take, with and without pruning [lee2018iterative].

Derived, not read: the storage format of the paper is not known.
"""

from __future__ import annotations

import math
from typing import Literal

WIDE = 32  # bits of a scale, and of a weight that is not quantized
Index = Literal["mask", "entropy"]


def entropy(p: float) -> float:
    """Bits that a choice of probability p takes, H(p) = -p log2 p - (1 - p) log2 (1 - p)."""
    if not 0 <= p <= 1:
        raise ValueError(f"a probability is from 0 to 1, not {p}")
    return -sum(x * math.log2(x) for x in (p, 1 - p) if x > 0)


def bits_per_weight(
    bits: float, *, pruned: float = 0.0, index: Index = "mask", group: float | None = None
) -> float:
    """Bits for each place of a weight array, pruned ones included.

    Codes for the weights that survive, bits (1 - pruned); where weights are pruned, which they are:
    one bit a place ("mask"), or H(pruned), which no code of independent places goes below
    ("entropy"); for each `group` of places, `bits` scales of 32 bits (None: no scale counts).
    """
    if bits < 0:
        raise ValueError(f"bits must be at least 0, not {bits}")
    if index not in ("mask", "entropy"):
        raise ValueError(f"unknown index {index!r}: mask or entropy")
    if group is not None and group <= 0:
        raise ValueError(f"a group has more than 0 places, not {group}")
    which = entropy(pruned)  # checks the share
    if pruned and index == "mask":
        which = 1.0
    scales = 0.0 if group is None else bits * WIDE / group
    return bits * (1 - pruned) + which + scales


def compression(bits: float, group: float) -> float:
    """How many times less than 32-bit weights: 32 m / (k m + 32 k), groups of m weights."""
    return WIDE / bits_per_weight(bits, group=group)
