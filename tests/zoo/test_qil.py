"""Learned intervals as parts of a model: first values, what learns, and what is shipped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from qtrain.nn import Learned, Rule, calibrate, quantize_model
from qtrain.nn.deploy import deploy
from qtrain.nn.learned import rates
from qtrain.ops import DotConfig
from qtrain.zoo import qil
from qtrain.zoo.interval import discretize, transform, transform_signed
from qtrain.zoo.qil import IntervalActivation, IntervalWeight

SHAPE = (3, 3, 4, 8)


def normal(shape=SHAPE, seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


class Net(nnx.Module):
    """A convolution and a product, in whose input there are zeros."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(4, 8, (3, 3), rngs=rngs)
        self.dense = nnx.Linear(8 * 36, 10, rngs=rngs)

    def __call__(self, x):
        y = nnx.relu(self.conv(nnx.relu(x)))
        return self.dense(y.reshape(len(x), -1))


def quantized(bits: int, **weight) -> Net:
    """All of it quantized, calibrated by the batch that the tests use."""
    config = DotConfig(lhs=IntervalActivation(bits=bits), rhs=IntervalWeight(bits=bits, **weight))
    model = quantize_model(Net(), [Rule(".*", config)])
    calibrate(model, batch())
    return model


def batch() -> jax.Array:
    return normal((5, 6, 6, 4), seed=1)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("learn_gamma", [False, True])
def test_the_module_is_the_two_functions(bits, learn_gamma):
    """With q = 2^(b - 1) - 1 and 2^b - 1 [jung2019qil, eq. (2)].

    Kills: qil.py: `2 ** (self.bits - 1) - 1` -> `2 ** (self.bits - 1)`; `2**self.bits - 1` ->
    `2 ** (self.bits - 1) - 1`; `positive(self.gamma[...]) if` -> `None if`.
    """
    w, x = normal(), nnx.relu(normal(seed=2))
    weight = IntervalWeight(bits=bits, learn_gamma=learn_gamma).module(w)
    weight.c[...], weight.d[...] = jnp.float32(0.75), jnp.float32(0.5)
    gamma = None
    if learn_gamma:
        gamma = weight.gamma[...] = jnp.float32(0.5)
    half, most = jnp.float32(0.5), jnp.float32(0.75)
    want = discretize(transform_signed(w, most, half, gamma), 2 ** (bits - 1) - 1)
    np.testing.assert_array_equal(weight(w), want)
    activation = IntervalActivation(bits=bits).module(w)
    activation.c[...] = most
    want = discretize(transform(x, most, half), 2**bits - 1)
    np.testing.assert_array_equal(activation(x), want)


def test_first_intervals():
    """0 to the 99th percentile: of weights' magnitudes, and of activations once they are seen.

    Its place among n sorted values is rounded, to n UNIT of the gap between two of them: 1e-5.

    Kills: qil.py: `self._cover(jnp.abs(w))` -> `self._cover(w)`; `REACH = 99` -> `100`; `0.5 *
    reach` -> `reach`; `self._cover(x)` -> `self._cover(jnp.abs(x))`.
    """
    w = normal()
    module = IntervalWeight().module(w)
    reach = np.percentile(np.abs(np.float64(w)), 99)
    np.testing.assert_allclose(module.low_high(), (0, reach), rtol=1e-5)
    module.calibrate(2 * w)
    np.testing.assert_allclose(module.low_high(), (0, 2 * reach), rtol=1e-5)
    module = IntervalActivation().module()
    np.testing.assert_array_equal(module.low_high(), (0, 1))
    module.calibrate(w)
    np.testing.assert_allclose(module.low_high(), (0, np.percentile(w, 99)), rtol=1e-5)


def test_a_model_is_calibrated_by_its_float32_values():
    """Kills: qil.py: the method `calibrate` of activations renamed."""
    model, plain = quantized(4), Net()
    seen = nnx.relu(batch())
    got = model.conv.conv_general_dilated.lhs.low_high()
    np.testing.assert_allclose(got, (0, np.percentile(seen, 99)), rtol=1e-5)
    seen = nnx.relu(plain.conv(seen))
    got = model.dense.dot_general.lhs.low_high()
    np.testing.assert_allclose(got, (0, np.percentile(seen, 99)), rtol=1e-5)


def test_rare_activations_are_covered():
    """One in a thousand is not zero: the interval ends at the largest, not at zero.

    Kills: qil.py: `jnp.where(reach > 0, reach, jnp.max(sizes))` -> `reach`.
    """
    x = jnp.zeros(1000).at[3].set(2.0)
    module = IntervalActivation().module()
    module.calibrate(x)
    np.testing.assert_array_equal(module.low_high(), (0, 2))
    assert module(x)[3] == 1


