"""The random bits of stochastic additions, as a source of random numbers: as in test_bits.py.

Each test allows a false alarm with probability 1e-9: |z| of m nearly normal statistics stays
below the normal quantile of 1 - 1e-9 / 2m.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from qtrain.ops.accumulate import rounding_bits
from qtrain.quantize.bits import key_words

N = 1 << 16
WIDTH = 14  # of (1,6,9); two steps share a word
PLACES = [(0, 0), (0, 1), (0, 2), (0, 64), (1, 0), (1, 1), (1, 2)]  # level, step


def drawn(seed: int, level: int, step, output, width: int = WIDTH) -> np.ndarray:
    words = key_words(jax.random.key(seed))
    return np.asarray(rounding_bits(words, level, jnp.asarray(step), jnp.asarray(output), width))


def signs(w: np.ndarray, width: int = WIDTH) -> np.ndarray:
    """(n, width) of -1 and 1."""
    return 2.0 * ((w[:, None] >> np.arange(width, dtype=np.uint32)) & 1) - 1


def assert_small(z) -> None:
    assert np.abs(z).max() < stats.norm.isf(1e-9 / (2 * np.size(z)))


@pytest.mark.parametrize("seed", [0, 1])
def test_steps_and_levels_are_independent(seed):
    """Over outputs: every bit is fair and no bit of one addition goes with any bit of another.

    Kills: accumulate.py `_stream`: the same words at every step; `_half`: the low half twice.
    """
    b = [signs(drawn(seed, *place, np.arange(N))) for place in PLACES]
    assert_small(np.stack([x.sum(0) for x in b]) / np.sqrt(N))
    assert_small(np.stack([x.T @ y for x, y in itertools.combinations(b, 2)]) / np.sqrt(N))


@pytest.mark.parametrize("output", [0, 77])
def test_steps_of_one_output_are_independent(output):
    """Along K: neighbours, the next of the same half, and what one chunk later is."""
    b = signs(drawn(3, 0, np.arange(N), output))
    assert_small(np.stack([b[:-lag].T @ b[lag:] for lag in (1, 2, 3, 64)]) / np.sqrt(N - 64))


def test_keys_and_outputs_are_independent():
    """Of keys 0 to 3, and of each output with the next. Kills: `_bits`: the index left out."""
    b = [signs(drawn(seed, 0, 0, np.arange(N))) for seed in range(4)]
    assert_small(np.stack([x.T @ y for x, y in itertools.combinations(b, 2)]) / np.sqrt(N))
    assert_small(b[0][:-1].T @ b[0][1:] / np.sqrt(N - 1))


def test_wide_words_are_uniform():
    """All 20 bits of (1,6,3), a word each."""
    x, y = (signs(drawn(5, 0, step, np.arange(N), 20), 20) for step in (0, 1))
    assert_small(x.sum(0) / np.sqrt(N))
    assert_small(x.T @ y / np.sqrt(N))
