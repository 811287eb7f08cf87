"""LR-nets: what the probabilities begin with, the law of a sampled layer, and evaluation."""

import functools
import itertools
import re

import hypothesis as hp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import qtrain as qt
from qtrain.nn import Learned, Rule, calibrate, quantize_model, set_keys
from qtrain.zoo.lr_nets import (
    FLOOR,
    METHODS,
    NOT_BUILT,
    LrNet,
    binary_start,
    likeliest,
    moments,
    ternary_start,
)

UNIT = 2.0**-24
SEEDS = st.integers(0, 999)
IN, OUT, ROWS = 12, 6, 5


def kernel(seed: int, shape=(IN, OUT)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) * 2.0 ** rng.integers(-6, 6)).astype(np.float32)


def published(w: np.ndarray, values: int):
    """P(0) and P(1 | not 0), as the source's code has them, in float64."""
    w = np.clip(w / np.std(w), -1, 1)
    if values == 2:
        return np.zeros_like(w), np.clip(0.5 * (1 + w), 0.05, 0.95)
    c = 0.95 - 0.9 * np.abs(w)
    return c, np.clip(0.5 * (1 + w / (1 - c)), 0.05, 0.95)


@functools.partial(jax.jit, static_argnums=0)
def chances(values: int, w):
    return LrNet(values=values).module(w).probabilities()


@pytest.mark.parametrize("values", [2, 3])
@hp.given(seed=SEEDS)
def test_first_probabilities_are_those_of_the_code(values, seed):
    """From a kernel of any scale; the mean weight has the kernel's sign, and they sum to 1.

    A probability p of at least 0.05 goes to its logit and back within a few u / p.

    Kills: zoo/lr_nets.py: `0.95 - 0.9 *` -> `0.95 - 0.95 *`; `w / jnp.where(deviation` -> `w *
    jnp.where(deviation`, `0.05, 0.95)` -> `0.1, 0.95)`; `jnp.log(p / (1 - p))` -> `jnp.log(p)`;
    `_logit(1 - zero)` -> `_logit(zero)`.
    """
    w = kernel(seed)
    zero, plus = published(w.astype(float), values)
    filled, got = map(np.asarray, chances(values, w))
    np.testing.assert_allclose(1 - filled, zero, atol=64 * UNIT)
    np.testing.assert_allclose(
        got, plus, atol=256 * UNIT
    )  # w / (1 - P(0)) is up to 1 / 0.05 times w
    mean = filled * got - filled * (1 - got)
    assert (np.sign(mean) == np.sign(w)).all()
    total = filled * got + filled * (1 - got) + (1 - filled)
    np.testing.assert_allclose(total, 1, atol=4 * UNIT)


def test_first_probabilities_of_unit_weights():
    """By hand, at the ends and in the middle [shayer2018lrnets, code]."""
    zero, plus = ternary_start(jnp.array([-3.0, -1.0, 0.0, 0.1, 1.0]))
    np.testing.assert_allclose(zero, [0.05, 0.05, 0.95, 0.86, 0.05], atol=4 * UNIT)
    np.testing.assert_allclose(plus, [0.05, 0.05, 0.5, 0.5 * (1 + 0.1 / 0.14), 0.95], rtol=1e-5)
    np.testing.assert_allclose(
        binary_start(jnp.array([-3.0, -0.5, 0.0, 0.5, 0.95])),
        [0.05, 0.25, 0.5, 0.75, 0.95],
        atol=4 * UNIT,
    )


@hp.given(filled=st.floats(0, 1, width=32), plus=st.floats(0, 1, width=32))
def test_moments_are_those_of_three_values(filled, plus):
    """In float64, within rounding; the variance is not negative.

    Kills: zoo/lr_nets.py: `filled * (1 - filled * (s * s))` -> `filled * (1 - s * s)`; `2 * plus -
    1` -> `plus`.
    """
    p, m = filled * plus, filled * (1 - plus)
    mean, variance = map(float, moments(jnp.float32(filled), jnp.float32(plus)))
    assert abs(mean - (p - m)) <= 4 * UNIT
    assert abs(variance - (p + m - (p - m) ** 2)) <= 8 * UNIT
    assert variance >= 0


