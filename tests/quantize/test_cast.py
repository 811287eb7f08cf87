"""`cast`, bit for bit, against ml_dtypes, gfloat and rational arithmetic."""

import functools
import math

import gfloat
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import oracles
import pytest
from exact import round_exactly
from gfloat import Domain, FormatInfo, RoundMode
from strategies import TOPS, all_floats, assert_same, hard_inputs, possible

from qtrain import formats
from qtrain.quantize import cast
from qtrain.quantize.cast import ROUNDINGS, cast_with_bits

SIZE = 8192  # of every input, so that XLA compiles each format and mode once
ML_DTYPES = [
    "float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz", "float8_e4m3fn", "float8_e4m3fnuz",
    "float8_e5m2", "float8_e5m2fnuz", "float6_e2m3fn", "float6_e3m2fn", "float4_e2m1fn",
    "bfloat16", "float16",
]  # fmt: skip
NINE_BITS = all_floats(9)
FULL = 4096  # holds every value of 9 bits, the midpoints and what is beside them
GFLOAT = {
    "nearest": RoundMode.TiesToEven,
    "nearest_away": RoundMode.TiesToAway,
    "toward_zero": RoundMode.TowardZero,
    "A": RoundMode.StochasticFastest,
    "B": RoundMode.StochasticFast,
    "C": RoundMode.Stochastic,
}


@functools.cache
def jitted(fmt, rounding: str):
    return jax.jit(lambda x: cast(x, fmt, rounding=rounding))


@functools.cache
def with_bits(fmt, nbits: int, variant: str):
    return jax.jit(lambda x, r: cast_with_bits(x, fmt, "stochastic", r, nbits, variant))


@pytest.mark.parametrize("name", ML_DTYPES)
def test_equals_ml_dtypes(name):
    """All values (of the 16-bit formats: 60,000 points), midpoints, neighbours, noise.

    ml_dtypes saturates in its all-finite formats, as ours do, but makes NaN a number there.
    Kills: cast.py `_nearest`: 23 - man -> 22 - man.
    """
    fmt = formats.get(name)
    x = np.concatenate([hard_inputs(fmt, SIZE, seed) for seed in range(8)])
    if fmt.top == "finite":
        x = np.where(np.isnan(x), np.float32(0), x)
    with np.errstate(all="ignore"):
        want = x.astype(getattr(ml_dtypes, name, np.float16)).astype(np.float32)
    assert_same(jitted(fmt, "nearest")(x), want, x)


def test_every_16_bit_pattern_and_its_neighbours():
    """bfloat16 and float16: each finite value and each midpoint, exhaustively."""
    for dtype, name in ((ml_dtypes.bfloat16, "bfloat16"), (np.float16, "float16")):
        values = np.unique(np.arange(65536, dtype=np.uint16).view(dtype).astype(np.float64))
        values = values[np.isfinite(values)]
        x = np.concatenate([values, (values[1:] + values[:-1]) / 2]).astype(np.float32)
        x = np.concatenate(
            [x, np.nextafter(x, np.float32(np.inf)), np.nextafter(x, -np.float32(np.inf))]
        )
        with np.errstate(all="ignore"):
            want = x.astype(dtype).astype(np.float32)
        assert_same(jitted(formats.get(name), "nearest")(x), want, x)


def information(fmt) -> FormatInfo:
    """The same format for gfloat."""
    return FormatInfo(
        fmt.name, fmt.bits, fmt.precision, bias=fmt.bias_value, is_signed=True,
        is_twos_complement=False, has_nz=fmt.top != "fnuz", has_subnormals=True,
        domain=Domain.Extended if fmt.top == "ieee" else Domain.Finite,
        num_high_nans={"ieee": 2**fmt.man - 1, "fn": 1, "fnuz": 0, "finite": 0}[fmt.top],
    )  # fmt: skip


def compare_with_gfloat(fmt, modes, size: int, seed: int = 0) -> None:
    """Every mode on one set of inputs; stochastic modes with given bits of two widths."""
    x = hard_inputs(fmt, size, seed)
    if fmt.top == "finite":  # gfloat has no NaN to give
        x = np.where(np.isfinite(x), x, np.float32(0))
    wide, info = x.astype(np.float64), information(fmt)
    saturate = fmt.top == "finite"
    for mode in modes:
        with np.errstate(all="ignore"):
            if mode not in "ABC":
                want = gfloat.round_ndarray(info, wide, GFLOAT[mode], sat=saturate)
                assert_same(jitted(fmt, mode)(x), want.astype(np.float32), x)
                continue
            for nbits in (max(23 - fmt.man, 1), 3):
                r = np.random.default_rng(seed).integers(0, 2**nbits, size)
                want = gfloat.round_ndarray(
                    info, wide, GFLOAT[mode], sat=saturate, srbits=r, srnumbits=nbits
                )
                got = with_bits(fmt, nbits, mode)(x, r.astype(np.uint32))
                assert_same(got, want.astype(np.float32), x)


