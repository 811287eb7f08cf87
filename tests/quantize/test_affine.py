"""Affine quantization against its definition in numpy's float32 steps, bit for bit."""

import itertools

import hypothesis as hp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtrain.quantize import Affine, fold

RANGES = ("tensor", "channel", "sample", "sample_mean")
SHAPE = (6, 3, 4)  # one shape, so that XLA compiles each quantizer once
F = np.float32
BATCH_FREE = ("tensor", "channel", "sample")  # ranges that are values of the array, no sums


def oracle(x: np.ndarray, low: np.float32, high: np.float32, bits: int) -> np.ndarray:
    """The definition, one float32 operation after another: each is rounded once."""
    if low == high:
        return np.full_like(x, low)
    step = max(F(high - low) / F(2**bits - 1), F(2.0**-126))
    codes = np.clip(np.rint((x - low) * (F(1) / step)), F(0), F(2**bits - 1))
    return codes * step + low


def groups(x: np.ndarray, kind: str):
    """Index of each set of values that share a range."""
    if kind == "channel":
        return [(..., c) for c in range(x.shape[-1])]
    return [(n,) for n in range(len(x))] if kind == "sample" else [...]


@st.composite
def arrays(draw):
    """Normals, uniforms or integers of any size, around any point; repeated values, zeros."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(("normal", "uniform", "integers", "sparse")))
    x = {
        "normal": lambda: rng.normal(size=SHAPE),
        "uniform": lambda: rng.uniform(size=SHAPE),
        "integers": lambda: rng.integers(-9, 9, SHAPE),
        "sparse": lambda: rng.normal(size=SHAPE) * (rng.uniform(size=SHAPE) < 0.2),
    }[kind]()
    scale, offset = draw(st.integers(-90, 90)), draw(st.sampled_from((0, 0, 1, -30, 1000)))
    return np.ldexp(x + offset, scale).astype(F)


@hp.given(arrays(), st.sampled_from((2, 5, 8, 16)), st.sampled_from(BATCH_FREE))
def test_equals_the_definition(x, bits, kind):
    """Nearest, jitted and not: each group of values by its own min and max.

    Kills: `codes * step` without the select (jitted: fused with the sum), `spread / top` by a
    constant, `x.ndim - 1` -> `0` (channels are examples), `fmt.max` -> `fmt.max + 1`.
    """
    quantizer = Affine(bits=bits, range=kind)
    want = np.empty_like(x)
    for index in groups(x, kind):
        want[index] = oracle(x[index], x[index].min(), x[index].max(), bits)
    np.testing.assert_array_equal(quantizer(jnp.asarray(x)), want)
    np.testing.assert_array_equal(jax.jit(quantizer)(x), want)


@hp.given(arrays())
def test_mean_range_of_examples(x):
    """The mean of each example's min, and of its max, and the definition within them.

    The sum of n values and its product with the rounded 1 / n are n + 1 roundings, which move the
    mean by at most (n + 1) u sum|v| / n, u = 2^-24, to first order. Kills: `range ==
    "sample_mean"` -> the whole array's range; a mean that jit fuses with what comes after it.
    """
    quantizer = Affine(range="sample_mean")
    low, high = (np.asarray(b).item() for b in quantizer.bounds(jnp.asarray(x)))
    flat = x.reshape(len(x), -1).astype(np.float64)
    for got, values in ((low, flat.min(1)), (high, flat.max(1))):
        bound = 1.01 * (len(x) + 1) * 2.0**-24 * np.abs(values).mean()
        assert abs(got - values.mean()) <= bound
    want = oracle(x, F(low), F(high), 8)
    np.testing.assert_array_equal(quantizer(jnp.asarray(x)), want)
    np.testing.assert_array_equal(jax.jit(quantizer)(x), want)


def test_values_beyond_the_mean_range_saturate():
    """Examples of range [0, 2] and [0, 4]: the mean is [0, 3]. Kills: the widest range;
    `jnp.where(spread == 0, low, ...)` left out: integers above `low`.
    """
    x = jnp.array([[0.0, 2.0], [0.0, 4.0]])
    got = Affine(bits=2, range="sample_mean")(x)
    np.testing.assert_array_equal(got, [[0, 2], [0, 3]])
    # examples of one value each: the mean range is a point
    got = Affine(range="sample_mean")(jnp.array([[1.0], [4.0]]))
    np.testing.assert_array_equal(got, [[2.5], [2.5]])


@pytest.mark.parametrize("bits", range(2, 17))
def test_every_width(bits):
    """All 2^bits codes 0, 1, ... are values already, and stay; so do their negatives.

    With max - min = 2^bits - 1 the step is 1, and no operation rounds. Kills: `2**bits - 1`
    steps -> `2**bits`.
    """
    codes = jnp.arange(2**bits, dtype=jnp.float32)
    for x in (codes, -codes, codes - 2 ** (bits - 1)):
        np.testing.assert_array_equal(jax.jit(Affine(bits=bits))(x), x)


@hp.given(arrays(), st.sampled_from((2, 8)), st.sampled_from(BATCH_FREE))
def test_a_second_time_changes_nothing_in_a_fixed_range(x, bits, kind):
    """Rounding again within the same bounds gives the same bits, where the values are as fine.

    x' - min is within u (|x'| + 2 |q S|) of q S, so the quotient within 1/2 of q where
    |max| and |min| are below 2^12 times the spread. The range of x' itself may be another: its
    max is rounded. Kills: codes that count from 0.
    """
    quantizer = Affine(bits=bits, range=kind)
    low, high = quantizer.bounds(jnp.asarray(x))
    size = np.maximum(abs(np.asarray(low)), abs(np.asarray(high)))
    hp.assume((size < 2.0**12 * np.asarray(high - low)).all())
    once = quantizer.within(jnp.asarray(x), low, high)
    np.testing.assert_array_equal(quantizer.within(once, low, high), once)


@pytest.mark.parametrize("kind", RANGES)
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("value", [0.0, 0.1, -5e37, 2.0**-126])
def test_constant_arrays_stay(kind, rounding, value):
    """Kills: 0 in place of `low` where the spread is 0."""
    x = jnp.full((4, 3), value)  # 4 examples: their mean is exact, their sum finite
    quantizer = Affine(rounding=rounding, range=kind)
    key = jax.random.key(0) if quantizer.needs_key else None
    np.testing.assert_array_equal(quantizer(x, key), x)


@pytest.mark.parametrize("kind", RANGES)
def test_nan_reaches_all_that_share_its_range(kind):
    """Kills: `jnp.nanmin` for the range."""
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(F)
    x[2, 1] = np.nan
    want = np.zeros_like(x, bool)
    for index in groups(x, kind):
        want[index] = np.isnan(x[index]).any()
    np.testing.assert_array_equal(np.isnan(Affine(range=kind)(jnp.asarray(x))), want)


@pytest.mark.parametrize("high", [np.inf, 3e38])
def test_no_range_no_numbers(high):
    """An infinity, or a range beyond float32, shows as NaN, never as a plausible number."""
    assert np.isnan(Affine()(jnp.array([-high, 0.0, high], jnp.float32))).all()


def test_small_errors_are_not_lost():
    """Values far below the source's least step of 1e-8. Kills: `_LEAST` -> 1e-8."""
    x = np.random.default_rng(0).normal(size=64).astype(F) * F(1e-12)
    q = np.asarray(Affine()(jnp.asarray(x)))
    # half a step of 255 in the range, and the rounding of three operations on it
    assert np.abs(q - x).max() <= 0.5001 * np.ptp(x) / 255


