"""BWN and XNOR-Net against their definitions in numpy, in float64."""

import functools

import hypothesis as hp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from qtrain import nn
from qtrain.ops import DotConfig
from qtrain.optim import LossAware
from qtrain.zoo.xnor import BWN, METHODS, XNOR, input_scale

F = np.float32
UNIT = 2.0**-24  # unit roundoff of float32
SHAPE = (3, 3, 4, 6)  # a kernel: six filters of N weights
N = 36
SEEDS = st.integers(0, 999)


def weights(seed: int) -> np.ndarray:
    """Normal, each filter of its own size; zeros, and a filter with ones and minus ones."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=SHAPE) * 2.0 ** rng.integers(-6, 3, SHAPE[-1])
    w[0, 0, :2, 0] = 0.0, -0.0
    w[0, 0, :2, 1] = 1.0, -1.0
    return w.astype(F)


@functools.partial(jax.jit, static_argnums=0)
def quantize(quantizer, w):
    return quantizer(w)


@functools.partial(jax.jit, static_argnums=0)
def gradient(quantizer, w, g):
    """Of sum(quantizer(w) g)."""
    return jax.grad(lambda w: jnp.sum(quantizer(w) * g))(w)


def scaled_signs(w: np.ndarray) -> np.ndarray:
    """Float64: mean |w| of each filter times the sign."""
    alpha = np.abs(w.astype(float)).mean(tuple(range(w.ndim - 1)))
    return alpha * np.where(w < 0, -1, 1)


@hp.given(seed=SEEDS)
def test_scaled_signs(seed):
    """Two values per filter, within rounding of the mean; the same a second time; odd but for
    zeros; monotone in each filter.

    A sum of N positive terms, its product with 1 / N and what it leaves: N + 4 roundings at most.
    Kills: zoo/xnor.py: `BinaryCodes(bits=1)` -> `BinaryCodes(bits=1, per="layer")`.
    """
    w = weights(seed)
    q = np.asarray(quantize(BWN(), w))
    np.testing.assert_allclose(q, scaled_signs(w), rtol=(N + 4) * UNIT)
    np.testing.assert_array_equal(np.abs(q), np.broadcast_to(np.abs(q[0, 0, 0]), SHAPE))
    np.testing.assert_array_equal(quantize(BWN(), q), q)
    other = np.asarray(quantize(BWN(), -w))
    np.testing.assert_array_equal(other[w != 0], -q[w != 0])
    order = np.argsort(w.reshape(N, -1), axis=0)
    assert (np.diff(np.take_along_axis(q.reshape(N, -1), order, 0), axis=0) >= 0).all()


@hp.given(seed=SEEDS)
def test_no_other_scale_is_better(seed):
    """Of 100 near by, in each filter; float64, where alpha is off by (N + 4) u."""
    w = weights(seed).astype(float)
    q = np.asarray(quantize(BWN(), w.astype(F)), float)
    factors = 1 + np.random.default_rng(seed).normal(size=(100, 1, 1, 1, 1)) / 10
    over = (-4, -3, -2)
    error, others = ((q - w) ** 2).sum(over), ((q * factors - w) ** 2).sum(over)
    assert (error <= others + ((q * (N + 4) * UNIT) ** 2).sum(over) + 1e-12 * error).all()


def test_even_curvature_is_loss_aware_binarization():
    """With equal second moments LAB is BWN of one filter [hou2018lossaware]."""
    w = jnp.asarray(weights(0)[..., :1])
    want = LossAware(bits=1)(w, jnp.full(w.shape, 0.25))
    np.testing.assert_allclose(quantize(BWN(), w), want, rtol=4 * (N + 4) * UNIT)


def surrogate(w):
    """Its derivative is the printed rule: w / n + alpha hard tanh(w), alpha held."""
    alpha = jnp.mean(jnp.abs(lax.stop_gradient(w)), (0, 1, 2))
    return w / N + alpha * jnp.clip(w, -1, 1)


@hp.given(seed=SEEDS)
def test_printed_gradient(seed):
    """That of the surrogate off its corners, where the gate is open.

    Kills: zoo/xnor.py: `jnp.abs(fixed) <= 1, alpha + 1 / n, 1 / n` -> `... < 1, ...`, `alpha + 1 /
    n, 0`; `x.size // max(x.shape[-1], 1), 1)` -> `x.size, 1)`.
    """
    w, g = weights(seed), np.random.default_rng(seed).normal(size=SHAPE).astype(F)
    got = np.asarray(gradient(BWN(), w, g))
    want = np.asarray(gradient(surrogate, w, g))
    corner = np.abs(w) == 1
    np.testing.assert_allclose(got[~corner], want[~corner], rtol=(N + 8) * UNIT)
    alpha = np.broadcast_to(np.abs(scaled_signs(w)), SHAPE)
    np.testing.assert_allclose(got[corner], (g * (1 / N + alpha))[corner], rtol=(N + 8) * UNIT)
    assert corner.sum() >= 2


def test_gradient_and_weights_of_the_code():
    """(alpha 1{|w| < 1} + 1 / n) n (1 - 1 / c) for the gradient; centred over c, then clipped.

    Kills: zoo/xnor.py: `jnp.abs(fixed) < 1` -> `<= 1`; `n * (1 - 1 / shape[-2])` -> `n`;
    `axis=-2` -> `axis=-1`.
    """
    w, g, code = weights(3), np.ones(SHAPE, F), BWN(rule="code")
    alpha = np.abs(scaled_signs(w))
    want = (alpha * (np.abs(w) < 1) + 1 / N) * N * (1 - 1 / 4)
    np.testing.assert_allclose(gradient(code, w, g), want, rtol=(N + 8) * UNIT)
    np.testing.assert_array_equal(quantize(code, w), quantize(BWN(), w))
    moved, state = code.project(jnp.asarray(w), (), jnp.int32(0), 1)
    centred = w.astype(float) - w.astype(float).mean(2, keepdims=True)
    np.testing.assert_allclose(moved, np.clip(centred, -1, 1), atol=8 * UNIT * np.abs(w).max())
    assert state == ()
    kept, _ = BWN().project(jnp.asarray(w), (), jnp.int32(0), 1)
    np.testing.assert_array_equal(kept, w)


@pytest.mark.parametrize("quantizer", [BWN(), BWN(rule="code")])
def test_nan_zeros_and_one_weight(quantizer):
    w = jnp.asarray(weights(0)).at[1, 1, 1, 2].set(jnp.nan)
    bad = np.isnan(quantize(quantizer, w))
    np.testing.assert_array_equal(bad.any((0, 1, 2)), np.arange(6) == 2)
    assert bad[..., 2].all()
    zeros = jnp.zeros(SHAPE)
    np.testing.assert_array_equal(quantize(quantizer, zeros), zeros)
    assert np.isfinite(gradient(quantizer, zeros, zeros + 1)).all()


# the layer


def convolution(strides, padding, groups, rank=2):
    """The layer's own op: channels last."""
    numbers = ("NHWC", "HWIO", "NHWC")
    return lambda x, w: lax.conv_general_dilated(
        x, w, (strides,) * rank, [padding] * rank, dimension_numbers=numbers,
        feature_group_count=groups,
    )  # fmt: skip


