"""Every rounded addition of dot and conv, bit for bit against exact integer arithmetic."""

import dataclasses
import functools

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
from qtrain.ops import adder
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


def test_double_rounding_is_foreseen():
    """1 + 2^-9, then a product just below half an ulp that float32 would round up to it: bfloat16
    operands look narrow but need the general sequence. Kills: operands.py: `narrow` leaves out
    the one-rounding condition.
    """
    a = jnp.asarray([[1, 2.0**-9, 1 + 2.0**-7]], jnp.float32)
    b = jnp.asarray([[1], [1], [2.0**-10 * (1 - 2.0**-7)]], jnp.float32)
    assert qt.dot(a, b, accum=qt.Accumulator("e6m9"))[0, 0] == 1 + 2.0**-9


@hypothesis.settings(max_examples=12)  # each shape compiles two programs
@hypothesis.given(
    m=st.integers(1, 5), n=st.integers(1, 5), k=st.integers(1, 70), seed=st.integers(0, 99),
    chunk=st.integers(1, 70), wide=st.booleans(), name=st.sampled_from(["e6m9", "e4m3fn"]),
)  # fmt: skip
def test_any_shape(m, n, k, seed, chunk, wide, name):
    """Kills: accumulate.py: the last chunk's length taken from a full one."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(m, k)).astype(np.float32), rng.normal(size=(k, n)).astype(np.float32)
    a, b = (a, b) if wide else (fp8(a), fp8(b))
    chunk = min(chunk, k)
    got = np.asarray(qt.dot(a, b, accum=qt.Accumulator(name, chunk)))
    want = oracles.dot(a, b, formats.get(name), chunk)
    assert_same(got.ravel(), want.ravel(), np.arange(want.size))


@pytest.mark.parametrize("rounding", ["nearest", "toward_zero", "align", "stochastic"])
def test_one_addition(rounding):
    """`add` on 20,000 pairs: addends up to 2^14 apart, near ties, hidden ones that float32 makes
    exact, cancellation.

    Kills: adder.py `_sum_to_odd`: bits & 1 == 0 -> True; `_add_stochastic`: small -> True.
    """
    fmt = formats.get("e6m9")
    rng = np.random.default_rng(0)
    a = np.asarray(qt.cast(jnp.asarray(rng.normal(size=20000), jnp.float32), fmt))
    b = (rng.normal(size=20000) * 2.0 ** rng.integers(-14, 15, 20000)).astype(np.float32)
    b[2::8], b[6::8] = -a[2::8], -a[6::8] * np.float32(1 + 2.0**-20)  # cancellation
    power = np.exp2(np.floor(np.log2(np.abs(a[::8]))) - 10).astype(np.float32)  # half an ulp
    b[::8] = power * rng.choice([1 - 2.0**-23, 1 + 2.0**-23], power.size)
    b[1::8] = -np.sign(a[1::8]) * 2.0**-24 * rng.uniform(0.5, 2, power.size) * np.abs(a[1::8])
    b[4::8] = a[4::8] * (rng.integers(1, 4096, 2500) * 2.0**-21).astype(np.float32)  # near ties
    word = rng.integers(0, 2**14, 20000)
    got = adder.add(a, b, fmt, rounding, jnp.asarray(word, jnp.uint32))
    want = [
        oracles.add(*x, fmt, rounding, int(w))
        for *x, w in zip(a.tolist(), b.tolist(), word, strict=True)
    ]
    assert_same(np.asarray(got), np.array(want, np.float32), a)


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


@functools.cache
def conv_oracle(stride: int, padding: str):
    """Forward and both gradients of a small convolution as explicit sums over (kh, kw, cin)."""
    rng = np.random.default_rng(1)
    x, w = fp8(rng.normal(size=(2, 6, 5, 3))), fp8(rng.normal(size=(3, 3, 3, 4)))
    pads = {
        "VALID": [(0, 0)] * 2,
        "SAME": jax.lax.padtype_to_pads((6, 5), (3, 3), (stride,) * 2, "SAME"),
    }
    top, left = pads[padding][0][0], pads[padding][1][0]
    padded = np.pad(x, [(0, 0), *pads[padding], (0, 0)])
    height, width = ((padded.shape[i] - 3) // stride + 1 for i in (1, 2))
    error = fp8(rng.normal(size=(2, height, width, 4)))
    patches = np.stack([
        padded[n, stride * i : stride * i + 3, stride * j : stride * j + 3].ravel()
        for n in range(2) for i in range(height) for j in range(width)
    ])  # fmt: skip
    fmt = formats.get("e6m9")
    y = oracles.dot(patches, w.reshape(27, 4), fmt, 8).reshape(error.shape)
    dw = oracles.dot(patches.T, error.reshape(-1, 4), fmt, 8).reshape(w.shape)
    dilated = np.zeros((2, stride * (height - 1) + 1, stride * (width - 1) + 1, 4), np.float32)
    dilated[:, ::stride, ::stride] = error
    full = np.zeros((2, 6 + 2, 5 + 2, 4), np.float32)  # so that each patch is one input's errors
    i, j = 2 - top, 2 - left
    big = np.pad(dilated, [(0, 0), (i, 8), (j, 8), (0, 0)])[:, : full.shape[1], : full.shape[2]]
    back = np.stack([
        big[n, i : i + 3, j : j + 3].ravel() for n in range(2) for i in range(6) for j in range(5)
    ])  # fmt: skip
    flipped = w[::-1, ::-1].transpose(0, 1, 3, 2).reshape(36, 3)
    dx = oracles.dot(back, flipped, fmt, 8).reshape(x.shape)
    return x, w, error, (y, dx, dw)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_conv_equals_the_oracle(stride, padding):
    """K is (kh, kw, cin) forward, (kh, kw, cout) backward, (n, h, w) for the weights; chunks of 8.

    Kills: conv.py: K ordered (cin, kh, kw).
    """
    x, w, error, want = conv_oracle(stride, padding)
    accum = qt.Accumulator("e6m9", 8)
    config = qt.DotConfig(forward=accum, input_grad=accum, weight_grad=accum)
    conv = lambda x, w: qt.conv(x, w, strides=(stride, stride), padding=padding, config=config)  # noqa: E731

    @jax.jit
    def run(x, w, error):
        y, pull = jax.vjp(conv, x, w)
        return y, *pull(error)

    for got, expected in zip(run(x, w, error), want, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_float32_sums_cannot_be_truncated():
    with pytest.raises(ValueError, match=r"rounded to nearest, not toward_zero: .* e8m21"):
        qt.Accumulator("float32", rounding="toward_zero")
    accum = qt.Accumulator("float32", 8, "toward_zero", intra="e8m13")
    assert dataclasses.replace(accum, chunk=4).intra == "e8m13"


@pytest.mark.parametrize("rounding", ["toward_zero", "align"])
def test_truncated_sums_at_the_ends_of_float32(rounding):
    """Kills: adder.py `add`: a finite sum that overflows float32 is infinite; `_aligned`: a
    subnormal ulp wraps around (NaN).
    """
    add = lambda a, b: float(adder.add(jnp.float32(a), jnp.float32(b), fmt, rounding))  # noqa: E731
    fmt = formats.get("e8m7")
    assert add(fmt.max, fmt.max) == fmt.max
    assert add(-fmt.max, -fmt.max) == -fmt.max
    assert add(np.inf, fmt.max) == np.inf
    assert np.isnan(add(np.inf, -np.inf))
    for x in (2.0**-126, 2.0**-120, 1.9921875 * 2.0**-119):
        assert add(x, 0) == x
    assert add(2.0**-118, 1.5 * 2.0**-125) == 2.0**-118 * (1 + 2.0**-7)


def test_empty_convolutions_and_strides_of_zero():
    """No images, with chunks: no outputs and no gradient. Kills: conv.py: the early returns."""
    sums = qt.Accumulator("e6m9", 4)
    config = qt.DotConfig(forward=sums, input_grad=sums, weight_grad=sums)
    x, w = jnp.zeros((0, 5, 5, 2)), jnp.ones((3, 3, 2, 4))
    y, back = jax.vjp(lambda x, w: qt.conv(x, w, config=config), x, w)
    dx, dw = back(y)
    assert y.shape == (0, 5, 5, 4)
    assert dx.shape == x.shape
    np.testing.assert_array_equal(dw, jnp.zeros_like(w))
    assert qt.conv(jnp.ones((1, 5, 5, 2)), w[..., :0], config=config).shape == (1, 5, 5, 0)
    for each in (config, qt.DotConfig()):
        with pytest.raises(ValueError, match="strides must be at least 1"):
            qt.conv(jnp.ones((1, 5, 5, 2)), w, strides=0, config=each)


def test_rounded_products_are_no_exact_ones():
    """One product each that e4m3fn cannot hold: too large, of too many bits, too small.

    Kills: operands.py `narrow`: the range or the precision of products is not checked.
    """
    accum = qt.Accumulator("e6m9", product="e4m3fn")
    for a, b, want in ((32.0, 32.0, np.nan), (1.25, 1.25, 1.5), (2.0**-6, 2.0**-6, 0)):
        got = accumulate(jnp.full((1, 1, 1), a), jnp.full((1, 1, 1), b), accum)
        np.testing.assert_array_equal(got, np.full((1, 1, 1), want, np.float32))