@pytest.mark.parametrize("kind", RANGES)
@pytest.mark.parametrize("bits", [2, 8])
def test_stochastic_takes_neighbours_without_bias(bits, kind):
    """4000 draws: each the next value up or down, their mean that of x.

    One draw has at most a standard deviation of S/2; 16 values are looked at, so that a mean
    beyond 4 standard errors, S / 2 / sqrt(4000), by chance has a probability of 1e-3 (the key is
    fixed). Where sample_mean saturates, the values are the ends. float32 moves a quotient of
    255 steps by 2^-15 of one at most. Kills: in cast.py, `random >= 1 - frac` -> `random >= frac`.
    """
    x = jax.random.normal(jax.random.key(0), (4, 4))
    quantizer = Affine(bits=bits, rounding="stochastic", range=kind)
    draws = 4000
    keys = jax.random.split(jax.random.key(1), draws)
    got = np.asarray(jax.jit(jax.vmap(quantizer, (None, 0)))(x, keys), np.float64)
    low, high = (np.asarray(b, np.float64) for b in quantizer.bounds(x))
    step = (high - low) / (2**bits - 1)
    inside = np.clip(np.asarray(x, np.float64), low, high)
    assert (np.abs(got - inside) < step * (1 + 2.0**-14)).all()
    assert (np.abs(got.mean(0) - inside) <= step * (2 / np.sqrt(draws) + 2.0**-14)).all()


