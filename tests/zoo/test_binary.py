"""BinaryConnect and BNN against the source's code in numpy, draw by draw and step by step."""

import functools
import math

import hypothesis as hp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from qtrain import formats, nn, optim
from qtrain.ops import DotConfig
from qtrain.quantize import cast
from qtrain.zoo.binary import METHODS, BinaryConnect, Sign, StochasticBinaryConnect, sign

F = np.float32
SHAPE = (3, 3, 2, 4)  # a kernel; one shape, so that XLA compiles each quantizer once
BOUNDS = (1.0, 0.3, "glorot")
GLOROT = F(math.sqrt(1.5 / (9 * (2 + 4))))  # fans of SHAPE
SEEDS = st.integers(0, 999)


def weights(seed: int, scale: float = 1.0) -> np.ndarray:
    """Normal weights of SHAPE, among them both zeros, ones and minus ones."""
    w = np.random.default_rng(seed).normal(size=SHAPE)
    w.flat[:4] = 0.0, -0.0, 1.0, -1.0
    return (w * scale).astype(F)


@functools.partial(jax.jit, static_argnums=0)
def quantize(quantizer, w, key=None):
    return quantizer(w, key)


@functools.partial(jax.jit, static_argnums=0)
def gradient(quantizer, w, g, key=None):
    """Of sum(quantizer(w) g)."""
    return jax.grad(lambda w: jnp.sum(quantizer(w, key) * g))(w)


def hard_tanh(x, key=None):
    return jnp.clip(x, -1, 1)


def limit(bound) -> np.float32:
    return GLOROT if bound == "glorot" else F(bound)