def by_loops(x, w, strides, padding, groups, scaled):
    """sum of sign(x) sign(w), times alpha of the filter, times the mean |x| that it sees."""
    low, high = padding
    signs = np.pad(np.where(x < 0, -1.0, 1.0), [(0, 0), (low, high), (low, high), (0, 0)])
    sizes = np.pad(np.abs(x.astype(float)), [(0, 0), (low, high), (low, high), (0, 0)])
    kh, kw, cin, cout = w.shape
    rows = (signs.shape[1] - kh) // strides + 1
    columns = (signs.shape[2] - kw) // strides + 1
    y = np.zeros((len(x), rows, columns, cout))
    for n, i, j, o in np.ndindex(y.shape):
        group = o // (cout // groups)
        here = (
            n, slice(i * strides, i * strides + kh), slice(j * strides, j * strides + kw),
            slice(group * cin, (group + 1) * cin),
        )  # fmt: skip
        alpha = np.abs(w[..., o].astype(float)).mean()
        count = (signs[here] * np.where(w[..., o] < 0, -1, 1)).sum()
        y[n, i, j, o] = count * alpha * (sizes[here].mean() if scaled else 1)
    return y


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize(
    ("strides", "padding", "groups"), [(1, (1, 1), 1), (2, (0, 1), 1), (1, (0, 0), 2)]
)
def test_convolution_by_loops(strides, padding, groups, scaled):
    """On a tiny one. Sums of 18 terms, each off by alpha's roundings; K likewise.

    Kills: zoo/xnor.py: `kernel.shape[-1] / kernel.size` -> `1 / kernel.shape[-2]`;
    `jnp.repeat(scale, kernel.shape[-1] // groups, axis=-1)` -> `jnp.tile(scale, kernel.shape[-1]
    // groups)`; `jnp.abs(lax.stop_gradient(x))` -> `lax.stop_gradient(x)`.
    """
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, 5, 5, 2 * groups)).astype(F)
    w = rng.normal(size=(3, 3, 2, 4)).astype(F)
    layer = XNOR(input_scale=scaled).module()
    op = convolution(strides, padding, groups)
    got = jax.jit(lambda x, w: layer.layer(op, x, w))(x, w)
    want = by_loops(x, w, strides, padding, groups, scaled)
    bound = 18 * (18 + 40) * UNIT * np.abs(w).mean() * np.abs(x).max()
    np.testing.assert_allclose(got, want, atol=2 * bound)