@pytest.mark.parametrize("settings", [IntervalWeight(learn_gamma=True), IntervalActivation()])
def test_zeros_nan_and_types(settings):
    """Zeros stay zeros, and have finite gradients; NaN is seen; the type stays.

    Kills: qil.py: `guarded(self.c[...], self.d[...])` -> `self.c[...], self.d[...]`.
    """
    zeros = jnp.zeros(SHAPE)
    module = settings.module(zeros)
    module.calibrate(zeros)
    graph, state = nnx.split(module)

    def total(state, x):
        return nnx.merge(graph, state)(x).sum()

    assert (module(zeros) == 0).all()
    gradients = jax.grad(total, argnums=(0, 1))(state, zeros)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))
    assert np.isnan(module(zeros.at[0, 0, 0, 0].set(jnp.nan))[0, 0, 0, 0])
    for x in (normal(), normal().astype(jnp.bfloat16)):
        assert (module(x).shape, module(x).dtype) == (x.shape, x.dtype)


@pytest.mark.parametrize("learn_gamma", [False, True])
def test_what_learns_and_how_fast(learn_gamma):
    """c, d, and gamma where it is to learn, at their rate and without decay.

    Kills: qil.py: `if settings.learn_gamma:` -> `if True:`; `rate=settings.rate` left out.
    """
    module = IntervalWeight(learn_gamma=learn_gamma, rate=0.25).module(normal())
    params = nnx.state(module, Learned)
    assert set(params) == {"c", "d"} | ({"gamma"} if learn_gamma else set())
    assert set(jax.tree.leaves(rates(params))) == {0.25}
    assert not any(v.decay for v in (module.c, module.d))
    assert IntervalWeight().rate == IntervalActivation().rate == 0.01  # [a public code]


def test_gradients_reach_weights_and_interval():
    """Those of the functions, through guards and module, as sums over the layer.

    Kills: qil.py: `w.astype(jnp.float32)` -> `jax.lax.stop_gradient(w)`.
    """
    w, g = normal(), normal(seed=3)
    module = IntervalWeight(bits=3, learn_gamma=True).module(w)
    module.d[...] = 0.75 * module.d[...]
    graph, state = nnx.split(module)
    got, by_w = jax.grad(lambda s, w: (g * nnx.merge(graph, s)(w)).sum(), argnums=(0, 1))(state, w)
    numbers = (module.c[...], module.d[...], module.gamma[...])
    want = jax.grad(
        lambda n, w: (g * discretize(transform_signed(w, *n), 3)).sum(), argnums=(0, 1)
    )(numbers, w)
    for name, gradient in zip(("c", "d", "gamma"), want[0], strict=True):
        np.testing.assert_allclose(got[name][...], gradient, rtol=1e-5, err_msg=name)
        assert gradient != 0
    np.testing.assert_allclose(by_w, want[1], rtol=1e-6)


@pytest.mark.parametrize("bits", [2, 4])
def test_deployed_weights_give_the_same_bits(bits):
    """Stored w_bar, without its quantizer, in the model as it was trained: to the bit. They are
    levels, and the intervals of the activations stay.

    Kills: qil.py: `transform_signed(w.astype(jnp.float32), c, d, gamma)` -> `w`.
    """
    model = quantized(bits, learn_gamma=True)
    model.conv.conv_general_dilated.rhs.gamma[...] = jnp.float32(1.5)
    model.train()
    shipped = deploy(model)
    run = nnx.jit(lambda m, x: m(x))
    np.testing.assert_array_equal(run(shipped, batch()), run(model, batch()))
    q = 2 ** (bits - 1) - 1
    for layer in (shipped.conv, shipped.dense):
        codes = np.asarray(layer.kernel[...]) * q
        assert set(np.round(codes, 5).ravel()) <= set(range(-q, q + 1))
    assert set(nnx.state(shipped, Learned)) == {"conv", "dense"}
    assert "rhs" not in str(nnx.to_flat_state(nnx.state(shipped, Learned)))
    assert (shipped.dense.kernel[...] != model.dense.kernel[...]).any()


def test_settings_are_equal_and_in_words():
    assert hash(IntervalWeight(bits=3)) == hash(IntervalWeight(bits=3))
    assert IntervalWeight(bits=3).describe() == "3-bit learned interval"
    assert IntervalWeight(bits=2, learn_gamma=True).describe() == (
        "2-bit learned interval and gamma"
    )
    assert IntervalActivation(bits=4).describe() == "4-bit learned interval"


def test_the_method_of_the_zoo():
    """gamma is learned at 2 bits alone. Kills: qil.py: `learn_gamma=bits == 2` -> `False`."""
    (method,) = qil.METHODS
    assert method.settings(2, 3) == {
        "weight": IntervalWeight(bits=2, learn_gamma=True),
        "activation": IntervalActivation(bits=3),
    }
    assert method.settings()["weight"] == IntervalWeight(bits=4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IntervalWeight(bits=1), "bits must be 2 to 16, not 1: weights take one for"),
        (lambda: IntervalWeight(bits=17), "bits must be 2 to 16, not 17"),
        (lambda: IntervalActivation(bits=0), "bits must be 1 to 16, not 0"),
        (lambda: IntervalActivation(rate=-1.0), "rate must be at least 0 .*, not -1.0"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(ValueError, match=message) as found:
        make()
    assert "\n" not in str(found.value)
