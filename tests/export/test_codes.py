"""Packed codes: every array comes back bit for bit, in no more bytes than its form allows."""

import re

import hypothesis as hp
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest
import strategies

from qtrain.export.codes import decode, encode, pack, packed_size, plain, unpack
from qtrain.optim import LossAware
from qtrain.quantize import Affine, Cast, Scale

SHAPE = (3, 30, 5)
SEEDS = st.integers(0, 2**32 - 1)


def any_numbers(rng, count: int) -> np.ndarray:
    """Distinct float32 bit patterns, both zeros, infinities and subnormals often among them."""
    drawn = rng.integers(0, 2**32, 2 * count, dtype=np.uint32).view(np.float32)
    special = strategies.SPECIAL[~np.isnan(strategies.SPECIAL)]
    pool = np.concatenate([special, drawn[~np.isnan(drawn)]]).view(np.uint32)
    return rng.choice(np.unique(pool), count, replace=False).view(np.float32)


def back(x: np.ndarray):
    """How `x` is coded, after the proof that it comes back."""
    coded = encode(x)
    got = decode(coded)
    assert (got.shape, got.dtype) == (x.shape, x.dtype)
    np.testing.assert_array_equal(got.view(np.uint32), x.view(np.uint32))
    assert coded.nbytes <= x.nbytes
    return coded


@hp.given(seed=SEEDS, count=st.integers(1, 60), channels=st.booleans())
def test_any_levels_come_back(seed, count, channels):
    """For the whole array or for each channel.

    Kills: export/codes.py: `codes = np.where(negative, count, grid.codes)` -> `codes =
    grid.codes`; `-(bits & 0x7FFFFFFF) - 1` -> `-(bits & 0x7FFFFFFF)`; `np.stack(chosen, axis=1)`
    -> `np.stack(chosen)`. export/grid.py: `same.all(axis=1)` -> `same.any(axis=1)`.
    """
    rng = np.random.default_rng(seed)
    x = np.empty(SHAPE, np.float32)
    for c in range(SHAPE[-1]):
        if c == 0 or channels:
            levels = any_numbers(rng, count)
        x[..., c] = rng.choice(levels, SHAPE[:-1])
    back(x)


@hp.given(
    seed=SEEDS, exponent=st.integers(-140, 120), reach=st.integers(1, 127),
    channels=st.booleans(), zero=st.booleans(),
)  # fmt: skip
def test_multiples_of_a_scale_cost_one_number(seed, exponent, reach, channels, zero):
    """Codes and a scale for each channel at most, or a table where that is smaller; with -0 as
    one code more. 2^-140 is subnormal.

    Kills: export/grid.py: `np.arange(-nearby` -> `np.arange(0`; `2.0**-21` -> `2.0**-26`;
    export/codes.py: `codes.max() < MOST` -> `codes.max() < MOST // 4`.
    """
    rng = np.random.default_rng(seed)
    groups = SHAPE[-1] if channels else 1
    scale = (rng.uniform(1, 2, groups) * 2.0**exponent).astype(np.float32)
    j = rng.integers(-reach, reach + 1, SHAPE).astype(np.float32)
    x = scale * j
    x = np.where((j == 0) & zero, np.float32(-0.0), x)
    bits = int(2 * reach + zero).bit_length()
    assert back(x).nbytes <= packed_size(x.size, bits) + 4 * groups


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("over", ["tensor", "channel"])
def test_affine_levels_cost_two_numbers(bits, over):
    """What `Affine` makes of normal weights, in its bits.

    Kills: export/grid.py: `True: 16` -> `True: 0`; export/codes.py: `form == "affine"` -> `False`.
    """
    w = np.random.default_rng(bits).normal(size=(200, 4)).astype(np.float32)
    w[:, 1] += 2
    x = np.asarray(Affine(bits=bits, range=over)(jnp.asarray(w)))
    groups = 4 if over == "channel" else 1
    coded = back(x)
    assert coded.bits <= bits
    assert coded.nbytes <= packed_size(x.size, bits) + 8 * groups


