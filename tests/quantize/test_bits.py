"""The counter hash, as a source of random numbers: statistics whose thresholds are derived.

Each test allows a false alarm with probability 1e-9 over all its statistics (the keys are fixed,
so in truth it either fails always or never). For m statistics that are nearly normal, the limit
is the normal quantile of 1 - 1e-9 / 2m; counts are above 10^4, so binomials are normal enough.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from qtrain.quantize.bits import fold, mix, random_words

N = 1 << 18


def limit(m: int) -> float:
    """|z| that the largest of m standard normals exceeds with probability 1e-9 at most."""
    return stats.norm.isf(1e-9 / (2 * m))


def words(key=0, n: int = N) -> np.ndarray:
    return np.asarray(random_words(jax.random.key(key), (n,)))


def bits(w: np.ndarray) -> np.ndarray:
    """(n, 32) of -1 and 1."""
    return 2.0 * ((w[:, None] >> np.arange(32, dtype=np.uint32)) & 1) - 1


@pytest.mark.parametrize("key", [0, 1, 2**31])
def test_each_bit_is_fair(key):
    """Kills: bits.py `mix`: an or in place of the last exclusive or."""
    z = bits(words(key)).sum(0) / np.sqrt(N)
    assert np.abs(z).max() < limit(32)


@pytest.mark.parametrize("key", [0, 7])
def test_bytes_are_uniform(key):
    """Chi-square of each of the four bytes, 255 degrees of freedom."""
    for byte in words(key).view(np.uint8).reshape(N, 4).T:
        counts = np.bincount(byte, minlength=256)
        assert stats.chi2.sf(((counts - N / 256) ** 2).sum() / (N / 256), 255) > 1e-9 / 4


def test_bits_of_a_word_are_independent():
    """Correlation of all pairs of bits. Kills: bits.py: one multiply-xorshift round left out."""
    b = bits(words())
    z = (b.T @ b)[np.triu_indices(32, 1)] / np.sqrt(N)
    assert np.abs(z).max() < limit(z.size)


@pytest.mark.parametrize("lag", [1, 2, 3, 8, 64, 128, 1024, 65536])
def test_neighbours_are_independent(lag):
    """Every bit of a word with every bit of the word `lag` later: rows, columns, strides."""
    b = bits(words(3))
    z = b[:-lag].T @ b[lag:] / np.sqrt(N - lag)
    assert np.abs(z).max() < limit(z.size)


def test_runs_of_top_bits():
    """Patterns of 8 successive top bits are uniform (non-overlapping; 255 degrees of freedom)."""
    top = (words(5) >> 31).reshape(-1, 8) @ (1 << np.arange(8))
    counts = np.bincount(top, minlength=256)
    expected = top.size / 256
    assert stats.chi2.sf(((counts - expected) ** 2).sum() / expected, 255) > 1e-9


def test_avalanche():
    """Flipping any bit of the counter or of the first key word flips each output bit half of the
    time. 16,384 counters, 64 input bits, 32 output bits. (The second key word: see below.)

    Kills: bits.py `mix`: the multiplication before `+ k1` left out.
    """
    n = 1 << 14
    counter = np.random.default_rng(0).integers(0, 2**32, n, dtype=np.uint32)
    k0, k1 = np.uint32(123456789), np.uint32(987654321)
    base = np.asarray(mix(jnp.asarray(counter), k0, k1))
    flips = []
    for i in range(32):
        bit = np.uint32(1 << i)
        flips += [mix(jnp.asarray(counter ^ bit), k0, k1), mix(jnp.asarray(counter), k0 ^ bit, k1)]
    z = np.stack([bits(base ^ np.asarray(f)).sum(0) for f in flips]) / np.sqrt(n)
    assert np.abs(z).max() < limit(z.size)


def test_the_second_key_word_reaches_every_bit():
    """Flipping any of its bits flips each output bit, sometimes and not always. Not half of the
    time, since single bits go through one round only (17 to 91 % of 65,536 counters): `key_words`
    gives no two keys words so alike. Another random word does flip each bit half of the time: the
    hash is a bijection of this one.

    Kills: bits.py `mix`: the last multiplication left out; k1 >> 1.
    """
    rng = np.random.default_rng(1)
    counter, k1, other = jnp.asarray(rng.integers(0, 2**32, (3, 1 << 16), dtype=np.uint32))
    k0 = np.uint32(123456789)
    base = np.asarray(mix(counter, k0, k1))
    for i in range(32):
        flipped = bits(base ^ np.asarray(mix(counter, k0, k1 ^ np.uint32(1 << i))))
        assert (flipped.min(0) < flipped.max(0)).all()
    z = bits(base ^ np.asarray(mix(counter, k0, other))).sum(0) / 2**8
    assert np.abs(z).max() < limit(32)


@pytest.mark.parametrize("raw", [False, True])
def test_small_keys_are_independent(raw):
    """Of the keys 0 to 5, as everybody chooses them: no bit of one correlates with any bit of
    another, and the words at index 0 all differ.

    Kills: bits.py `key_words`: the key's own words, (0, 0), (0, 1), ..., seed the hash.
    """
    make = jax.random.PRNGKey if raw else jax.random.key
    streams = [np.asarray(random_words(make(s), (1 << 16,))) for s in range(6)]
    z = [bits(x).T @ bits(y) / 2**8 for x, y in itertools.combinations(streams, 2)]
    assert np.abs(z).max() < limit(np.size(z))
    assert len({0, *(int(x[0]) for x in streams)}) == 7


def test_raw_keys_are_the_typed_ones():
    """And several at once are refused. Kills: bits.py `key_words`: the check of the shape."""
    typed, raw = jax.random.key(5), jax.random.PRNGKey(5)
    np.testing.assert_array_equal(random_words(typed, (9,)), random_words(raw, (9,)))
    for several in (jax.random.split(typed), jax.random.split(raw)):
        with pytest.raises(ValueError, match="one key is needed"):
            random_words(several, (9,))


PLACES = [("step", 0), ("step", 1), ("conv1", "lhs"), ("conv1", "rhs"), ("conv2", "lhs")]


@pytest.mark.parametrize(("a", "b"), list(itertools.combinations(PLACES, 2)))
def test_places_are_independent(a, b):
    """Words of two steps, layers or roles: no bit correlates with any bit at the same index, nor
    at the next, nor are they shifts or permutations (few equal words).

    Kills: bits.py `fold`: the part is ignored.
    """
    key = jax.random.key(0)
    x, y = (np.asarray(random_words(fold(key, *place), (N,))) for place in (a, b))
    for left, right in ((x, y), (x[1:], y[:-1])):
        z = bits(left).T @ bits(right) / np.sqrt(len(left))
        assert np.abs(z).max() < limit(2 * z.size)
    # expected number of common values: N^2 / 2^32 = 16, Poisson
    assert np.intersect1d(x, y).size < stats.poisson.isf(1e-9, 16 * 1.01)


def test_keys_are_no_shifts():
    """Two keys whose first words make the second stream the first one, one step later, but for
    the second word: few equal words, and no bit correlates with any other.

    Kills: bits.py `mix`: `+ k1` left out; `+ k1` after the last multiplication.
    """
    i, k0 = jnp.arange(N, dtype=jnp.uint32), np.uint32(77)
    later = np.asarray(mix(i + 1, k0, np.uint32(0xB5AD4ECE)))
    shifted = np.asarray(mix(i, k0 + np.uint32(0x9E3779B1), np.uint32(0x3C6EF372)))
    assert int((later == shifted).sum()) < stats.poisson.isf(1e-9, N / 2**32) + 1
    z = bits(later).T @ bits(shifted) / np.sqrt(N)
    assert np.abs(z).max() < limit(z.size)


def test_a_word_depends_on_its_index_alone():
    """However the array is cut: what makes sharding and tiling keep the bits."""
    whole = random_words(jax.random.key(0), (6, 7)).ravel()
    np.testing.assert_array_equal(whole[:21], random_words(jax.random.key(0), (3, 7)).ravel())
    assert len(np.unique(words(0, 1 << 16))) > (1 << 16) - 10  # Poisson of mean 1/2


def test_too_many_elements_are_refused():
    with pytest.raises(ValueError, match="32-bit counter"):
        jax.eval_shape(lambda k: random_words(k, (1 << 16, 1 << 16)), jax.random.key(0))