def test_signs():
    """Kills: zoo/binary.py: `x < 0, -1` -> `x <= 0, -1`; `jnp.where(x >= 0, 1, x)` -> `1`."""
    x = jnp.array([-np.inf, -2.0, -1e-30, -0.0, 0.0, 1e-30, 3.0, np.inf, np.nan])
    want = [-1, -1, -1, 1, 1, 1, 1, 1, np.nan]
    for run in (sign, Sign(), jax.jit(sign)):
        np.testing.assert_array_equal(run(x), want)
    assert sign(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_zero_is_where_the_published_code_differs():
    """It rounds (w / H + 1) / 2 in float32, half to even: from 0 to 2^-24 H that is -H."""
    tiny = F(2.0**-24)
    w = np.array([0.0, tiny / 2, tiny, 2 * tiny, 1e-3, -tiny, -1e-3, 1, -1, 5, -5], F)
    code = np.where(np.rint(np.clip((w + F(1)) / F(2), 0, 1)) > 0, 1, -1)
    ours = np.asarray(BinaryConnect()(jnp.asarray(w)))
    np.testing.assert_array_equal(ours != code, (w >= 0) & (w <= tiny))


@pytest.mark.parametrize("bound", BOUNDS)
@hp.given(seed=SEEDS)
def test_two_values_odd_rising_and_stable(bound, seed):
    """Two levels, the same a second time; monotone; odd but for zeros.

    Kills: zoo/binary.py: `sign(x) * self.limit(x.shape)` -> `sign(x)`; `shape[-2] + shape[-1]` ->
    `shape[-2]`.
    """
    quantizer, h, w = BinaryConnect(bound=bound), limit(bound), weights(seed)
    q = np.asarray(quantize(quantizer, w))
    np.testing.assert_array_equal(q, np.where(w < 0, -h, h))
    np.testing.assert_array_equal(quantize(quantizer, q), q)
    assert (np.diff(q.flat[np.argsort(w, axis=None)]) >= 0).all()
    other = np.asarray(quantize(quantizer, -w))
    np.testing.assert_array_equal(other[w != 0], -q[w != 0])


@pytest.mark.parametrize("quantizer", [BinaryConnect(bound=0.3), StochasticBinaryConnect()])
def test_the_same_bits_without_jit(quantizer):
    w, key = jnp.asarray(weights(0, 0.2)), jax.random.key(1)
    np.testing.assert_array_equal(quantizer(w, key), quantize(quantizer, w, key))


@pytest.mark.parametrize("bound", BOUNDS)
def test_draws_are_unbiased(bound):
    """A z-test of each mean over 10^5 draws, 5 sigma; the ends and beyond are certain.

    A draw of +-H with mean w has variance H^2 - w^2. The probability has 24 bits, so its mean is
    off by 2^-24 H at most, 1e-5 of the standard error.
    Kills: zoo/binary.py: `astype(jnp.float32) * (1 / h)` -> `astype(jnp.float32)`;
    `rounding="stochastic") * h` -> `rounding="stochastic")`.
    """
    n, kernel = 100_000, (100_000, 9)
    h = float(BinaryConnect(bound=bound).limit(kernel))
    w = h * np.array([-1.5, -1, -0.9, -0.25, 0, 0.1, 0.7, 1, 2])
    x = np.broadcast_to(w.astype(F), kernel)
    q = np.asarray(quantize(StochasticBinaryConnect(bound=bound), x, jax.random.key(3)), float)
    assert set(np.unique(q)) == {-h, h}
    inside, mean = np.abs(w) < h, q.mean(0)
    np.testing.assert_array_equal(mean[~inside], np.sign(w[~inside]) * h)
    error = np.sqrt((h**2 - w[inside] ** 2) / n)
    assert (np.abs(mean[inside] - w[inside]) <= 5 * error).all()


@pytest.mark.parametrize("bound", BOUNDS)
def test_draws_of_binary_weights_are_certain(bound):
    """Also where 1 / H is rounded. A key draws the same again, another does not."""
    quantizer, w = StochasticBinaryConnect(bound=bound), weights(0) * limit(bound) / 8
    first, second = jax.random.key(1), jax.random.key(2)
    q = quantize(quantizer, w, first)
    np.testing.assert_array_equal(quantize(quantizer, q, second), q)
    np.testing.assert_array_equal(quantize(quantizer, w, first), q)
    assert (quantize(quantizer, w, second) != q).any()


def test_drawn_in_training_as_they_are_in_evaluation():
    """Kills: zoo/binary.py: `x if self.use_running_average else` removed."""
    module, w = StochasticBinaryConnect(bound=0.5).module(), jnp.asarray(weights(1))
    assert set(np.unique(module(w, jax.random.key(0)))) == {-0.5, 0.5}
    module.eval()
    np.testing.assert_array_equal(module(w, jax.random.key(0)), w)
    module.train()
    assert (module(w, jax.random.key(0)) != w).any()


@hp.given(seed=SEEDS)
def test_gradients_are_those_of_their_surrogates(seed):
    """Weights: of w itself. Activations: of hard tanh, and 1 at its corners.

    Kills: zoo/binary.py: `straight_through(sign, x, clip=(-1, 1))` -> `straight_through(sign, x)`.
    """
    w, g = weights(seed, 1.5), weights(seed + 1)
    for weight in (BinaryConnect(bound=0.3), StochasticBinaryConnect()):
        np.testing.assert_array_equal(gradient(weight, w, g, jax.random.key(0)), g)
    inside = np.abs(w) != 1
    want = np.asarray(gradient(hard_tanh, w, g))
    np.testing.assert_array_equal(np.asarray(gradient(Sign(), w, g))[inside], want[inside])
    corners = jnp.array([-1.0, 1.0, np.nextafter(F(1), F(2)), -np.nextafter(F(1), F(2))])
    np.testing.assert_array_equal(jax.grad(lambda x: Sign()(x).sum())(corners), [1, 1, 0, 0])


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("bound", BOUNDS)
def test_steps_are_scaled_and_never_leave_the_bound(bound, scaled):
    """Every step is the optimizer's, times 1 / sqrt(1.5 / fans), then clipped to [-H, H].

    The step and the sum are rounded before they are scaled, the rest after.
    Kills: zoo/binary.py: `(1 / _glorot(w.shape))` -> `_glorot(w.shape)`; `jnp.clip(w, -h, h)` ->
    `w`; `return w, w if self.scaled else ()` -> `return w, state`.
    """
    constraint, h, rate = BinaryConnect(bound=bound, scaled=scaled), limit(bound), 0.05
    constraints = {"kernel": constraint}
    tx = optim.constrained(optax.sgd(rate), constraints, 4)
    params = {"kernel": jnp.asarray(weights(5)), "bias": jnp.zeros(4)}
    state, project = tx.init(params), optim.project
    factor = 1 / GLOROT if scaled else 1.0
    for step in range(4):
        params, state = project(params, state, constraints, jnp.int32(step), 4)
        w = np.asarray(params["kernel"], float)
        assert (np.abs(w) <= h).all()
        grads = {"kernel": jnp.asarray(weights(6 + step)), "bias": jnp.ones(4)}
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        moved = factor * rate * np.asarray(grads["kernel"], float)
        want = np.clip(w - moved, -h, h)
        got = optim.deploy(params, state, constraints)["kernel"]
        assert (np.abs(got - want) <= 4 * 2.0**-24 * ((1 + factor) * h + 2 * np.abs(moved))).all()
        assert (np.abs(want) == h).any()
    np.testing.assert_allclose(params["bias"], -4 * rate, rtol=1e-6)


@pytest.mark.parametrize("quantizer", [BinaryConnect(), StochasticBinaryConnect(), Sign()])
def test_nan_stays_and_zeros_are_finite(quantizer):
    key = jax.random.key(0) if quantizer.needs_key else None
    got = quantize(quantizer, jnp.array([[0.5, np.nan], [-0.5, 0.0]]), key)
    np.testing.assert_array_equal(np.isnan(got), [[False, True], [False, False]])
    assert (np.abs(quantize(quantizer, jnp.zeros((2, 2)), key)) == 1).all()


def test_the_same_draws_as_of_a_codebook():
    w, key = jnp.asarray(weights(2)), jax.random.key(0)
    got = quantize(StochasticBinaryConnect(), w, key)
    np.testing.assert_array_equal(got, cast(w, formats.get("binary"), key))


@pytest.mark.parametrize("bound", [0, -1.0, np.inf, np.nan, "he"])
def test_mistakes(bound):
    with pytest.raises(ValueError, match="bound must be a positive number or glorot, not"):
        BinaryConnect(bound=bound)


def test_clear_lines():
    with pytest.raises(ValueError, match=r"a kernel of shape \(3,\) has no fans"):
        BinaryConnect(bound="glorot")(jnp.ones(3))
    with pytest.raises(ValueError, match="needs a key"):
        StochasticBinaryConnect()(jnp.ones((2, 2)))


def test_in_words():
    assert BinaryConnect().describe() == "sign x 1"
    assert StochasticBinaryConnect(bound="glorot").describe() == "sign x Glorot bound, drawn"
    assert Sign().describe() == "sign"


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_in_a_model(method):
    """Forward and gradient under jit: binary operands, and every weight has a gradient."""
    places = method.settings()
    layer = nnx.Linear(6, 4, use_bias=False, rngs=nnx.Rngs(0))
    model = nnx.Sequential(layer, nnx.Linear(4, 3, use_bias=False, rngs=nnx.Rngs(1)))
    config = DotConfig(lhs=places.get("activation"), rhs=places["weight"])
    nn.quantize_model(model, [nn.Rule("layers/.*", config)])
    nn.set_keys(model, jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (5, 6))

    @nnx.jit
    def step(model, x):
        return nnx.value_and_grad(lambda m: jnp.mean(m(x) ** 2))(model)

    loss, grads = step(model, x)
    assert np.isfinite(loss)
    assert all((np.asarray(g) != 0).any() for g in jax.tree.leaves(nnx.state(grads, nnx.Param)))
    first = np.asarray(nnx.jit(lambda m, x: m(x))(layer, x))
    inputs = np.where(x < 0, -1, 1) if "activation" in places else np.asarray(x)
    ways = np.array(np.meshgrid(*[[-1, 1]] * 6)).reshape(6, -1)  # all columns of signs
    near = np.abs(first[:, :, None] - (inputs @ ways)[:, None]).max(0).min(-1)
    assert (near < 1e-4).all()
