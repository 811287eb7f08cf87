"""What the two backward GEMMs see of the error [banner2018scalable, Sec. 4]: bifurcation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qtrain as qt
from qtrain.ops import conv_general_dilated, dot_general
from qtrain.quantize import Affine, fold

KEY = jax.random.key(5)
COARSE = Affine(bits=3, rounding="stochastic")
FINE = Affine(bits=16, rounding="stochastic")


def normal(seed: int, shape) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def pullback(kind, **roles):
    """Error to the gradients of activation and weight."""
    chosen = qt.DotConfig(**roles)
    if kind == "dot":
        f = functools.partial(
            dot_general, dimension_numbers=(((1,), (0,)), ((), ())), config=chosen, key=KEY
        )
        return _pull(f, normal(0, (6, 8)), normal(1, (8, 5))), normal(2, (6, 5))
    f = functools.partial(
        conv_general_dilated, window_strides=(1, 1), padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"), config=chosen, key=KEY,
    )  # fmt: skip
    return _pull(f, normal(0, (2, 4, 4, 3)), normal(1, (3, 3, 3, 2))), normal(2, (2, 4, 4, 2))


def _pull(f, a, b):
    def pull(error):
        return jax.vjp(f, a, b)[1](error)

    return jax.jit(pull)


@functools.partial(jax.jit, static_argnums=(0, 2))
def rounded(quantizer, error, role):
    """The error as the op rounds it in that role."""
    return quantizer(error, fold(KEY, role))


@pytest.mark.parametrize("kind", ["dot", "conv"])
def test_the_weight_gradient_sees_the_error_itself(kind):
    """And the input gradient its quantized copy, by the random bits of "dgrad"."""
    (pull, error), (plain, _) = pullback(kind, dgrad=COARSE), pullback(kind)
    dx, dw = pull(error)
    np.testing.assert_array_equal(dw, plain(error)[1])
    np.testing.assert_array_equal(dx, plain(rounded(COARSE, error, "dgrad"))[0])
    assert (dx != plain(error)[0]).any()


@pytest.mark.parametrize("kind", ["dot", "conv"])
def test_without_it_both_see_the_same_bits(kind):
    """Kills: `config.wgrad != config.dgrad` -> `True` in ops/dot.py and ops/conv.py."""
    (pull, error), (plain, _) = pullback(kind, dgrad=COARSE, wgrad=COARSE), pullback(kind)
    for got, want in zip(pull(error), plain(rounded(COARSE, error, "dgrad")), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("kind", ["dot", "conv"])
def test_two_widths_draw_bits_of_their_own(kind):
    """The poster's 16 bits for the weight gradient."""
    (pull, error), (plain, _) = pullback(kind, dgrad=COARSE, wgrad=FINE), pullback(kind)
    dx, dw = pull(error)
    np.testing.assert_array_equal(dx, plain(rounded(COARSE, error, "dgrad"))[0])
    np.testing.assert_array_equal(dw, plain(rounded(FINE, error, "wgrad"))[1])


@pytest.mark.parametrize("kind", ["dot", "conv"])
def test_the_mean_weight_gradient_is_that_of_the_error(kind):
    """Stochastic rounding has no bias inside the range: E[dw] by quantized errors is dw.

    dw sums activation times rounding error, each with a standard deviation of at most S/2: the
    mean of 400 draws is within 4 sqrt(sum |x|^2) S / 2 / sqrt(400).
    """
    (plain, error) = pullback(kind)
    low, high = COARSE.bounds(error)
    step = np.asarray(high - low).item() / 7
    keys = jax.random.split(jax.random.key(0), 400)
    mean = jax.jit(lambda e: jnp.mean(jax.vmap(lambda k: plain(COARSE(e, k))[1])(keys), 0))
    # every weight is reached by at most all activations once
    reach = np.linalg.norm(normal(0, (6, 8) if kind == "dot" else (2, 4, 4, 3)).ravel())
    assert (np.abs(mean(error) - plain(error)[1]) <= 4 * reach * step / 2 / 20).all()
