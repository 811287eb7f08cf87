"""PACT: the cut and its two gradients, levels of a fixed cut-off, and a model that learns it."""

import functools

import hypothesis as hp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import qtrain as qt
from qtrain.nn import Learned, Rule, quantize_model
from qtrain.zoo.pact import METHODS, Pact, PactModule, pact

UNIT = 2.0**-24
N = 64
BITS = (1, 2, 4, 8)
PICK = hp.settings(max_examples=20)
CUTS = st.floats(2.0**-10, 100, width=32)
run = functools.partial(jax.jit, static_argnums=2)(pact)


@functools.partial(jax.jit, static_argnums=2)
def gradients(x, alpha, bits, g):
    """Of the sum of g y, in x and in the cut-off."""
    return jax.grad(lambda x, a: (g * pact(x, a, bits)).sum(), argnums=(0, 1))(x, alpha)


def inputs(seed: int, alpha: float) -> np.ndarray:
    """Below, in and above the range, with its ends and their neighbours."""
    x = (np.random.default_rng(seed).uniform(-0.5, 1.5, N) * alpha).astype(np.float32)
    alpha = np.float32(alpha)
    below = np.nextafter(alpha, np.float32(0))
    x[:6] = 0, -0.0, alpha, below, np.nextafter(alpha, np.float32(np.inf)), -alpha
    return x


@pytest.mark.parametrize("bits", BITS)
@PICK
@hp.given(alpha=CUTS, seed=st.integers(0, 999))
def test_levels_of_a_fixed_cut(bits, alpha, seed):
    """2^bits levels j a / n, half a step from clip(x, 0, a) at most; a second time changes nothing.

    x / a, n times it, j / n and the product are rounded: 2 u a of the error, 2 u of a level.

    Kills: zoo/pact.py: `q_k(y / jnp.where(a == 0, 1, a), bits)` -> `q_k(y, bits)`.
    """
    x, n, a = inputs(seed, alpha), 2**bits - 1, np.float64(alpha)
    y = np.asarray(run(x, jnp.float32(alpha), bits))
    np.testing.assert_array_equal(y, pact(jnp.asarray(x), jnp.float32(alpha), bits))
    codes = y / a * n
    assert np.abs(codes - np.rint(codes)).max() <= 2 * n * UNIT
    assert len(np.unique(y)) <= 2**bits
    assert np.abs(y - np.clip(x.astype(np.float64), 0, a)).max() <= a * (0.5 / n + 3 * UNIT)
    assert y[2] == y[4] == np.float32(alpha)
    np.testing.assert_array_equal(run(y, jnp.float32(alpha), bits), y)
    assert (np.diff(y[np.argsort(x)]) >= 0).all()


@pytest.mark.parametrize("bits", BITS)
@PICK
@hp.given(alpha=CUTS, seed=st.integers(0, 999))
def test_gradients_are_those_of_the_cut(bits, alpha, seed):
    """dy/dx = 1{0 <= x < a} and dy/da = 1{x >= a}, exactly, also at 0 and at a.

    The sum over x of whole numbers is exact.

    Kills: zoo/pact.py: `x >= alpha` -> `x > alpha`; `x < 0` -> `x <= 0`; the cut by
    `jnp.clip(x, 0, alpha)`, which halves the gradient at the ends.
    """
    x = inputs(seed, alpha)
    g = np.random.default_rng(seed).integers(-9, 9, N).astype(np.float32)
    dx, da = gradients(x, jnp.float32(alpha), bits, g)
    np.testing.assert_array_equal(dx, g * ((x >= 0) & (x < np.float32(alpha))))
    assert da == g[x >= np.float32(alpha)].sum()


@pytest.mark.parametrize("bits", BITS)
def test_zeros_and_nan(bits):
    """Kills: zoo/pact.py: `jnp.where(a == 0, 1, a)` -> `a`."""
    x = jnp.array([0.0, -1.0, np.nan, 2.0])
    np.testing.assert_array_equal(run(x, jnp.float32(1), bits), [0, 0, np.nan, 1])
    np.testing.assert_array_equal(run(x, jnp.float32(0), bits), [0, 0, np.nan, 0])
    assert np.isfinite(jax.tree.leaves(gradients(x, jnp.float32(0), bits, jnp.ones(4)))[1])
    assert run(x.astype(jnp.bfloat16), jnp.float32(1), bits).dtype == jnp.bfloat16


def model(bits: int = 3) -> nnx.Linear:
    places = METHODS[0].settings(bits, bits)
    config = qt.DotConfig(lhs=places["activation"], rhs=places["weight"])
    net = nnx.Sequential(nnx.Linear(N, 3, rngs=nnx.Rngs(0)))
    return quantize_model(net, [Rule(".*", config)])


def test_a_model_learns_its_cut():
    """Forward and gradient under jit: the cut-off is a parameter with weight decay, and gets the
    sum of what comes back to the inputs beyond it.

    Products of 3 terms are added in any order: 3 u of their sizes, in each of 64 x 8 terms.

    Kills: zoo/pact.py: `decay=True` -> `decay=False`; `jnp.float32(settings.alpha)` -> 1.
    """
    net = model()
    graph, params, rest = nnx.split(net, nnx.Param, ...)
    (alpha,) = (v for v in jax.tree.leaves(params, is_leaf=lambda v: isinstance(v, Learned))
                if isinstance(v, Learned))  # fmt: skip
    assert alpha.decay
    assert alpha[...] == 10
    x = 12 * jax.random.normal(jax.random.key(1), (8, N))

    @jax.jit
    def step(params, x):
        return jax.value_and_grad(
            lambda params: nnx.merge(graph, params, rest, copy=True)(x).sum()
        )(params)

    y, grads = step(params, x)
    kernel = METHODS[0].settings(3, 3)["weight"](net.layers[0].kernel[...])
    back = np.asarray(kernel, np.float64).sum(1)
    (da,) = (v for v in jax.tree.leaves(grads) if v.ndim == 0)
    want = ((np.asarray(x) >= 10) * back).sum()
    np.testing.assert_allclose(da, want, atol=(3 + 8 * N) * UNIT * 8 * N * np.abs(kernel).max())
    assert np.isfinite(y)
    assert want != 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 0}, "activation bits must be 1 to 16, not 0"),
        ({"alpha": 0.0}, "alpha must be positive and finite, not 0.0"),
        ({"alpha": float("nan")}, "alpha must be positive and finite, not nan"),
        ({"alpha": float("inf")}, "alpha must be positive and finite, not inf"),
    ],
)
def test_mistakes(settings, message):
    with pytest.raises(ValueError, match=message) as error:
        Pact(**settings)
    assert "\n" not in str(error.value)


def test_in_words():
    assert Pact(bits=2).describe() == "2 bits in [0, a], a learned"
    assert isinstance(Pact().module(jnp.zeros((2, 2))), PactModule)
