"""ABC-Net against its definition in numpy, in float64."""

import functools

import hypothesis as hp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from scipy.stats import norm

from qtrain import nn
from qtrain.ops import DotConfig
from qtrain.zoo.abc_net import METHODS, AbcActivations, AbcWeights, bases, fit, moments, shifts

F = np.float32
UNIT = 2.0**-24  # unit roundoff of float32
SHAPE = (3, 4, 10)
SEEDS = st.integers(0, 999)


def weights(seed: int) -> np.ndarray:
    """Normal or heavy-tailed, of any size, off zero."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=SHAPE) if seed % 2 else rng.standard_t(4, SHAPE)
    return ((w + rng.normal() / 4) * 2.0 ** rng.integers(-6, 3)).astype(F)


def normal(size: int) -> np.ndarray:
    """The quantiles of N(0, 1)."""
    return norm.ppf((np.arange(size) + 0.5) / size).astype(F)


@functools.partial(jax.jit, static_argnums=0)
def quantize(quantizer, w):
    return quantizer(w)


@functools.partial(jax.jit, static_argnums=0)
def gradient(quantizer, w, g):
    """Of sum(quantizer(w) g)."""
    return jax.grad(lambda w: jnp.sum(quantizer(w) * g))(w)


def signs_of(w: np.ndarray, count: int) -> np.ndarray:
    """(count, size), by the definition; without weights that rounding could put on either side.

    Returns None where there are such: mean and deviation are off by (size + 4) roundings each.
    """
    w = w.astype(float).ravel()
    u = np.linspace(-1, 1, count) if count > 1 else np.zeros(1)
    x = w - w.mean() + u[:, None] * w.std()
    if (np.abs(x) < (w.size + 8) * UNIT * (np.abs(w).mean() + w.std())).any():
        return None
    return np.where(x < 0, -1.0, 1.0)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@hp.given(seed=SEEDS)
def test_least_squares_of_the_bases(count, seed):
    """The projection of w on its signs, of M + 1 levels at most, within the rounding of M sums.

    numpy's own least squares as the oracle. The pivots are large here: signs differ in at least
    two of 120 weights, so scales lose a factor 120 at most.
    Kills: zoo/abc_net.py: `np.linspace(-1, 1, count` -> `np.linspace(0, 1, count`;
    `x - mean + product` -> `x + product`; `jnp.sqrt(product(` -> `(product(`.
    """
    w = weights(seed)
    signs = signs_of(w, count)
    hp.assume(signs is not None)
    q = np.asarray(quantize(AbcWeights(bits=count), w))
    scales = np.linalg.lstsq(signs.T, w.astype(float).ravel(), rcond=None)[0]
    size = np.abs(w).max()
    np.testing.assert_allclose(q.ravel(), scales @ signs, atol=120 * 16 * UNIT * size)
    assert len(np.unique(q)) <= count + 1


@hp.given(seed=SEEDS)
def test_no_other_scales_are_better(seed):
    """Of 100 near by; in float64, with the float32 scales.

    At the least error, a change d of the scales by rounding costs |B d|^2.
    """
    w, count = weights(seed), 3
    signs = np.asarray(_bases(count, w), float).reshape(count, -1)
    scales = np.asarray(_scales(count, w), float)
    noise = np.random.default_rng(seed).normal(size=(100, count)) * np.abs(scales).max() / 30
    errors = ((w.astype(float).ravel() - (scales + noise) @ signs) ** 2).sum(-1)
    best = ((w.astype(float).ravel() - scales @ signs) ** 2).sum()
    assert (best <= errors * (1 + 1e-9)).all()


@functools.partial(jax.jit, static_argnums=0)
def _bases(count, w):
    return bases(w, count)


@functools.partial(jax.jit, static_argnums=0)
def _scales(count, w):
    return fit(w, bases(w, count)).scales[:, 0]


def test_error_on_normal_weights():
    """0.364, 0.118 and 0.078 of the variance for 1, 3 and 5 bases; less with each base.

    Computed, +-0.003. Rising, and odd as the quantiles are.
    """
    w = normal(20_000)
    found = {m: np.asarray(quantize(AbcWeights(bits=m), w)) for m in range(1, 6)}
    error = {m: ((q.astype(float) - w) ** 2).mean() for m, q in found.items()}
    for m, want in ((1, 0.364), (3, 0.118), (5, 0.078)):
        assert abs(error[m] - want) <= 0.003
        assert (np.diff(found[m]) >= 0).all()
        np.testing.assert_allclose(found[m], -found[m][::-1], atol=1e-3)
    assert list(error.values()) == sorted(error.values(), reverse=True)


@hp.given(seed=SEEDS)
def test_more_bases_of_which_some_are_the_same_err_less(seed):
    """The bases of 2 are among those of 3, of 1 among 3, of 3 among 5: error does not grow.

    In units of sum w^2, off by the rounding of M sums for each weight.
    Kills: zoo/abc_net.py: `np.zeros(1, np.float32)` -> `-np.ones(1, np.float32)`.
    """
    w = weights(seed)
    unit = (w.astype(float) ** 2).sum()
    error = {
        m: ((np.asarray(quantize(AbcWeights(bits=m), w), float) - w) ** 2).sum()
        for m in (1, 2, 3, 5)
    }
    for few, many in ((1, 3), (2, 3), (3, 5)):
        assert error[many] <= error[few] + 1e-5 * unit
    # one base is BWN of what is left of the mean, no worse than any scale of those signs
    signs = np.where(w - w.mean() < 0, -1, 1)
    assert error[1] <= ((signs * np.abs(w - w.mean()).mean() - w) ** 2).sum() + 1e-5 * unit


@hp.given(seed=SEEDS)
def test_gradient_of_weights(seed):
    """The gradient at the sum, times the sum of scales.

    Kills: zoo/abc_net.py: `with_gain(q, w, jnp.sum(found.scales))` -> `straight_through(lambda _:
    q, w)`.
    """
    w, g = weights(seed), np.random.default_rng(seed).normal(size=SHAPE).astype(F)
    total = np.asarray(_scales(3, w), float).sum()
    got = gradient(AbcWeights(bits=3), w, g)
    np.testing.assert_allclose(got, total * g, rtol=1e-5)


def test_the_same_bits_without_jit():
    w = jnp.asarray(weights(1))
    np.testing.assert_array_equal(AbcWeights(bits=3)(w), quantize(AbcWeights(bits=3), w))


def test_nan_zeros_and_equal_weights():
    """All bases of a constant are alike: one scale carries it."""
    run = functools.partial(quantize, AbcWeights(bits=3))
    w = weights(0)
    np.testing.assert_array_equal(run(np.zeros_like(w)), np.zeros_like(w))
    np.testing.assert_array_equal(run(np.full_like(w, 0.75)), np.full_like(w, 0.75))
    for bad in (np.nan, np.inf):
        w[0, 0, 0] = bad
        assert not np.isfinite(run(w)).any()
    assert np.isfinite(gradient(AbcWeights(bits=3), np.zeros_like(w), np.ones_like(w))).all()


# activations


def module(count: int, v, beta):
    """With these learned numbers."""
    found = AbcActivations(bits=count).module()
    found.shift[...], found.scale[...] = jnp.asarray(v, F), jnp.asarray(beta, F)
    return found


V, BETA = (0.9, 0.5, -0.25), (0.5, 1.0, 0.25)  # multiples of 1/4, but for one


def definition(x, v, beta):
    """A_n = 1 where clip(x + v_n, 0, 1) >= 1/2, else -1, each x + v_n a float32 number."""
    z = np.clip(x[..., None] + np.asarray(v, F), 0, 1)
    return np.where(z >= F(0.5), 1.0, -1.0) @ np.asarray(beta, float)


def test_activations_by_the_definition():
    """Thresholds are at 1/2 - v_n, and belong to the upper side.

    Kills: zoo/abc_net.py: `sign(z - 0.5)` -> `sign(z)`; `total + beta * code` -> `total + code`.
    """
    x = np.concatenate([np.linspace(-2, 2, 257), F(0.5) - np.array(V, F)]).astype(F)
    got = np.asarray(_sum(x, jnp.array(V), jnp.array(BETA)))
    np.testing.assert_allclose(got, definition(x, V, BETA), atol=4 * UNIT)
    assert len(np.unique(got)) <= 4
    assert (np.diff(got[:257]) >= 0).all()  # all scales are positive
    assert np.isnan(module(3, V, BETA)(jnp.array([0.0, np.nan]))).tolist() == [False, True]


@hp.given(seed=SEEDS)
def test_gradients_of_activations(seed):
    """x and v_n: of beta_n clip(x + v_n, 0, 1); beta_n: the sum of the codes.

    Kills: zoo/abc_net.py: `clip=(0, 1)` -> `clip=(-1, 1)`; `x + v, clip` -> `x +
    jax.lax.stop_gradient(v), clip`.
    """
    rng = np.random.default_rng(seed)
    x, g = rng.normal(size=64).astype(F), rng.normal(size=64).astype(F)
    dx, dv, dbeta = _gradients(_sum, x, jnp.array(V), jnp.array(BETA), g)
    wx, wv, _ = _gradients(_soft, x, jnp.array(V), jnp.array(BETA), g)
    np.testing.assert_allclose(dx, wx, atol=16 * UNIT * np.abs(g).max())
    np.testing.assert_allclose(dv, wv, atol=128 * UNIT * np.abs(g).sum())
    codes = np.where(np.clip(x[:, None] + np.asarray(V, F), 0, 1) >= F(0.5), 1.0, -1.0)
    np.testing.assert_allclose(dbeta, g @ codes, atol=64 * UNIT * np.abs(g).sum())


@functools.partial(jax.jit, static_argnums=0)
def _gradients(f, x, v, beta, g):
    return jax.grad(lambda *a: jnp.sum(f(*a) * g), (0, 1, 2))(x, v, beta)


def _sum(x, v, beta):
    found = AbcActivations(bits=3).module()
    found.shift[...], found.scale[...] = v, beta
    return found(x)


def _soft(x, v, beta):
    return jnp.clip(x[:, None] + v, 0, 1) @ beta


def test_corners_of_the_gate_are_open():
    """1{0 <= x + v <= 1} with both ends."""
    x = jnp.array([-0.5, 0.5, np.nextafter(F(-0.5), F(-1)), 0.5 + 2.0**-22])
    got = jax.grad(lambda x: module(1, (0.5,), (2.0,))(x).sum())(x)
    np.testing.assert_array_equal(got, [2, 2, 0, 0])


@pytest.mark.parametrize("count", [1, 3])
def test_first_values_are_those_of_weights(count):
    """Calibrated on an operand, activations are what the weights' rule makes of it.

    Kills: zoo/abc_net.py: `0.5 - mean + shifts` -> `0.5 + mean + shifts`; `shifts(count) * std` ->
    `shifts(count)`.
    """
    x = jnp.asarray(weights(5))
    assert signs_of(np.asarray(x), count) is not None
    found = AbcActivations(bits=count).module()
    assert len(np.unique(found(x))) > 1
    found.calibrate(x)
    np.testing.assert_allclose(found(x), quantize(AbcWeights(bits=count), x), rtol=1e-5, atol=1e-6)
    mean, std = moments(x)
    np.testing.assert_allclose(found.shift[...], 0.5 - mean + shifts(count) * std, rtol=1e-6)


def test_mistakes_and_words():
    for setting, name in ((AbcWeights, "weight"), (AbcActivations, "activation")):
        with pytest.raises(ValueError, match=f"ABC-Net {name} bits must be 1 to 8, not 9"):
            setting(bits=9)
    assert AbcWeights(bits=3).describe() == "3 sign bases"
    assert AbcActivations(bits=2).describe() == "2 sign bases, learned"


def test_in_a_model():
    """M N binary convolutions, weighted; calibrated; every learned number has a gradient."""
    (method,) = METHODS
    places = method.settings(3, 2)
    model = nnx.Conv(2, 4, (3, 3), use_bias=False, rngs=nnx.Rngs(0))
    rule = nn.Rule(".*", DotConfig(lhs=places["activation"], rhs=places["weight"]))
    nn.quantize_model(model, [rule])
    x = jax.random.normal(jax.random.key(1), (2, 5, 5, 2))
    nn.calibrate(model, x)
    loss = lambda m, x: (jnp.sum(m(x) ** 2), m(x))  # noqa: E731
    (_, y), grads = nnx.jit(nnx.value_and_grad(loss, has_aux=True))(model, x)
    w, a = fit(model.kernel[...], bases(model.kernel[...], 3)), fit(x, bases(x, 2))
    want = sum(
        alpha * beta * _conv(code.reshape(x.shape), base.reshape(3, 3, 2, 4))
        for alpha, base in zip(w.scales, w.codes, strict=True)
        for beta, code in zip(a.scales, a.codes, strict=True)
    )
    np.testing.assert_allclose(y, want, atol=1e-4)
    leaves = jax.tree.leaves(nnx.state(grads, nnx.Param))
    assert len(leaves) == 3
    assert all((np.asarray(g) != 0).all() for g in leaves)


def _conv(x, w):
    return lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