def test_same_key_same_bits():
    x = jax.random.normal(jax.random.key(0), (64,))
    quantizer = Affine(bits=3, rounding="stochastic")
    one, two = (fold(jax.random.key(0), name) for name in ("a", "b"))
    first = quantizer(x, one)
    np.testing.assert_array_equal(jax.jit(quantizer)(x, one), first)
    assert (quantizer(x, two) != first).any()


def test_nearest_ignores_the_key():
    x = jax.random.normal(jax.random.key(0), (64,))
    np.testing.assert_array_equal(Affine()(x, jax.random.key(0)), Affine()(x))


@pytest.mark.parametrize("kind", RANGES)
def test_the_gradient_is_the_identity(kind):
    """Saturated values and the ends that set the range included.

    Kills: `straight_through(rounded, x, clip=(low, high))`, which stops saturated values.
    """
    x = jax.random.normal(jax.random.key(0), (5, 4))
    weights = jax.random.normal(jax.random.key(1), (5, 4))
    grad = jax.grad(lambda x: jnp.sum(Affine(range=kind)(x) * weights))
    np.testing.assert_array_equal(grad(x), weights)
    np.testing.assert_array_equal(jax.jit(grad)(x), weights)


@pytest.mark.parametrize("kind", RANGES)
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1,), (1, 1)])
def test_empty_and_single_values(kind, shape):
    x = jnp.full(shape, 0.3)
    np.testing.assert_array_equal(Affine(range=kind)(x), x)


def test_other_float_types_keep_theirs():
    x = jax.random.normal(jax.random.key(0), (64,)).astype(jnp.bfloat16)
    got = Affine()(x)
    assert got.dtype == x.dtype
    np.testing.assert_array_equal(got, Affine()(x.astype(jnp.float32)).astype(jnp.bfloat16))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Affine(bits=1), ValueError, "bits must be 2 to 16, not 1"),
        (lambda: Affine(bits=17), ValueError, "bits must be 2 to 16, not 17"),
        (lambda: Affine(rounding="up"), ValueError, "'up': nearest or stochastic"),
        (lambda: Affine(range="row"), ValueError, "'row': one of tensor, channel, sample, "),
        (lambda: Affine(rounding="stochastic")(jnp.ones(2)), ValueError, "needs a key"),
        (lambda: Affine()(jnp.arange(3)), TypeError, "cannot round int32 values"),
    ],
)
def test_errors_are_one_clear_line(make, error, message):
    """Kills: `rounding=self.rounding` left out of the cast: without a key, to nearest."""
    with pytest.raises(error, match=message) as found:
        make()
    assert "\n" not in str(found.value)


def test_descriptions_differ():
    """Every setting shows."""
    settings = itertools.product((2, 8), ("nearest", "stochastic"), RANGES)
    texts = {Affine(bits=b, rounding=r, range=k).describe() for b, r, k in settings}
    assert len(texts) == 2 * 2 * len(RANGES)
