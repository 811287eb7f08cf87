"""Range batch normalization's moments against numpy, on one device and on eight."""

import functools
import math

import hypothesis as hp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from qtrain.ops.norm import range_constant, range_moments, round_error
from qtrain.quantize import Affine

SHAPE = (16, 2, 3)  # 32 values of each of 3 channels
UNIT = 2.0**-24


def normal(seed: int, shape=SHAPE) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def moments(x, constant="paper", chunks=1, epsilon=1e-5):
    return range_moments(x, constant=constant, chunks=chunks, epsilon=epsilon)


def normalized(x, **settings):
    found = range_moments(x, **settings)
    return (x - found.mean) / found.spread


def assert_close_sums(got, want, terms, sizes):
    """Two sums of `terms` values, whose magnitudes add up to `sizes`, in any order of addition:
    each within (terms - 1) u sizes of the exact one [higham2002accuracy, eq. (4.4)]."""
    bound = 2.02 * terms * UNIT * np.asarray(sizes, np.float64)
    error = np.abs(np.asarray(got, np.float64) - np.asarray(want, np.float64))
    assert (error <= bound).all(), (error.max(), np.min(bound))


@pytest.mark.parametrize("n", [2, 16, 1024, 200704])
def test_constants(n):
    """The code's constant by its own expression [banner2018scalable, Sec. 2].

    The derivation has 0.25 for 0.175: the factor 0.7 is empirical.
    """
    paper = 1 / math.sqrt(2 * math.log(n))
    assert range_constant(n) == pytest.approx(paper, rel=1e-15)
    fix = 0.5 * 0.35 * (1 + (math.pi * math.log(4)) ** 0.5) / ((2 * math.log(n)) ** 0.5)
    assert range_constant(n, "code") == pytest.approx(fix, rel=1e-15)
    assert range_constant(n, "code") / paper == pytest.approx(0.5402, abs=5e-5)


@hp.given(
    st.integers(0, 2**32 - 1), st.sampled_from(("paper", "code")), st.sampled_from((1, 2, 16)),
    st.integers(-8, 8), st.sampled_from((0.0, 1.0, -40.0)),
)  # fmt: skip
def test_equals_numpy(seed, constant, chunks, scale, offset):
    """In float64. Mean: a sum of 32 in any order. Range: means over chunks of exact maxima and
    minima, a difference and a product.

    Kills: chunks of every n-th value; C(n) of the whole batch with chunks.
    """
    x = np.random.default_rng(seed).normal(size=SHAPE) + offset
    x = np.ldexp(x, scale).astype(np.float32)
    flat = x.reshape(-1, SHAPE[-1]).astype(np.float64)
    parts = flat.reshape(chunks, -1, SHAPE[-1])
    high, low = parts.max(1), parts.min(1)
    found = moments(x, constant, chunks)
    assert_close_sums(found.mean, flat.mean(0), len(flat), np.abs(flat).mean(0))
    factor = range_constant(len(flat) // chunks, constant)
    spread = factor * (high.mean(0) - low.mean(0)) + 1e-5
    sizes = factor * (np.abs(high).mean(0) + np.abs(low).mean(0)) + 1e-5
    assert_close_sums(found.spread, spread, chunks + 3, sizes)


# The cells n = 16 to 12544 of the spec's table: mean of C(n) range / sigma for Gaussian data.
CALIBRATION = {16: (1.51, 0.81), 64: (1.62, 0.88), 256: (1.70, 0.92), 1024: (1.74, 0.94),
               12544: (1.81, 0.98)}  # fmt: skip


@pytest.mark.parametrize("n", CALIBRATION)
def test_calibration(n):
    """[banner2018scalable, Sec. 2], computed: within 2 % of the table, both constants.

    The standard deviation of the range of n Gaussians is below 0.8 (that of 16; it falls with n):
    the mean of `channels` of them is within 0.2 % by 4 standard errors; the table has two decimals,
    0.6 % at most. The last two columns (n = 50176, 200704) take integrals, see
    tests/theory/test_expected_range.py.
    """
    channels = 2_000_000 // n if n > 1024 else 16384
    x = np.random.default_rng(n).standard_normal((n, channels), np.float32)
    for constant, want in zip(("paper", "code"), CALIBRATION[n], strict=True):
        spread = np.asarray(range_moments(jnp.asarray(x), constant=constant, epsilon=0.0).spread)
        assert spread.mean(dtype=np.float64) == pytest.approx(want, rel=0.02)


@hp.given(st.integers(0, 2**32 - 1), st.integers(-20, 20), st.sampled_from((1, 4)))
def test_scale_equivariance(seed, power, chunks):
    """x -> 2^k x scales mean and range by 2^k, bit for bit; -x flips the mean and keeps the range.

    Kills: a range without its minimum.
    """
    x = np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)
    mean, spread = moments(x, "paper", chunks, 0.0)
    for scale in (2.0**power, -(2.0**power)):
        scaled = moments(x * np.float32(scale), "paper", chunks, 0.0)
        np.testing.assert_array_equal(scaled.mean, mean * scale)
        np.testing.assert_array_equal(scaled.spread, spread * abs(scale))