def drawn(values: int, filled, plus, draws: int) -> np.ndarray:
    """Discrete weights at random, (draws, IN, OUT)."""
    rng = np.random.default_rng(values)
    sign = np.where(rng.random((draws, IN, OUT)) < plus, 1.0, -1.0)
    return np.where(rng.random((draws, IN, OUT)) < filled, sign, 0.0)


def moments_of(z: np.ndarray):
    """Mean and variance over the first axis, with their standard errors."""
    n, mean, variance = len(z), z.mean(0), z.var(0)
    fourth = ((z - mean) ** 4).mean(0)
    return mean, np.sqrt(variance / n), variance, np.sqrt((fourth - variance**2) / n)


@pytest.mark.parametrize("values", [2, 3])
def test_a_sampled_layer_has_the_law_of_discrete_weights(values):
    """Mean and variance, but for the 1e-3, within 4 standard errors of both samples.

    A product of the exact law, by enumeration, is in the test below. Kills: zoo/lr_nets.py:
    `op(x * x, variance)` -> `op(x, variance)`; `jnp.sqrt(op(` -> `(op(`; `+ FLOOR` -> `+ 1`.
    """
    draws = 20_000
    w = kernel(7)
    module = LrNet(values=values).module(w)
    x = np.random.default_rng(1).normal(size=(ROWS, IN)).astype(np.float32)
    filled, plus = map(np.asarray, module.probabilities())
    mean, mean_error, variance, variance_error = moments_of(
        np.einsum("ri,dio->dro", x.astype(float), drawn(values, filled, plus, draws))
    )
    sample = jax.jit(jax.vmap(lambda key: module.layer(jnp.dot, x, w, key)))
    got = moments_of(np.asarray(sample(jax.random.split(jax.random.key(0), draws)), float))
    assert (np.abs(got[0] - mean) <= 4 * np.hypot(got[1], mean_error)).all()
    assert (np.abs(got[2] - FLOOR - variance) <= 4 * np.hypot(got[3], variance_error)).all()


@pytest.mark.parametrize("values", [2, 3])
def test_the_law_by_enumeration(values):
    """Mean and variance of a sum of 4 weights, over all of their values, to rounding."""
    w, x = kernel(3, (4, 1)), np.float32([0.5, -1.25, 2.0, 0.75])
    module = LrNet(values=values).module(w)
    filled, plus = (np.asarray(p, float).reshape(-1) for p in module.probabilities())
    law = {1: filled * plus, -1: filled * (1 - plus), 0: 1 - filled}
    first = second = 0.0
    for row in itertools.product(law, repeat=4):
        chance = np.prod([law[v][i] for i, v in enumerate(row)])
        first, second = first + chance * (x @ row), second + chance * (x @ row) ** 2
    mean, variance = moments(*module.probabilities())
    np.testing.assert_allclose(x @ mean, first, atol=64 * UNIT)
    np.testing.assert_allclose((x * x) @ variance, second - first**2, atol=256 * UNIT)


class Net(nnx.Module):
    """A convolution and a dense layer, with random weights."""

    def __init__(self, values: int):
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(2, 3, (3, 3), strides=2, rngs=rngs)
        self.dense = nnx.Linear(3 * 2 * 2, 3, rngs=rngs)
        quantize_model(self, [Rule(".*", qt.DotConfig(rhs=LrNet(values=values)))])

    def __call__(self, x):
        return self.dense(nnx.relu(self.conv(x)).reshape(len(x), -1))


X = np.random.default_rng(5).normal(size=(4, 4, 4, 2)).astype(np.float32)


