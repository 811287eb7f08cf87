"""Range batch normalization as a layer, and in the place of a model's batch norms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from qtrain.nn import RangeBatchNorm, RangeNorm, RoundingKey, Tracked, replace_batch_norms, set_keys
from qtrain.ops.norm import range_moments
from qtrain.quantize import Affine, fold

SHAPE = (16, 2, 3)
U = 2.0**-24
PARTS = 8
KEY = jax.random.key(4)


def normal(seed: int = 0, shape=SHAPE) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


DEFAULT = RangeNorm()


def layer(settings: RangeNorm = DEFAULT, **kwargs) -> RangeBatchNorm:
    """With a scale and a bias that are not 1 and 0."""
    norm = RangeBatchNorm(SHAPE[-1], settings, **kwargs)
    norm.scale[...], norm.bias[...] = normal(1, (3,)), normal(2, (3,))
    return norm


def run(norm: RangeBatchNorm, x):
    """Output, gradients for x and the parameters, and the state after it, jitted."""
    graph, params, rest = nnx.split(norm, nnx.Param, ...)

    @jax.jit
    def step(params, x):
        def loss(params, x):
            model = nnx.merge(graph, params, rest, copy=True)
            y = model(x)
            return jnp.sum(y * normal(3)), (y, nnx.state(model, nnx.BatchStat))

        grads, (y, stats) = jax.grad(loss, (0, 1), has_aux=True)(params, x)
        return y, grads, stats

    return step(params, x)


def assert_close(got, want):
    """The same formula with sums of at most 32 terms in another order: 64 roundings of the largest
    number on the way."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=64 * U * max(np.abs(b).max(), 1))


@pytest.mark.parametrize("settings", [RangeNorm(), RangeNorm(constant="code", chunks=4)],
                         ids=["paper", "code"])  # fmt: skip
def test_equals_the_formula(settings):
    """(x - mean) / (C(n) range + epsilon) * scale + bias, and running <- 0.1 running + 0.9 new
    from mean 0 and spread 1.

    Kills: old and new swapped.
    """
    x = normal()
    y, _, stats = run(layer(settings), x)
    found = range_moments(x, constant=settings.constant, chunks=settings.chunks)
    want = (x - found.mean) / found.spread * normal(1, (3,)) + normal(2, (3,))
    assert_close(y, want)
    assert_close(stats["mean"][...], 0.9 * found.mean)
    assert_close(stats["spread"][...], 0.1 + 0.9 * found.spread)


def test_evaluation_takes_the_running_moments():
    """And leaves them."""
    norm = layer()
    norm.mean[...], norm.spread[...] = jnp.arange(3.0), jnp.array([1.0, 2.0, 4.0])
    norm.eval()
    x = normal()
    y, _, stats = run(norm, x)
    assert_close(y, (x - jnp.arange(3.0)) / jnp.array([1.0, 2.0, 4.0]) * normal(1, (3,))
                 + normal(2, (3,)))  # fmt: skip
    np.testing.assert_array_equal(stats["mean"][...], jnp.arange(3.0))
    norm.train()
    assert not norm.use_running_average


def test_affine_inputs_do_not_show():
    """x -> 2^k x + b with integers, whose sums are exact: the same output up to epsilon, which
    moves it by epsilon / range, and the roundings of the quotient."""
    x = jnp.asarray(np.random.default_rng(0).integers(-99, 99, SHAPE), jnp.float32)
    one, two = (run(layer(), v)[0] for v in (x, 8 * x + 1000))
    np.testing.assert_allclose(one, two, rtol=0, atol=8 * (1e-5 / 50 + 4 * U))


def test_a_constant_channel_becomes_its_bias():
    """At a value whose sums round, in training and with any replicas; gradients stay finite."""
    x = normal().at[..., 1].set(1000.1)
    y, grads, _ = run(layer(RangeNorm(replicas=2)), x)
    np.testing.assert_array_equal(y[..., 1], normal(2, (3,))[1])
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_replicas_are_parts_by_themselves():
    """Outputs, gradients and running moments (their mean) of eight layers, one for each part.

    Kills: running moments of the first part alone.
    """
    x = normal()
    y, grads, stats = run(layer(RangeNorm(replicas=PARTS)), x)

    def apart(scale, bias, x):
        out = []
        for part in jnp.split(x, PARTS):
            found = range_moments(part)
            out.append((part - found.mean) / found.spread * scale + bias)
        return jnp.concatenate(out)

    args = (normal(1, (3,)), normal(2, (3,)), x)
    assert_close(y, apart(*args))
    want = jax.jit(jax.grad(lambda *a: jnp.sum(apart(*a) * normal(3)), (0, 1, 2)))(*args)
    assert_close(grads[0]["scale"][...], want[0])
    assert_close(grads[0]["bias"][...], want[1])
    assert_close(grads[1], want[2])
    moments = [range_moments(part) for part in jnp.split(x, PARTS)]
    assert_close(stats["mean"][...], 0.9 * np.mean([m.mean for m in moments], 0))
    assert_close(stats["spread"][...], 0.1 + 0.9 * np.mean([m.spread for m in moments], 0))


def mesh() -> Mesh:
    return Mesh(jax.devices()[:PARTS], ("data",))


@pytest.mark.parametrize("replicas", [1, PARTS])
def test_a_sharded_batch_is_that_of_one_device(replicas):
    """Under jit with shardings: one range for the whole batch, or one for each part, wherever the
    parts are. JAX's contract, relied on."""
    norm, x = layer(RangeNorm(replicas=replicas)), normal()
    split = jax.device_put(x, NamedSharding(mesh(), P("data")))
    assert_close(run(norm, split), run(norm, x))


