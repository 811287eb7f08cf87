"""Stored bits against their closed forms, and against a count of an actual array."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from theory import stored_bits


@pytest.mark.parametrize(("k", "m"), list(itertools.product((1, 2, 3, 4), (1, 9, 64, 784))))
def test_compression(k, m):
    """32 m / (k m + 32 k) [derived].

    Kills: theory/stored_bits.py: `bits * WIDE / group` -> `WIDE / group`.
    """
    want = Fraction(32 * m, k * m + 32 * k)
    assert stored_bits.compression(k, m) == pytest.approx(float(want), rel=1e-15)


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("pruned", [0.25, 0.5, 0.9])
def test_pruned_weights(k, pruned):
    """1 + k (1 - s) with a mask, k (1 - s) + H(s) with the best index [derived]; never more.

    Kills: theory/stored_bits.py: `bits * (1 - pruned)` -> `bits * pruned`; `which = 1.0` -> `0.0`.
    """
    mask = stored_bits.bits_per_weight(k, pruned=pruned)
    best = stored_bits.bits_per_weight(k, pruned=pruned, index="entropy")
    assert mask == pytest.approx(1 + k * (1 - pruned))
    s = pruned
    entropy = -s * math.log2(s) - (1 - s) * math.log2(1 - s)
    assert best == pytest.approx(k * (1 - s) + entropy)
    assert best <= mask


def test_nothing_pruned_needs_no_mask():
    for index in ("mask", "entropy"):
        assert stored_bits.bits_per_weight(3, index=index) == 3


def test_one_bit_pruned_breaks_even():
    """With a mask, pruned one-bit weights always take more than dense ones; with the best index,
    from more than 77 % on less: H(s) = s at s = 0.7729 [computed].
    """
    assert stored_bits.bits_per_weight(1, pruned=0.99) > 1
    assert stored_bits.bits_per_weight(1, pruned=0.77, index="entropy") > 1
    assert stored_bits.bits_per_weight(1, pruned=0.775, index="entropy") < 1


def test_a_counted_array():
    """Bits of an array as it would be written: a mask, the survivors' codes, the scales."""
    rng = np.random.default_rng(0)
    shape, k = (64, 8), 2
    mask = rng.permuted(np.arange(64 * 8) < 128).reshape(shape)
    written = mask.size + k * mask.sum() + k * 32 * shape[1]
    found = stored_bits.bits_per_weight(k, pruned=0.75, group=64)
    assert found * mask.size == pytest.approx(written)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stored_bits.entropy(1.5), "a probability is from 0 to 1, not 1.5"),
        (lambda: stored_bits.bits_per_weight(-1), "bits must be at least 0, not -1"),
        (lambda: stored_bits.bits_per_weight(1, index="huffman"), "unknown index 'huffman'"),
        (lambda: stored_bits.bits_per_weight(1, group=0), "a group has more than 0 places, not 0"),
    ],
)
def test_mistakes(call, message):
    with pytest.raises(ValueError, match=message):
        call()