def test_in_a_model():
    """Training draws by the step's key and moves logits alone; evaluation takes -1, 0 and 1.

    Kills: zoo/lr_nets.py: `if self.use_running_average:` -> `if not self.use_running_average:`;
    `jax.random.normal(key, ` -> `jax.random.normal(jax.random.key(0), `.
    """
    net = Net(3)
    split = nnx.split(net, nnx.Param, ...)

    @jax.jit
    def train(params, rest, key):
        def loss(params):
            model = nnx.merge(split[0], params, set_keys(rest, key))
            return jnp.sum(model(X) ** 2)

        return jax.value_and_grad(loss)(params)

    a, grads = train(*split[1:], jax.random.key(1))
    assert a == train(*split[1:], jax.random.key(1))[0]
    assert a != train(*split[1:], jax.random.key(2))[0]
    for path, g in nnx.to_flat_state(grads):
        if path[-1] == "kernel":
            assert not np.any(g[...])
        else:
            assert np.isfinite(g[...]).all()
            assert np.any(g[...])
    logits = [v for _, v in nnx.to_flat_state(split[1]) if isinstance(v, Learned)]
    assert len(logits) == 4

    net.eval()
    hooks = [net.conv.conv_general_dilated.rhs, net.dense.dot_general.rhs]
    ws = [likeliest(*hook.probabilities()) for hook in hooks]
    assert set(np.unique(np.concatenate([w.reshape(-1) for w in ws]))) == {-1.0, 0.0, 1.0}
    y = jax.lax.conv_general_dilated(
        X, ws[0], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    y = nnx.relu(y).reshape(4, -1) @ ws[1]
    np.testing.assert_allclose(net(X), y, rtol=1e-5, atol=1e-5)


def test_likeliest():
    """In float64 among the three; ties as documented.

    Kills: zoo/lr_nets.py: `> 1 - filled` -> `>= 1 - filled`; `plus < 0.5` -> `plus <= 0.5`;
    `jnp.maximum(plus, 1 - plus)` -> `plus`.
    """
    filled, plus = np.meshgrid(np.linspace(0, 1, 17), np.linspace(0, 1, 17))
    law = np.stack([1 - filled, filled * plus, filled * (1 - plus)])
    want = np.array([0.0, 1.0, -1.0])[law.argmax(0)]  # of equals the first: 0, then 1
    np.testing.assert_array_equal(likeliest(jnp.float32(filled), jnp.float32(plus)), want)


@pytest.mark.parametrize("values", [2, 3])
def test_begins_anew_by_calibration(values):
    """With the kernel that the layer has then, such as one of another run.

    Kills: zoo/lr_nets.py: `self.plus[...] = plus` removed, `self.filled[...] = filled` removed.
    """
    net = Net(values)
    net.conv.kernel[...] = jnp.asarray(kernel(11, net.conv.kernel.shape))
    calibrate(net, X)
    got = net.conv.conv_general_dilated.rhs.probabilities()
    want = LrNet(values=values).module(net.conv.kernel[...]).probabilities()
    jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.parametrize("values", [2, 3])
def test_zeros_and_what_is_not_finite(values):
    """A kernel of zeros gives numbers; one with a NaN or an infinity does not, in either mode.

    Kills: zoo/lr_nets.py: `jnp.where(deviation == 0, 1, deviation)` -> `deviation`;
    `jnp.where(jnp.isnan(filled + plus), jnp.nan, w)` -> `w`.
    """
    x, key = jnp.ones((1, IN)), jax.random.key(0)
    for bad in (None, np.nan, np.inf):
        w = jnp.zeros((IN, OUT)) if bad is None else jnp.ones((IN, OUT)).at[2, 1].set(bad)
        module = LrNet(values=values).module(w)
        got = [module.layer(jnp.dot, x, w, key)]
        module.eval()
        got.append(module.layer(jnp.dot, x, w, None))
        for z in got:
            assert np.isfinite(z).all() if bad is None else np.isnan(z).any()


def test_mistakes():
    with pytest.raises(
        ValueError, match=re.escape("values must be 2 (binary) or 3 (ternary), not 4")
    ):
        LrNet(values=4)
    with pytest.raises(ValueError, match="random weights need a key in training"):
        LrNet().module(jnp.ones((2, 2))).layer(jnp.dot, jnp.ones((1, 2)), jnp.ones((2, 2)))


def test_in_the_list_of_methods():
    (method,) = METHODS
    assert method.settings()["weight"] == LrNet(values=3)
    assert method.settings(1)["weight"] == LrNet(values=2)
    assert hash(LrNet()) == hash(LrNet(values=3))
    assert LrNet().describe() == "LR-net, ternary"
    assert LrNet().needs_key
    assert NOT_BUILT["ebp"]
