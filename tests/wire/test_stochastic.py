"""SQm: what is sent stands for the gradient on average, and never for another one silently."""

import functools

import hypothesis as hp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtrain.wire import Stochastic, unpack
from theory import gradient_quantization as theory

UNIT = 2.0**-24  # unit roundoff of float32
D, DRAWS = 96, 2000
BITS = st.sampled_from((2, 3, 4, 8, 16))


@functools.partial(jax.jit, static_argnums=0)
def send(codec, g, keys):
    """(draws, ...) decoded, float32."""
    return jax.vmap(lambda key: codec.decode(codec.encode(g, key), g))(keys)


@functools.partial(jax.jit, static_argnums=0)
def encode(codec, g, key):
    return codec.encode(g, key)


def gradient(seed: int, size: int = D) -> np.ndarray:
    """Heavy-tailed, of any magnitude, with zeros of both signs."""
    rng = np.random.default_rng(seed)
    g = rng.standard_t(3, size) * 10.0 ** rng.uniform(-12, 6)
    g[rng.random(size) < 0.1] *= 0.0
    return g.astype(np.float32)


def keys(seed: int, count: int = DRAWS):
    return jax.random.split(jax.random.key(seed), count)


@hp.given(bits=BITS, seed=st.integers(0, 999))
def test_unbiased_on_the_levels_and_within_the_lemma(bits, seed):
    """Means of 2000 draws, all draws on s j / k beside the value, squared error of Lemma 3.

    A draw is one of two levels s/k apart, so its variance is p (1 - p) (s/k)^2 for the exact
    chance p of the upper one; the mean of n draws may differ from g by five standard errors
    (D x 25 normal numbers: chance 1e-3), and by what float32 does: |g|/s k is off by 2 u, rounded
    to 24 bits behind the point, and the levels by 2 u. The mean squared error is E of the same
    p (1 - p) (s/k)^2, five standard errors of which are at most 5 / sqrt(n) times (s/k)^2 / 4
    per value; sums of independent values add these in squares.

    Kills: wire/stochastic.py: `cast(share * np.float32(self.levels), ..., key)` without the key;
    `self.levels - levels` -> `self.levels + levels`; `jnp.max(jnp.abs(g))` -> `jnp.max(g)`.
    """
    g, codec = gradient(seed), Stochastic(bits=bits)
    got = np.asarray(send(codec, g, keys(seed)), np.float64)
    k, s, exact = codec.levels, float(np.abs(g).max()), g.astype(np.float64)
    step = s / k
    codes = got / step
    assert np.abs(codes - np.rint(codes)).max() <= 4 * UNIT * k
    assert np.abs(got - exact).max() <= step * (1 + 8 * UNIT * k)
    p = np.abs(exact) / step % 1
    float32 = (4 * k * UNIT + 2.0**-24) * step
    spread = np.sqrt(p * (1 - p) + 1 / DRAWS) * step
    assert (np.abs(got.mean(0) - exact) <= 5 * spread / np.sqrt(DRAWS) + float32).all()
    squared = ((got - exact) ** 2).sum(-1).mean()
    noise = 5 * step**2 / 4 * np.sqrt(D / DRAWS) + 2 * D * step * float32
    assert abs(squared - theory.second_moment(exact, bits) + (exact**2).sum()) <= noise
    assert squared <= theory.variance_bound(exact, bits) + noise


@hp.given(chosen=st.sampled_from(((2, 1.0), (3, 0.5), (4, 3.0))), seed=st.integers(0, 999))
def test_clipped_like_theory(chosen, seed):
    """The scale is that of theory.clip, float64, up to rounding; so are all values, on average.

    sigma: mean and mean square over D values each err by at most (D + 3) u of what they add up,
    mean |g| <= sqrt(D) sigma' with sigma' the root mean square, which here is below 1.3 sigma
    (the mean is subtracted): 4 sqrt(D) D u covers both.

    Kills: wire/stochastic.py: `jnp.std(g / unit)` -> `jnp.sqrt(jnp.mean((g / unit) ** 2))`;
    `unit * ` removed; `jnp.clip(g, -most, most)` -> `g`.
    """
    bits, clip = chosen
    g = gradient(seed) + np.abs(gradient(seed)).max() / np.float32(8)
    codec = Stochastic(bits=bits, clip=clip)
    want = theory.clip(g, clip)
    packed = encode(codec, g, jax.random.key(0))
    tolerance = 4 * np.sqrt(D) * D * UNIT
    assert float(packed.scale) == pytest.approx(np.abs(want).max(), rel=tolerance)
    got = np.asarray(send(codec, g, keys(seed)), np.float64)
    step = np.abs(want).max() / codec.levels
    p = np.abs(want) / step % 1
    spread = np.sqrt(np.maximum(p * (1 - p), 1 / DRAWS)) * step
    off = tolerance * np.abs(want).max() + 2 * tolerance * step * codec.levels
    assert (np.abs(got.mean(0) - want) <= 5 * spread / np.sqrt(DRAWS) + off).all()


