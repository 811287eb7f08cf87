"""signSGD: one bit of each number, and a mean of signs over workers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtrain.wire import Sign, exchange, unpack

CODEC = Sign()


@jax.jit
def send(g):
    return CODEC.decode(CODEC.encode(g), g)


def test_signs_and_their_bits():
    """-1 below 0, else +1; the first number is in the lowest bit.

    Kills: wire/sign.py: `g >= 0` -> `g > 0`.
    """
    g = jnp.array([[0.5, -1e-30], [0.0, -0.0], [-7.0, 1e30]])
    want = [[1, -1], [1, 1], [-1, 1]]
    np.testing.assert_array_equal(send(g), want)
    np.testing.assert_array_equal(CODEC.decode(CODEC.encode(g), g), want)
    packed = CODEC.encode(g)
    np.testing.assert_array_equal(unpack(packed.words, 1, (6,)), [1, 0, 1, 1, 0, 1])
    assert CODEC.encode(jnp.ones(64)).words.shape == (2,)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_zeros_stay_and_what_is_not_finite_is_seen(dtype):
    """Kills: wire/sign.py: `jnp.where(largest > 0, jnp.float32(1), 0)` -> 1;
    `jnp.where(jnp.isfinite(largest), scale, jnp.nan)` -> `scale`.
    """
    zeros = jnp.zeros((3, 5), dtype)
    got = send(zeros)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, 0)
    for bad in (np.nan, np.inf, -np.inf):
        assert np.isnan(send(zeros.at[1, 1].set(bad))).all()
    assert send(jnp.zeros((0, 3))).shape == (0, 3)
    assert Sign() == Sign()
    assert Sign().describe() == "sign"


def test_workers_average_their_signs():
    """Three against one: the mean is 1/2, where a vote would be 1.

    Kills: wire/sign.py: `packed.scale, -packed.scale` swapped.
    """
    g = jnp.array([[1.0, 2.0], [3.0, -1.0], [-5.0, -1.0], [0.1, -9.0]])
    mean = functools.partial(exchange, CODEC, axis_name="workers")
    run = jax.jit(jax.vmap(lambda g: mean(g, jax.random.key(0)), axis_name="workers"))
    np.testing.assert_array_equal(run(g), [[0.5, -0.5]] * 4)