def test_shift_invariance():
    """x + b, with sums that are exact: integers below 2^24."""
    x = jnp.asarray(np.random.default_rng(0).integers(-99, 99, SHAPE), jnp.float32)
    mean, spread = range_moments(x)
    moved = range_moments(x + 1000)
    np.testing.assert_array_equal(moved.spread, spread)
    np.testing.assert_array_equal(moved.mean, mean + 1000)


@pytest.mark.parametrize("chunks", [1, 4])
@pytest.mark.parametrize("constant", ["paper", "code"])
def test_gradient_is_that_of_finite_differences(constant, chunks):
    """Away from ties: the largest gap between neighbours of a channel is wider than the step.

    Central differences of h in float64 have a truncation error of h^2/6 f''' and rounding errors
    of 2^-52 |f| / h: with h = 2^-10, below 1e-5; the gradient itself is float32 (2^-24 times the
    number of terms, 2^-14 here).
    """
    x = np.asarray(normal(0), np.float64)
    weights = np.asarray(normal(1), np.float64)
    ordered = np.sort(x.reshape(chunks, -1, SHAPE[-1]), axis=1)
    h = 2.0**-10
    assert min((ordered[:, -1] - ordered[:, -2]).min(), (ordered[:, 1] - ordered[:, 0]).min()) > h
    factor = range_constant(32 // chunks, constant)

    def loss(x):
        flat = x.reshape(chunks, -1, SHAPE[-1])
        spread = factor * (flat.max(1) - flat.min(1)).mean(0) + 1e-5
        return (weights * np.sin((x - x.mean((0, 1))) / spread)).sum()

    want = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[i] = h
        want[i] = (loss(x + step) - loss(x - step)) / (2 * h)

    def ours(x):
        return jnp.sum(weights * jnp.sin(normalized(x, constant=constant, chunks=chunks)))

    got = jax.grad(ours)(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 + 2.0**-14)


@pytest.mark.parametrize("value", [0.0, 0.1, 1000.1, -3e5, 3e38 / 128])
@pytest.mark.parametrize("chunks", [1, 10])
def test_a_constant_channel_is_zero(value, chunks):
    """Whatever the mean rounds to: 100 times 1000.1 add up to another sum, and the difference
    divided by epsilon is 24. The gradient is finite.

    Kills: the clip of the mean left out.
    """
    x = jnp.full((100, 1), value)
    f = functools.partial(normalized, chunks=chunks)
    y, pull = jax.vjp(jax.jit(f), x)
    np.testing.assert_array_equal(y, 0)
    assert np.isfinite(pull(jax.random.normal(jax.random.key(0), y.shape))[0]).all()


def test_the_clipped_mean_has_its_gradient():
    """1 / n for each value, though the mean is clipped to the value that 99 of them have.

    Kills: `jnp.clip` without the straight-through estimator, whose gradient is that of the end.
    """
    x = jnp.full((100, 1), 1000.1)
    x = x.at[0, 0].set(jnp.nextafter(x[0, 0], jnp.inf))
    grad = jax.grad(lambda x: range_moments(x).mean[0])(x)
    np.testing.assert_allclose(grad, 0.01, rtol=2 * UNIT)


def test_ties_share_the_gradient():
    """Two largest and three least values: halves and thirds."""
    x = jnp.array([[2.0], [2.0], [0.0], [-1.0], [-1.0], [-1.0]])
    grad = jax.grad(lambda x: range_moments(x, epsilon=0.0).spread[0] / range_constant(6))(x)
    # three roundings: the factor, its inverse's product, and the share
    np.testing.assert_allclose(
        grad[:, 0], np.array([1 / 2, 1 / 2, 0, -1 / 3, -1 / 3, -1 / 3]), rtol=4 * UNIT
    )


def devices(count: int = 8) -> Mesh:
    return Mesh(jax.devices()[:count], ("data",))


def value_and_gradient(f, x):
    """y = f(x), and the gradient of a sum of y with fixed weights."""
    weights = normal(9, x.shape)
    return f(x), jax.grad(lambda x: jnp.sum(f(x) * weights))(x)


def assert_same_up_to_sums(got, want):
    """Values of a few hundred at most, sums of 32 of them: 32 u times their magnitudes, and the
    products and quotients on the way, taken as 32 more."""
    for a, b in zip(got, want, strict=True):
        size = np.abs(np.asarray(b, np.float64)).sum()
        np.testing.assert_allclose(a, b, rtol=0, atol=64 * UNIT * max(size / len(b), 1))


@pytest.mark.parametrize("chunks", [1, 4])
def test_a_batch_split_over_devices_has_one_range(chunks):
    """Under jit with shardings, the values and gradients are those of one device.

    JAX's own contract, on which `RangeNorm.replicas` = 1 relies.
    """
    x = normal(0)
    f = functools.partial(normalized, chunks=chunks)
    run = jax.jit(functools.partial(value_and_gradient, f))
    split = jax.device_put(x, NamedSharding(devices(), P("data")))
    assert_same_up_to_sums(run(split), run(x))


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("chunks", [1, 2])
@pytest.mark.parametrize("grid", [None, 1.0])
def test_shard_map_with_the_axis_is_global(grid, chunks, check):
    """Eight devices of 4 values: the range of all 32, or chunks of each device's; the moments are
    the same on all, which JAX can see (out_specs P() with check_vma). On a coarse grid, several
    values attain the maximum, on several devices.

    Kills: ranges of several devices added up; C(n) of one device; a mean of one device; ops/norm.py
    without the count of all devices in `_attained` (on the grid).
    """
    x = normal(0) if grid is None else jnp.round(normal(0) / grid) * grid
    inside = functools.partial(range_moments, axis_name="data", chunks=chunks)
    shared = jax.shard_map(
        inside, mesh=devices(), in_specs=P("data"), out_specs=P(), check_vma=check
    )

    def f(x):
        found = shared(x)
        return (x - found.mean) / found.spread

    plain = functools.partial(normalized, chunks=1 if chunks == 1 else 8 * chunks)
    got = jax.jit(functools.partial(value_and_gradient, f))(x)
    assert_same_up_to_sums(got, value_and_gradient(plain, x))


def test_shard_map_without_the_axis_is_per_device():
    """Each device's share is normalized by itself."""
    x = normal(0)
    f = jax.shard_map(normalized, mesh=devices(), in_specs=P("data"), out_specs=P("data"))
    got = jax.jit(functools.partial(value_and_gradient, f))(x)

    def parts(x):
        return jnp.concatenate([normalized(part) for part in jnp.split(x, 8)])

    assert_same_up_to_sums(got, value_and_gradient(parts, x))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: range_moments(jnp.ones((1, 3))), "at least 2 values per channel .*, not 1"),
        (lambda: range_moments(jnp.ones((0, 3))), "at least 2 values per channel .*, not 0"),
        (lambda: range_moments(jnp.ones((6, 3)), chunks=4), "6 values per channel .* 4 chunks"),
        (lambda: range_moments(jnp.ones((6, 3)), chunks=0), "6 values per channel .* 0 chunks"),
        (lambda: range_moments(jnp.ones((6, 3)), chunks=6), "at least 2 values .*, not 1"),
        (lambda: range_constant(9, "poster"), "unknown constant 'poster': paper or code"),
    ],
)
def test_errors_are_one_clear_line(call, message):
    with pytest.raises(ValueError, match=message) as found:
        call()
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_round_error_is_the_identity_with_a_rounded_gradient(rounding):
    """Kills: passing the error as it is."""
    quantizer = Affine(bits=3, rounding=rounding)
    key = jax.random.key(3) if quantizer.needs_key else None
    x, error = normal(0), normal(1)
    y, pull = jax.vjp(lambda x: round_error(x, quantizer, key), x)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(pull(error)[0], quantizer(error, key))
    jitted = jax.jit(lambda x, e: jax.vjp(lambda x: round_error(x, quantizer, key), x)[1](e)[0])
    np.testing.assert_array_equal(jitted(x, error), quantizer(error, key))