def everything(fmt) -> np.ndarray:
    """The values, their midpoints, and the float32 numbers beside each."""
    values = fmt.values
    x = np.concatenate([values, (values[1:] + values[:-1]) / 2]).astype(np.float32)
    return np.concatenate([x, *(np.nextafter(x, np.float32(s)) for s in (np.inf, -np.inf))])


@pytest.mark.parametrize("top", TOPS)
@pytest.mark.parametrize("exp", range(2, 9))
def test_equals_gfloat(exp, top):
    """Every (exp, man) up to 9 bits, every value, midpoint and neighbour of these: all modes take
    turns, nearest is always there.

    Kills: reference.py: variant B rounded half to even.
    """
    mans = [man for man in range(9 - exp) if possible(exp, man, top=top)]
    for man in mans:
        turn = list(GFLOAT)[1:][(exp + 2 * man + TOPS.index(top)) % 5]
        fmt = possible(exp, man, top=top)
        assert np.isin(everything(fmt), hard_inputs(fmt, FULL)).all()
        compare_with_gfloat(fmt, ["nearest", turn], FULL)


@pytest.mark.slow
@pytest.mark.parametrize("fmt", NINE_BITS, ids=lambda f: f.name)
def test_equals_gfloat_in_every_mode(fmt):
    compare_with_gfloat(fmt, GFLOAT, SIZE, seed=1)


@pytest.mark.parametrize("mode", GFLOAT)
def test_sixteen_bits_equal_gfloat(mode):
    for name in ("e6m9", "e5m10", "e8m7"):
        compare_with_gfloat(formats.get(name), [mode], SIZE)


EXACT = ["e6m9", "e4m3fn", "e5m2sat", "e4m3ftz", "e2m1finite", "e4m3b3", "e3m0", "e5m2fnuz",
         "int8", "int4sym", "uint3", "fixed4.4", "fixed2.0", "ternary", "pow2.4"]  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("rounding", [r for r in ROUNDINGS if r != "stochastic"])
def test_equals_rational_arithmetic(name, rounding):
    """Formats and modes that no library has, to_odd among them.

    Kills: reference.py: to_odd without the sticky bit.
    """
    fmt = formats.get(name)
    x = hard_inputs(fmt, 1024)
    want = np.array([round_exactly(v, fmt, rounding) for v in x.tolist()], np.float32)
    assert_same(jitted(fmt, rounding)(x), want, x)


@pytest.mark.parametrize("name", ["e6m9", "e5m2fnuz", "int8", "fixed4.4"])
@pytest.mark.parametrize("variant", "ABC")
def test_given_bits_equal_rational_arithmetic(name, variant):
    fmt = formats.get(name)
    for nbits in (1, 7, 14):
        x = hard_inputs(fmt, 1024)
        r = np.random.default_rng(0).integers(0, 2**nbits, x.size)
        want = [
            round_exactly(v, fmt, "stochastic", int(w), nbits, variant)
            for v, w in zip(x.tolist(), r, strict=True)
        ]
        got = with_bits(fmt, nbits, variant)(x, r.astype(np.uint32))
        assert_same(got, np.array(want, np.float32), x)


@pytest.mark.parametrize("name", ["e5m22", "e6m23", "e5m2b125", "e5m2b120", "e4m3b110ftz"])
def test_limits_of_float32(name):
    """No bit left to drop, and halves of the least value that are float32 subnormals: nearest, and
    stochastic with the default bits, all zeros and all ones among them.

    Kills: cast.py `_fast`: `fmt.man > 21` left out; `least < -126` left out.
    """
    fmt = formats.get(name)
    x = np.concatenate([hard_inputs(fmt, 960), np.exp2(np.arange(-149.0, -85)).astype(np.float32)])
    assert_same(jitted(fmt, "nearest")(x), in_integers(x, fmt, "nearest"), x)
    nbits = 23 - fmt.man
    if nbits:
        r = np.random.default_rng(0).integers(0, 2**nbits, x.size)
        r[::4], r[1::4] = 0, 2**nbits - 1
        got = with_bits(fmt, nbits, "C")(x, r.astype(np.uint32))
        assert_same(got, in_integers(x, fmt, "stochastic", r), x)