@pytest.mark.parametrize(
    ("quantizer", "bits"),
    [
        (Cast("ternary", scale=Scale()), 2),
        (Cast("int8", scale=Scale()), 8),
        (Cast("int4", scale=Scale(axis=-1)), 4),
        (Cast("e5m2"), 7),  # of its 8 bits: no weight is near its largest values
        (LossAware(bits=1), 1),
        (LossAware(bits=2), 2),
        (LossAware(bits=4), 4),
    ],
    ids=str,
)
def test_quantized_weights_take_their_bits(quantizer, bits):
    x = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    coded = back(np.asarray(quantizer(jnp.asarray(x))))
    assert coded.bits <= bits
    assert coded.nbytes <= packed_size(x.size, bits) + 4 * 2**bits


@pytest.mark.parametrize("bits", range(1, 9))
def test_size_of_a_table(bits):
    """ceil(n bits / 8) bytes of codes and 4 bytes a level; one level more takes one bit more, and
    257 levels none.

    Kills: export/codes.py: `int(self.codes.max()).bit_length()` -> the same plus 1; `MOST = 2**8`
    -> `2**7`; `-(-size * bits // 8)` -> `size * bits // 8`.
    """
    rng = np.random.default_rng(bits)
    for count in (2**bits, 2**bits + 1):
        levels = np.unique(rng.normal(size=count).astype(np.float32))
        x = rng.permutation(np.resize(levels, 2003))
        coded = back(x)
        if count > 256:
            assert (coded.form, coded.nbytes) == ("plain", 4 * 2003)
        else:
            width = bits + (count > 2**bits)
            assert (coded.form, coded.bits, coded.groups) == ("table", width, 1)
            assert coded.nbytes == -(-2003 * width // 8) + 4 * count


@hp.given(data=st.data(), bits=st.integers(1, 8))
def test_packing_is_one_long_number(data, bits):
    """In base 2^bits, the first code being the last digit, as bytes.

    Kills: export/codes.py: `bitorder="little"` -> `"big"`; `each[:, :bits]` -> `each`.
    """
    codes = data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=37, max_size=37))
    number = sum(code << (i * bits) for i, code in enumerate(codes))
    packed = pack(np.array(codes), bits)
    assert packed.tobytes() == number.to_bytes(packed_size(37, bits), "little")
    np.testing.assert_array_equal(unpack(packed, bits, 37), codes)


@pytest.mark.parametrize(
    "x",
    [np.zeros((0, 3)), np.float32(2.5), np.zeros((4, 3)), np.full((40, 3), -0.0), np.ones(1),
     np.array([np.inf, -np.inf] * 9), np.array([1e-45, -1e-45, 0, -0.0] * 20)],
    ids=["empty", "scalar", "zeros", "minus zeros", "one", "infinities", "subnormals"],
)  # fmt: skip
def test_corners(x):
    back(np.asarray(x, np.float32))


@pytest.mark.parametrize("code", [plain, encode])
def test_nan_is_refused(code):
    """Kills: export/codes.py: `np.isnan(x).any()` -> `np.isinf(x).any()`."""
    with pytest.raises(ValueError, match="1 of 3 values are NaN"):
        code(np.array([1, np.nan, 2], np.float32))


def test_other_types():
    with pytest.raises(ValueError, match="only float32 arrays can be coded, not int32"):
        encode(np.zeros(3, np.int32))
    x = np.arange(6, dtype=np.int32).reshape(2, 3)
    assert decode(plain(x)) is x


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("codes", lambda x: x[:-1], "codes: uint8 (12,) where (13,) is needed"),
        ("levels", lambda x: x[:, :2], "code 2 of a table of 2 levels"),
        ("levels", lambda x: x.astype(np.float64), "levels: float64"),
    ],
)
def test_wrong_parts_are_named(part, change, message):
    coded = encode(np.resize(np.array([1, 2, 9.5], np.float32), 50))
    assert coded.form == "table"
    coded.arrays[part] = change(coded.arrays[part])
    with pytest.raises(ValueError, match=re.escape(message)):
        decode(coded)
