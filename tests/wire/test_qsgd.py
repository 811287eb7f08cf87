"""QSGD: levels in units of the 2-norm, without bias."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtrain.wire import QSGD, Stochastic

UNIT = 2.0**-24
DRAWS = 100_000
D = 8


@functools.partial(jax.jit, static_argnums=0)
def send(codec, g, keys):
    """(draws, D) decoded."""
    return jax.vmap(lambda key: codec.decode(codec.encode(g, key), g))(keys)


def gradient(magnitude: float = 1.0) -> np.ndarray:
    g = np.random.default_rng(2).normal(size=D) * magnitude
    g[:2] = 0, 1e-3 * magnitude
    return g.astype(np.float32)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_unbiased_on_levels_of_the_norm(bits):
    """Means of 1e5 draws within five standard errors; levels |g| l / s, beside each value.

    The norm errs by 8 u, as do shares; levels have 4 u more; chances are rounded to 2^-24.

    Kills: wire/qsgd.py: `jnp.sum((g / unit) ** 2)` -> `jnp.max(...)`; `jnp.sqrt` removed; in
    wire/stochastic.py: `cast(..., key)` without the key.
    """
    g, codec = gradient(), QSGD(bits=bits)
    got = np.asarray(send(codec, g, jax.random.split(jax.random.key(bits), DRAWS)), np.float64)
    exact, s = g.astype(np.float64), 2 ** (bits - 1) - 1
    step = np.sqrt((exact**2).sum()) / s
    assert np.abs(got / step - np.rint(got / step)).max() <= 16 * UNIT * s
    assert np.abs(got - exact).max() <= step * (1 + 32 * UNIT * s)
    p = np.abs(exact) / step % 1
    error = np.sqrt(p * (1 - p) / DRAWS + 1 / DRAWS**2) * step
    assert (np.abs(got.mean(0) - exact) <= 5 * error + 32 * UNIT * s * step).all()


@pytest.mark.parametrize("magnitude", [1e-30, 1e-20, 1e20, 1e37])
def test_the_norm_does_not_depend_on_the_unit(magnitude):
    """Kills: wire/qsgd.py: `largest * jnp.sqrt(jnp.sum((g / unit) ** 2))` ->
    `jnp.sqrt(jnp.sum(g**2))`.
    """
    g = gradient(magnitude)
    scale = float(QSGD().encode(g, jax.random.key(0)).scale)
    assert scale == pytest.approx(np.linalg.norm(g.astype(np.float64)), rel=2 * D * UNIT)


def test_one_number_is_sent_as_it_is():
    """Its norm is its size, so its level is the last one."""
    for value in (0.3, -1e-20, 7e30):
        g = jnp.array([value, 0.0, 0.0])
        got = QSGD(bits=3).decode(QSGD(bits=3).encode(g, jax.random.key(0)), g)
        np.testing.assert_array_equal(got, g)


def test_zeros_stay_and_what_is_not_finite_is_seen():
    """Kills: wire/qsgd.py: `jnp.where(largest == 0, 1, largest)` -> `largest`."""
    zeros, keys = jnp.zeros(D), jax.random.split(jax.random.key(0), 8)
    np.testing.assert_array_equal(send(QSGD(), zeros, keys), 0)
    for bad in (np.nan, np.inf, -np.inf):
        assert (~np.isfinite(send(QSGD(), zeros.at[2].set(bad), keys))).any(axis=1).all()
    empty = jnp.zeros((0, 3))
    assert QSGD().decode(QSGD().encode(empty, keys[0]), empty).shape == (0, 3)


def test_as_wide_as_a_stochastic_code():
    """The payload and its decoding are those of `Stochastic`."""
    g = jnp.asarray(gradient()).astype(jnp.bfloat16)
    packed = QSGD(bits=4).encode(g, jax.random.key(0))
    assert packed.words.shape == Stochastic(bits=4).encode(g, jax.random.key(0)).words.shape
    got = QSGD(bits=4).decode(packed, g)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got, Stochastic(bits=4).decode(packed, g))
    assert QSGD(bits=4).levels == 7
    assert QSGD().describe() == "QSGD, 8 bits"
    with pytest.raises(ValueError, match="gradient bits must be 2 to 16, not 1"):
        QSGD(bits=1)