@pytest.mark.parametrize("magnitude", [1e-30, 1e-20, 1.0, 1e20, 1e37])
def test_clipping_does_not_depend_on_the_unit(magnitude):
    """Kills: wire/stochastic.py: `unit * jnp.std(g / unit)` -> `jnp.std(g)`."""
    g = np.float32(magnitude) * jax.random.normal(jax.random.key(1), (1000,)).astype(np.float32)
    scale = float(encode(Stochastic(clip=1.0), g, jax.random.key(0)).scale)
    assert scale == pytest.approx(float(np.asarray(g, np.float64).std()), rel=4 * 1000**1.5 * UNIT)


@pytest.mark.parametrize("size", [1, 41, 1000])  # 41 (1 / 41) is not 1 in float32
@pytest.mark.parametrize("value", [0.1, -0.3, 1e-25])
def test_equal_values_are_not_clipped(value, size):
    """They have no spread, and their computed one may be a rounding error.

    Kills: wire/stochastic.py: `jnp.where(equal, ` -> `jnp.where(sigma == 0, `.
    """
    g = jnp.full(size, value, jnp.float32)
    got = send(Stochastic(bits=3, clip=2.0), g, keys(0, 2))
    np.testing.assert_array_equal(got, jnp.stack([g, g]))


@pytest.mark.parametrize("bits", range(2, 17))
def test_one_answer_compiled_or_not(bits):
    """The same bits of every level, and the largest value as it is.

    Kills: wire/stochastic.py: `q[codes]` -> `(codes - k) / k` in float32.
    """
    codec = Stochastic(bits=bits)
    g = jax.random.normal(jax.random.key(0), (200,)) * 1e-3
    for seed in range(4):
        packed = encode(codec, g, jax.random.key(seed))._replace(scale=jnp.float32(1 + 0.1 * seed))
        got = jax.jit(codec.decode)(packed, g)
        np.testing.assert_array_equal(got, codec.decode(packed, g))
        levels = np.asarray(unpack(packed.words, bits, g.shape), np.float32) - codec.levels
        want = levels / np.float32(codec.levels) * np.float32(packed.scale)
        np.testing.assert_array_equal(got, want)
        assert np.abs(got).max() == packed.scale


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_zeros_stay(dtype, clip):
    """Kills: wire/stochastic.py: `jnp.where(scale > 0, scale, 1)` -> `scale`."""
    g = jnp.zeros((3, 5), dtype)
    codec = Stochastic(clip=clip)
    packed = encode(codec, g, jax.random.key(0))
    assert packed.scale == 0
    got = codec.decode(packed, g)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, g)
    assert not np.signbit(got).any()


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("bits", [2, 3, 16])
def test_what_is_not_finite_is_seen(bits, bad, clip):
    """Every decoded tensor has a number that is not finite, so the step can be skipped."""
    g = jnp.array([0.5, bad, 0.0, -0.25])
    got = np.asarray(send(Stochastic(bits=bits, clip=clip), g, keys(0, 20)))
    assert (~np.isfinite(got)).any(axis=1).all()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_gradients_are_quantized_in_float32(dtype):
    g = jax.random.normal(jax.random.key(0), (64,)).astype(dtype)
    codec, key = Stochastic(bits=4, clip=2.0), jax.random.key(1)
    narrow, wide = (encode(codec, x, key) for x in (g, g.astype(jnp.float32)))
    np.testing.assert_array_equal(narrow.words, wide.words)
    assert narrow.scale == wide.scale
    got = codec.decode(narrow, g)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, codec.decode(wide, g.astype(jnp.float32)).astype(dtype))


def test_what_is_sent():
    """Sign and level in one code of `bits` bits, in row-major order; the largest value exactly."""
    g = jnp.array([[1.0, -1.0, 0.0], [0.5, -0.5, 0.25]])
    packed = encode(Stochastic(bits=3), g, jax.random.key(0))
    assert (packed.words.shape, packed.scale) == ((1,), 1.0)
    codes = unpack(packed.words, 3, g.shape)
    np.testing.assert_array_equal(codes[0], [6, 0, 3])
    assert (codes[1, 0] in (4, 5)) & (codes[1, 1] in (1, 2)) & (codes[1, 2] in (3, 4))
    empty = jnp.zeros((0, 3))
    assert Stochastic().decode(Stochastic().encode(empty, jax.random.key(0)), empty).shape == (0, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 1}, "gradient bits must be 2 to 16, not 1"),
        ({"bits": 17}, "gradient bits must be 2 to 16, not 17"),
        ({"clip": 0.0}, "clip must be positive and finite, in standard deviations, not 0.0"),
        ({"clip": -1.0}, "clip must be positive .* not -1.0"),
        ({"clip": float("nan")}, "clip must be positive .* not nan"),
        ({"clip": float("inf")}, "clip must be positive .* not inf"),
    ],
)
def test_mistakes(settings, message):
    with pytest.raises(ValueError, match=message) as error:
        Stochastic(**settings)
    assert "\n" not in str(error.value)
