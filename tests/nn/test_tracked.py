"""Running ranges: what training makes of them, what evaluation takes, and where they live."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_net import Net

import qtrain as qt
from qtrain.nn import RoundingKey, Rule, Tracked, quantize_model, set_keys, with_scopes
from qtrain.nn.tracked import RangeTracker
from qtrain.quantize import Affine, fold
from qtrain.workload import trace


def config(bits: int = 8, rounding="nearest") -> qt.DotConfig:
    quantizer = Affine(bits=bits, rounding=rounding, range="sample_mean")
    return qt.DotConfig(lhs=Tracked(quantizer=quantizer), rhs=Affine(bits=bits))


def net(**settings) -> Net:
    return quantize_model(Net(), [Rule(".*", config(**settings))])


def batch(seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), (6, 4, 4, 1))


def bits(x) -> np.ndarray:
    return np.asarray(x).view(np.uint32)


def test_training_rounds_as_its_quantizer_and_tracks_the_range():
    """running <- 0.1 running + 0.9 new, from 0 [banner2018scalable, Sec. 3, the code].

    Three roundings a step: within 3 u of the float64 formula times the largest range, twice for
    two steps. Kills: old and new swapped.
    """
    tracker = Tracked().module()
    low = high = 0.0
    for seed in range(2):
        x = batch(seed)
        np.testing.assert_array_equal(tracker(x), Affine(range="sample_mean")(x))
        new_low, new_high = (np.asarray(b, np.float64).item() for b in
                             Affine(range="sample_mean").bounds(x))  # fmt: skip
        low, high = 0.1 * low + 0.9 * new_low, 0.1 * high + 0.9 * new_high
    bound = 6 * 2.0**-24 * max(abs(low), high, 4)
    assert abs(float(tracker.low[...]) - low) <= bound
    assert abs(float(tracker.high[...]) - high) <= bound


def test_evaluation_rounds_within_the_running_range_and_keeps_it():
    """Kills: a range of the batch in evaluation."""
    tracker = Tracked(quantizer=Affine(bits=3)).module()
    tracker.low[...], tracker.high[...] = jnp.float32(-1), jnp.float32(0.75)
    tracker.use_running_average = True
    x = jnp.array([-3.0, -1.0, -0.3, 0.1, 0.7, 2.0])
    # a step of 1/4, exact
    np.testing.assert_array_equal(tracker(x), [-1, -1, -0.25, 0, 0.75, 0.75])
    assert (float(tracker.low[...]), float(tracker.high[...])) == (-1, 0.75)


def test_the_model_switches_its_trackers():
    """model.train() and model.eval() reach into the hooks."""
    model = net()
    trackers = [m for _, m in nnx.iter_modules(model) if isinstance(m, RangeTracker)]
    assert len(trackers) == 2
    model.eval()
    assert all(t.use_running_average for t in trackers)
    model.train()
    assert not any(t.use_running_average for t in trackers)


def test_split_merge_and_jit():
    """A jitted function of the state, as the training step is, gives the same output and ranges
    as nnx.jit; equal configs share one compilation.
    """
    compiled = []

    @jax.jit
    def step(state, x):
        compiled.append(1)
        model = nnx.merge(graph, state, copy=True)
        y = model(x)
        return y, nnx.state(model)

    graph, state = nnx.split(net())
    y, after = step(state, batch())
    model = net()
    assert nnx.split(model)[0] == graph
    assert hash(nnx.split(model)[0]) == hash(graph)
    want = nnx.jit(lambda model, x: model(x))(model, batch())
    np.testing.assert_array_equal(bits(y), bits(want))
    jax.tree.map(np.testing.assert_array_equal, after, nnx.state(model))
    step(nnx.state(net()), batch(1))
    assert len(compiled) == 1
    assert nnx.split(net(bits=4))[0] != graph


def test_gradients_pass_through():
    """The ranges are no parameters: the state of nnx.Param alone has a gradient, all finite."""
    graph, params, rest = nnx.split(net(), nnx.Param, ...)

    @jax.jit
    @jax.grad
    def grad(params, x):
        return jnp.sum(nnx.merge(graph, params, rest, copy=True)(x) ** 2)

    leaves = jax.tree.leaves(grad(params, batch()))
    assert len(leaves) == 4
    assert all(np.isfinite(leaf).all() and np.abs(leaf).max() > 0 for leaf in leaves)


def test_scopes_and_traces_see_the_layers():
    """The products of a tracked layer are listed under the layer's path, its shapes and order as
    those of the plain model."""

    def total(model, x):
        return jnp.sum(model(x))

    def listed(model):
        found = trace(total, with_scopes(model), batch(), grad=True, argnums=(0, 1), params=0)
        return found.lengths()

    assert listed(net()) == listed(Net())
    assert list(listed(net())) == ["conv", "dense"]
    model = net()
    listed(model)
    assert not isinstance(nnx.state(model)["conv"]["conv_general_dilated"]["lhs"]["low"][...],
                          jax.core.Tracer)  # fmt: skip


def test_keys_reach_the_trackers():
    """Stochastic activations: each layer draws by its own key, folded by its path and "lhs".

    Kills: the layer's key for all its roles.
    """
    model = net(rounding="stochastic", bits=3)
    key = jax.random.key(7)
    set_keys(model, key)
    words = jax.tree.leaves(nnx.state(model, RoundingKey))
    assert len(words) == 2
    assert (words[0] != words[1]).any()
    x = batch()
    hook = model.conv.conv_general_dilated
    layer_key = fold(key, "conv/conv_general_dilated/key")
    quantizer = config(rounding="stochastic", bits=3).lhs.quantizer
    seen = []
    tracker = hook.lhs
    tracker_call = lambda x, key: seen.append(key) or tracker(x, key)  # noqa: E731
    hook.lhs = nnx.static(tracker_call)
    model.conv(x)
    np.testing.assert_array_equal(quantizer(x, seen[0]), quantizer(x, fold(layer_key, "lhs")))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tracked(quantizer=Affine(range="channel")), "one per layer, not one per channel"),
        (lambda: Tracked(quantizer=Affine(range="sample")), "one per layer, not one per sample"),
        (lambda: Tracked(momentum=1), "momentum must be at least 0 and below 1, not 1"),
        (lambda: Tracked(momentum=-0.1), "at least 0 and below 1, not -0.1"),
        (lambda: Tracked(momentum=float("nan")), "at least 0 and below 1, not nan"),
    ],
)
def test_errors_are_one_clear_line(make, message):
    with pytest.raises(ValueError, match=re.escape(message)) as found:
        make()
    assert "\n" not in str(found.value)
