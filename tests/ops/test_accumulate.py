"""Every rounded addition of dot, bit for bit against exact integer arithmetic."""

import dataclasses

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from strategies import assert_same

import qtrain as qt
from qtrain import formats
from qtrain.ops.accumulate import accumulate, rounding_bits
from qtrain.quantize.bits import key_words

SETTINGS = [  # chunk, rounding; K is 37: chunks of 1, an odd and an even number, and all
    (None, "nearest"), (37, "nearest"), (8, "nearest"), (5, "nearest"), (1, "nearest"),
    (None, "toward_zero"), (8, "toward_zero"), (None, "align"), (5, "align"),
]  # fmt: skip
FORMATS = ["e6m9", "e5m10", "e4m3fn", "e5m2", "e3m4", "e8m7", "e6m9sat", "e6m9ftz", "e4m3fnuz",
           "e5m2finite", "e2m1finite", "e7m21", "e5m0"]  # fmt: skip
CORE = ["e6m9", "e4m3fn", "e5m10"]  # in the default run with every setting


def fp8(x) -> np.ndarray:
    return np.asarray(jnp.asarray(x, jnp.float8_e5m2), np.float32)


def operands(kind: str, fmt, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(8, 37) and (37, 6); products of the later kinds crowd where rounding is hard."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(8, 37)), rng.normal(size=(37, 6))
    if kind == "narrow":  # the short rounding sequence runs
        return fp8(a), fp8(b)
    if kind == "wide":
        return a.astype(np.float32), b.astype(np.float32)
    if kind == "spread":  # magnitudes over 2^24
        return (
            fp8(a * 2.0 ** rng.integers(-6, 7, a.shape)),
            (b * 2.0 ** rng.integers(-6, 7, b.shape)).astype(np.float32),
        )
    if kind == "tiny":  # sums among the subnormals
        scale = 2.0 ** (fmt.emin // 2)
        return fp8(a) * np.float32(scale), fp8(b) * np.float32(2.0**fmt.emin / scale)
    if kind == "huge":  # overflow
        scale = 2.0 ** (fmt.emax // 2)
        return fp8(a) * np.float32(scale), fp8(b) * np.float32(2.0 ** (fmt.emax - 2) / scale)
    if kind == "ties":  # multiples of half an ulp at 1, which cancel often
        half = np.float32(2.0 ** -(min(fmt.man, 20) + 1))
        return np.ones((8, 37), np.float32), (rng.integers(-6, 7, b.shape) * half).astype(
            np.float32
        )
    assert kind == "special"
    a, b = fp8(a), fp8(b)
    a[0, 3], a[1, 5], a[2, 7], b[4, 0], b[6, 1] = np.inf, -np.inf, np.nan, np.inf, np.nan
    a[3], b[:, 2] = -0.0, np.abs(b[:, 2])  # a sum of negative zeros
    return a, b


KINDS = ["narrow", "wide", "spread", "tiny", "huge", "ties", "special"]


def compare(name: str, chunk, rounding: str, kinds=KINDS, seed: int = 0, **formats_of) -> int:
    """Compares all kinds of one setting; returns the number of sums."""
    fmt = formats.get(name)
    accum = qt.Accumulator(name, chunk, rounding, **formats_of)
    run = jax.jit(lambda a, b: qt.dot(a, b, accum=accum))
    count = 0
    for kind in kinds:
        if kind == "tiny" and fmt.exp == 8:
            continue  # float32 subnormals, which XLA flushes on CPU: see adder.add
        a, b = operands(kind, fmt, seed)
        others = {k: formats.get(v) for k, v in formats_of.items()}
        want = oracles.dot(a, b, fmt, chunk, rounding, **others)
        assert_same(np.asarray(run(a, b)).ravel(), want.ravel(), np.arange(want.size))
        count += want.size
    return count


@pytest.mark.parametrize(("chunk", "rounding"), SETTINGS)
@pytest.mark.parametrize("name", CORE)
def test_equals_the_oracle(name, chunk, rounding):
    """Kills: adder.py: a dropped residual of TwoSum; an ulp of the wrong addend in `align`."""
    assert compare(name, chunk, rounding) == 7 * 48


@pytest.mark.parametrize("name", sorted(set(FORMATS) - set(CORE)))
def test_every_kind_of_format(name):
    compare(name, 8, "nearest")


@pytest.mark.slow
@pytest.mark.parametrize(("chunk", "rounding"), SETTINGS)
@pytest.mark.parametrize("name", FORMATS)
def test_equals_the_oracle_at_length(name, chunk, rounding):
    for seed in range(1, 4):
        compare(name, chunk, rounding, seed=seed)


@pytest.mark.parametrize(
    ("name", "chunk", "rounding", "others"),
    [
        ("e6m9", 8, "nearest", {"intra": "e5m2"}),
        ("e5m2", 8, "nearest", {"intra": "e6m9"}),
        ("e6m9", 5, "nearest", {"product": "e4m3fn"}),
        ("e5m10", None, "nearest", {"product": "e5m2", "intra": "e6m9"}),
        ("float32", 8, "toward_zero", {"intra": "e8m13"}),  # Hopper's adders, promoted
    ],
)
def test_three_formats(name, chunk, rounding, others):
    """Products, sums inside chunks and between them.

    Kills: accumulate.py: fmt and intra swapped.
    """
    compare(name, chunk, rounding, ["narrow", "wide", "spread", "ties"], **others)


@pytest.mark.parametrize("kind", ["narrow", "wide", "tiny", "huge"])
@pytest.mark.parametrize(("name", "chunk"), [("e6m9", None), ("e6m9", 8), ("e6m9", 5), ("e5m2", 1)])
def test_stochastic_bits(name, chunk, kind):
    """With the random bits that `rounding_bits` documents, every output bit for bit.

    Kills: accumulate.py: the same step for both levels; bits of the local instead of the global k.
    """
    fmt, key = formats.get(name), jax.random.key(11)
    a, b = operands(kind, fmt)
    nbits = 23 - fmt.man
    step, output = np.meshgrid(range(80), range(48), indexing="ij")
    bits = [np.asarray(rounding_bits(key_words(key), i, step, output, nbits)) for i in range(2)]
    want = oracles.dot(
        a, b, fmt, chunk, "stochastic", words=lambda o, level, step: int(bits[level][step, o])
    )
    accum = qt.Accumulator(name, chunk, "stochastic")
    got = np.asarray(jax.jit(lambda a, b: accumulate(a[None], b[None], accum, key))(a, b))
    assert_same(got.ravel(), want.ravel(), np.arange(want.size))


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_both_sequences_of_instructions_agree(rounding, monkeypatch):
    """Narrow operands through the short sequence and through the general one.

    Kills: adder.py: `add_narrow` with another magic number.
    """
    a, b = operands("narrow", formats.get("e6m9"))
    accum, key = qt.Accumulator("e6m9", 8, rounding), jax.random.key(0)
    run = lambda: accumulate(a[None], b[None], accum, key if accum.needs_key else None)  # noqa: E731
    short = run()
    monkeypatch.setattr("qtrain.ops.accumulate.narrow", lambda *_: jnp.asarray(False))
    assert_same(np.asarray(run()).ravel(), np.asarray(short).ravel(), np.arange(48))


PROFILE = hypothesis.settings().max_examples  # 25, or 1000 of the thorough profile


# each shape compiles a program, 0.6 s: half an hour for the thorough profile's 3000
@hypothesis.settings(max_examples=12 if PROFILE < 100 else 3 * PROFILE)
@hypothesis.given(
    m=st.integers(1, 5), n=st.integers(1, 5), k=st.integers(1, 70), seed=st.integers(0, 99),
    chunk=st.integers(1, 70), wide=st.booleans(), name=st.sampled_from(["e6m9", "e4m3fn"]),
)  # fmt: skip
def test_any_shape(m, n, k, seed, chunk, wide, name):
    """Kills: accumulate.py: the last chunk's length taken from a full one."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(m, k)).astype(np.float32), rng.normal(size=(k, n)).astype(np.float32)
    a, b = (a, b) if wide else (fp8(a), fp8(b))
    accum = qt.Accumulator(name, min(chunk, k))
    got = np.asarray(jax.jit(lambda a, b: qt.dot(a, b, accum=accum))(a, b))
    want = oracles.dot(a, b, formats.get(name), accum.chunk)
    assert_same(got.ravel(), want.ravel(), np.arange(want.size))


def test_stochastic_sums_are_unbiased():
    """65536 sums of 64 products, each rounded up with the odds of its remainder: the mean of the
    error is zero within 6 standard errors, as measured (false alarms: 2e-9), and not negligible
    beside the error of one sum. Kills: adder.py: random bits of half the width."""
    x = fp8(np.random.default_rng(0).normal(size=64) + 1)
    a, b = np.broadcast_to(x, (256, 64)), np.ones((64, 256), np.float32)
    accum = qt.Accumulator("e6m9", rounding="stochastic")
    got = np.asarray(qt.dot(a, b, accum=accum, key=jax.random.key(2)), np.float64)
    error = got - np.float64(x.astype(np.float64).sum())
    assert error.std() > 0
    assert abs(error.mean()) < 6 * error.std() / 256


def test_float32_sums_cannot_be_truncated():
    with pytest.raises(ValueError, match=r"rounded to nearest, not toward_zero: .* e8m21"):
        qt.Accumulator("float32", rounding="toward_zero")
    accum = qt.Accumulator("float32", 8, "toward_zero", intra="e8m13")
    assert dataclasses.replace(accum, chunk=4).intra == "e8m13"


@pytest.mark.parametrize("dtype", ["int32", "bfloat16", "complex64"])
def test_operands_are_float32(dtype):
    """The loop itself takes nothing else; `dot` and `conv` take any float.

    Kills: accumulate.py: the check left out (int32 gives bits of nothing, complex64 loses parts);
    `to_float32`: the check left out.
    """
    a = jnp.ones((1, 2, 3), dtype)
    message = f"cannot accumulate {dtype} operands: cast them to float32"
    with pytest.raises(TypeError, match=message):
        accumulate(a, jnp.ones((1, 3, 2)), qt.Accumulator("e6m9"))
    with pytest.raises(TypeError, match=message):
        accumulate(jnp.ones((1, 3, 2)), a, qt.Accumulator("e6m9"))
    config = qt.DotConfig(forward=qt.Accumulator("e6m9"))
    calls = (
        lambda: qt.dot(a[0], a[0].T, config=config),
        lambda: qt.conv(a, a.reshape(1, 3, 2), config=config),
    )
    for call in calls:
        if dtype == "bfloat16":
            assert call().dtype == dtype
            continue
        with pytest.raises(TypeError, match=message):
            call()