@pytest.mark.parametrize("axis_name", ["data", None])
def test_inside_shard_map(axis_name):
    """With axis_name the range of all devices, and the same running moments on each; without it
    each device's own. Kills: axis_name not passed on.
    """
    graph, state = nnx.split(layer(axis_name=axis_name))
    stats_spec = P() if axis_name else P("data")

    @jax.jit
    @functools.partial(
        jax.shard_map, mesh=mesh(), in_specs=(P(), P("data")), out_specs=(P("data"), stats_spec)
    )
    def sharded(state, x):
        model = nnx.merge(graph, state, copy=True)
        y = model(x)
        return y, model.spread[...].reshape(1, -1)

    x = normal()
    y, spread = sharded(state, x)
    want, _, stats = run(layer(RangeNorm(replicas=1 if axis_name else PARTS)), x)
    assert_close(y, want)
    assert_close(spread.mean(0), stats["spread"][...])


def test_quantizers_of_input_and_error():
    """Input and the gradient of the output are rounded, by the layer's key folded "input" and
    "error"; without them nothing draws. Kills: one key for both.
    """
    q = Affine(bits=3, rounding="stochastic")
    norm = layer(RangeNorm(input=q, error=q))
    set_keys(norm, KEY)
    key = jax.random.wrap_key_data(norm.key[...], impl="threefry2x32")
    x = normal()
    y, grads, _ = run(norm, x)
    rounded = jax.jit(lambda k, x: q(x, k))(fold(key, "input"), x)
    assert_close(y, run(layer(), rounded)[0])
    error = jax.jit(lambda k, e: q(e, k))(fold(key, "error"), normal(3))
    assert_close(grads[0]["bias"][...], error.sum((0, 1)))
    assert not nnx.state(layer(), RoundingKey)


def test_input_with_a_running_range():
    """Tracked keeps its range among the layer's statistics, and evaluation takes it."""
    norm = layer(RangeNorm(input=Tracked(quantizer=Affine(bits=2))))
    x = normal()
    *_, stats = run(norm, x)
    assert float(stats["input"]["high"][...]) == pytest.approx(0.9 * float(x.max()), rel=4 * U)
    norm.input.low[...], norm.input.high[...] = jnp.float32(0), jnp.float32(3)
    norm.eval()
    np.testing.assert_array_equal(run(norm, x)[0], run_plain_eval(jnp.clip(jnp.round(x), 0, 3)))


def run_plain_eval(x):
    norm = layer()
    norm.eval()
    return run(norm, x)[0]


class Net(nnx.Module):
    """Batch norms as attribute, in a list, in a submodule, and one without scale or bias."""

    def __init__(self, **kwargs):
        rngs = nnx.Rngs(0)
        make = functools.partial(nnx.BatchNorm, rngs=rngs)
        self.first = make(4, scale_init=nnx.initializers.constant(0.5), **kwargs)
        self.rest = nnx.List([make(4), nnx.Linear(4, 4, rngs=rngs)])
        self.block = nnx.Sequential(make(4, use_scale=False, use_bias=False), nnx.relu)

    def __call__(self, x):
        for part in (self.first, *self.rest, self.block):
            x = part(x)
        return x


def test_replaces_all_batch_norms():
    """Wherever they are, with their scales, biases and mode."""
    model = Net()
    model.eval()
    replace_batch_norms(model, RangeNorm(constant="code"))
    found = [m for _, m in nnx.iter_modules(model) if isinstance(m, RangeBatchNorm)]
    assert len(found) == 3
    assert not [m for _, m in nnx.iter_modules(model) if isinstance(m, nnx.BatchNorm)]
    np.testing.assert_array_equal(model.first.scale[...], 0.5)
    assert all(m.use_running_average and m.settings.constant == "code" for m in found)
    plain = model.block.layers[0]
    assert (plain.scale, plain.bias) == (None, None)
    model.train()
    graph, state = nnx.split(model)
    y = jax.jit(lambda s, x: nnx.merge(graph, s, copy=True)(x))(state, normal(0, (8, 4)))
    assert np.isfinite(y).all()
    assert len(jax.tree.leaves(nnx.state(model, nnx.Param))) == 6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RangeNorm(constant="poster"), "unknown constant 'poster': paper or code"),
        (lambda: RangeNorm(chunks=0), "chunks must be at least 1, not 0"),
        (lambda: RangeNorm(replicas=0), "replicas must be at least 1, not 0"),
        (lambda: RangeNorm(momentum=1), "momentum must be at least 0 and below 1, not 1"),
        (lambda: RangeNorm(epsilon=0), "epsilon must be positive, not 0"),
        (lambda: RangeNorm(epsilon=float("nan")), "epsilon must be positive, not nan"),
        (lambda: layer(RangeNorm(replicas=3))(normal()), "a batch of 16 .* in 3 equal parts"),
        (lambda: layer(RangeNorm(chunks=3))(normal()), "32 values per channel .* 3 chunks"),
        (lambda: layer()(normal(0, (0, 3))), "at least 2 values per channel .*, not 0"),
        (
            lambda: replace_batch_norms(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), RangeNorm()),
            "Linear has no batch normalization to replace",
        ),
        (lambda: replace_batch_norms(Net(axis=1), RangeNorm()), "first normalizes axis 1: "),
    ],
)
def test_errors_are_one_clear_line(make, message):
    with pytest.raises(ValueError, match=message) as found:
        make()
    assert "\n" not in str(found.value)


def test_descriptions_differ():
    settings = [
        RangeNorm(), RangeNorm(constant="code"), RangeNorm(chunks=2), RangeNorm(replicas=2),
        RangeNorm(input=Affine()), RangeNorm(error=Affine()), RangeNorm(input=Tracked()),
    ]  # fmt: skip
    assert len({s.describe() for s in settings}) == len(settings)