def test_matrix_product():
    """K is the mean |x| of an example. Gradients: hard tanh for x, BWN's rule for the kernel."""
    rng = np.random.default_rng(2)
    x, w = rng.normal(size=(3, 7)).astype(F), rng.normal(size=(7, 5)).astype(F)
    g = rng.normal(size=(3, 5)).astype(F)

    @jax.jit
    def run(x, w):
        y, pull = jax.vjp(lambda x, w: XNOR().module().layer(jnp.matmul, x, w), x, w)
        return y, pull(jnp.asarray(g))

    y, (dx, dw) = run(x, w)
    k = np.abs(x).mean(1, keepdims=True)
    q = np.asarray(quantize(BWN(), w))
    want = np.where(x < 0, -1, 1) @ q * k
    np.testing.assert_allclose(y, want, atol=60 * UNIT)
    np.testing.assert_allclose(dx, (g * k) @ q.T * (np.abs(x) <= 1), atol=60 * UNIT)
    outer = np.where(x < 0, -1, 1).T @ (g * k)
    np.testing.assert_allclose(dw, gradient(BWN(), w, outer.astype(F)), atol=60 * UNIT)


def test_mistakes():
    with pytest.raises(ValueError, match="unknown rule 'mean': printed or code"):
        BWN(rule="mean")
    with pytest.raises(ValueError, match=r"two input channels, not a kernel of shape \(3, 3, 1, 4"):
        BWN(rule="code")(jnp.ones((3, 3, 1, 4)))
    heads = lambda x, w: jnp.einsum("ni,ihd->nhd", x, w)  # noqa: E731
    with pytest.raises(ValueError, match=r"a matrix product or a convolution, not \(2, 3\) with"):
        input_scale(heads, jnp.ones((2, 3)), jnp.ones((3, 2, 2)))


def test_in_words():
    assert BWN(rule="code").describe() == "sign x mean of a filter (code)"
    assert XNOR().describe() == "sign x mean of a filter, input sign x K"
    assert XNOR(input_scale=False).describe() == "sign x mean of a filter, input sign"


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_in_a_model(method):
    """Forward and gradient under jit, by way of the layer's own hook."""
    model = nnx.Conv(2, 4, (3, 3), use_bias=False, rngs=nnx.Rngs(0))
    rule = nn.Rule(".*", DotConfig(rhs=method.settings()["weight"]))
    nn.quantize_model(model, [rule])
    x = jax.random.normal(jax.random.key(1), (2, 5, 5, 2))
    loss = lambda m, x: (jnp.sum(m(x) ** 2), m(x))  # noqa: E731
    (_, y), grads = nnx.jit(nnx.value_and_grad(loss, has_aux=True))(model, x)
    w = np.asarray(model.kernel[...])
    if method.name == "xnor":
        want = by_loops(np.asarray(x), w, 1, (1, 1), 1, True)
    else:
        want = convolution(1, (1, 1), 1)(x, scaled_signs(w).astype(F))
    np.testing.assert_allclose(y, want, atol=1e-5)
    assert (np.asarray(grads["kernel"][...]) != 0).all()