def in_integers(x: np.ndarray, fmt, rounding: str, r=None) -> np.ndarray:
    """By the oracle of sums, which lists no codes: for formats with too many."""
    words = np.zeros(x.size, int) if r is None else r
    return np.array([
        oracles.round_int(oracles.to_int(v), fmt, rounding, int(w), math.copysign(1, v))
        if math.isfinite(v) else oracles.finish(v, fmt)
        for v, w in zip(x.tolist(), words, strict=True)
    ], np.float32)  # fmt: skip


@pytest.mark.parametrize("variant", "ABC")
def test_given_bits_to_a_codebook(variant):
    """Numbers whose distances to the levels float32 holds; all words of up to 7 bits.

    Kills: codebook.py: the variant ignored; one less random bit.
    """
    fmt = formats.get("pow2.4")
    for nbits in (1, 3, 7):
        x = np.repeat(np.arange(-80, 81, 5, dtype=np.float32) / 64 + 1 / 256, 2**nbits)
        r = np.tile(np.arange(2**nbits, dtype=np.uint32), x.size // 2**nbits)
        want = [
            round_exactly(v, fmt, "stochastic", int(w), nbits, variant)
            for v, w in zip(x.tolist(), r, strict=True)
        ]
        assert_same(with_bits(fmt, nbits, variant)(x, r), np.array(want, np.float32), x)


def test_levels_too_far_apart_for_float32():
    """Their distance overflows; half of the roundings of 0 go each way within 5 standard errors."""
    y = cast(
        jnp.zeros(1 << 14), formats.Codebook((-1.5 * 2.0**127, 1.5 * 2.0**127)), jax.random.key(7)
    )
    assert abs(float((y > 0).mean()) - 0.5) < 5 * 0.5 / 2**7


@pytest.mark.parametrize("name", ["e5m2", "e6m9", "bfloat16", "e8m23", "int8"])
def test_compiled_bits_are_the_plain_ones(name):
    """XLA must not simplify the rounding away, alone or inside a larger computation."""
    fmt = formats.get(name)
    x = jnp.asarray(hard_inputs(fmt, 2048))
    plain = np.asarray(cast(x, fmt))
    fused = jax.jit(lambda x: (cast(x, fmt), cast(cast(x, fmt), fmt), jnp.sum(cast(x, fmt))))
    for got in fused(x)[:2]:
        assert_same(got, plain, np.asarray(x))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_dtype_is_kept(dtype):
    x = jnp.asarray([0.3, -1e4, 5.0], dtype)
    assert cast(x, "e5m2").dtype == dtype
    np.testing.assert_array_equal(
        cast(x, "e5m2").astype(jnp.float32), x.astype(ml_dtypes.float8_e5m2).astype(np.float32)
    )


def test_vmap_grad_and_keys():
    """Same key, same bits, whatever surrounds the call; another key, other bits."""
    x, key = jax.random.normal(jax.random.key(0), (4, 100)), jax.random.key(1)
    a = cast(x, "e5m2", key)
    np.testing.assert_array_equal(a, jax.jit(lambda x: cast(x, "e5m2", key))(x))
    np.testing.assert_array_equal(a, cast(x, "e5m2", key=jax.random.key(1)))
    assert (a != cast(x, "e5m2", jax.random.key(2))).any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cast(jnp.ones(2), "e5m3x"), "unknown format 'e5m3x': did you mean"),
        (lambda: cast(jnp.ones(2), "e9m9"), "'e9m9' is no possible format: exp must be 2 to 8"),
        (lambda: cast(jnp.ones(2), "e5m2", rounding="up"), "unknown rounding 'up'"),
        (lambda: cast(jnp.ones(2), "e5m2", rounding="stochastic"), "needs a key"),
        (lambda: cast(jnp.ones(2), "e5m2", jax.random.key(0), rounding="nearest"), "uses no key"),
        (lambda: cast(jnp.ones(2), "e5m2", jax.random.key(0), random_bits=25), "1 to 24, not 25"),
        (lambda: cast(jnp.ones(2), "e5m2", jax.random.key(0), variant="D"), "unknown variant 'D'"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_integers_are_refused():
    with pytest.raises(TypeError, match="cannot round int32 values"):
        cast(jnp.arange(3), "e5m2")


def test_numbers_are_no_formats():
    with pytest.raises(TypeError, match="a format or its name is needed, not 5"):
        cast(jnp.ones(3), 5)
