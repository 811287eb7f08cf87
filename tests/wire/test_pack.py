"""Codes in words and back, at every width."""

import hypothesis as hp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtrain.wire import pack, unpack

WIDTHS = range(1, 33)
LENGTHS = (1, 7, 31, 32, 33, 65)  # below, at and above whole words at several widths
PACK = jax.jit(pack, static_argnums=1)
UNPACK = jax.jit(unpack, static_argnums=(1, 2))


def reference(codes, bits: int) -> list[int]:
    """Words by shifting Python integers."""
    each = 32 // bits
    rows = [codes[i : i + each] for i in range(0, len(codes), each)]
    return [sum(int(code) << (bits * i) for i, code in enumerate(row)) for row in rows]


@hp.given(bits=st.sampled_from(WIDTHS), length=st.sampled_from(LENGTHS), seed=st.integers(0, 99))
def test_round_trip(bits, length, seed):
    """The words of a scalar reference, and the codes again, the largest code included.

    Kills: wire/pack.py: `2**bits - 1` -> `2**(bits - 1) - 1`; `words * each - flat.size` padded in
    front; `np.uint32(bits)` -> `np.uint32(bits - 1)`.
    """
    codes = np.random.default_rng(seed).integers(0, 2**bits, length, dtype=np.uint32)
    codes[-1] = 2**bits - 1
    words = PACK(jnp.asarray(codes), bits)
    assert words.dtype == jnp.uint32
    assert [int(word) for word in words] == reference(codes, bits)
    np.testing.assert_array_equal(UNPACK(words, bits, codes.shape), codes)


@pytest.mark.parametrize("bits", range(1, 17))
def test_bits_of_a_code(bits):
    """32 / floor(32 / bits), exactly, where words are full: 2 for 2, 3.2 for 3, 4 for 4."""
    each = 32 // bits
    assert pack(jnp.zeros(10 * each), bits).size == 10
    assert pack(jnp.zeros(10 * each + 1), bits).size == 11
    assert {2: 16, 3: 10, 4: 8, 16: 2}.get(bits, each) == each


def test_any_shape():
    codes = jnp.arange(30).reshape(2, 3, 5) % 8
    np.testing.assert_array_equal(unpack(pack(codes, 3), 3, (2, 3, 5)), codes)
    np.testing.assert_array_equal(pack(codes, 3), pack(codes.reshape(-1), 3))
    assert unpack(pack(jnp.uint32(5), 3), 3, ()) == 5
    assert unpack(pack(jnp.zeros((0, 4)), 3), 3, (0, 4)).shape == (0, 4)


@pytest.mark.parametrize("bits", [0, 33])
def test_width_out_of_range(bits):
    for call in (lambda: pack(jnp.zeros(3), bits), lambda: unpack(jnp.zeros(3), bits, (3,))):
        with pytest.raises(ValueError, match=f"codes must have 1 to 32 bits, not {bits}"):
            call()


def test_words_that_do_not_fit_the_shape():
    with pytest.raises(ValueError, match=r"11 codes of 3 bits take 2 words, not \(1,\)"):
        unpack(jnp.zeros(1, jnp.uint32), 3, (11,))
