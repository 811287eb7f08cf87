"""Weights that went through their quantizers once: the same outputs, bit for bit."""

import dataclasses

import hypothesis as hp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_net import Net

import qtrain as qt
from qtrain.nn import Rule, Tracked, quantize_model, set_keys
from qtrain.nn.deploy import deploy
from qtrain.nn.hooks import Hook, ModuleHook
from qtrain.quantize import Affine, Cast, Scale

TRACKED = Tracked(quantizer=Affine(bits=4))
TERNARY = Cast("ternary", scale=Scale())
INT8 = Cast("int8", scale=Scale())
DRAWN = Cast("e5m2", rounding="stochastic")
ADDER = qt.Accumulator("e6m9", chunk=4)
CONFIGS = {
    "ternary": qt.DotConfig(rhs=TERNARY),
    "per channel, tracked inputs": qt.DotConfig(
        lhs=TRACKED, rhs=Affine(bits=4, range="channel"), dgrad=Affine()
    ),
    "tracked weights": qt.DotConfig(rhs=TRACKED),
    "both tracked": qt.DotConfig(lhs=TRACKED, rhs=TRACKED),
    "drawn inputs": qt.DotConfig(lhs=DRAWN, rhs=INT8),
    "integers": qt.DotConfig(lhs=INT8, rhs=INT8, integer=True),
}
SLOW = {"narrow sums": qt.DotConfig(lhs=DRAWN, rhs=INT8, forward=ADDER)}


def batch(seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), (6, 4, 4, 1))


def net(config: qt.DotConfig) -> Net:
    """In evaluation, after one batch of training, with weights that are wide again."""
    model = quantize_model(Net(), [Rule(".*", config)])
    model(batch(1))
    model.eval()
    return set_keys(model, jax.random.key(3))


def bits(x) -> np.ndarray:
    return np.asarray(x).view(np.uint32)


@pytest.mark.parametrize(
    "name", [*CONFIGS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_outputs_have_the_same_bits(name):
    """Of the jitted model and of the one that is not; and the model itself is left alone.

    Kills: nn/deploy.py: `layer.kernel[...] = narrow` removed; `nnx.clone(model)` -> `model`;
    `model.eval()` removed; `setattr(layer, name, _without_weight(hook))` removed.
    """
    model = net((CONFIGS | SLOW)[name])
    before = bits(model.dense.kernel[...])
    plain, jitted = model(batch()), nnx.jit(lambda m, x: m(x))(model, batch())
    if name == "both tracked":
        model.train()  # what `deploy` must see to
    shipped = deploy(model)
    np.testing.assert_array_equal(bits(shipped(batch())), bits(plain))
    np.testing.assert_array_equal(bits(nnx.jit(lambda m, x: m(x))(shipped, batch())), bits(jitted))
    np.testing.assert_array_equal(bits(model.dense.kernel[...]), before)
    assert model.dense.dot_general.config.rhs is not None
    assert (bits(shipped.dense.kernel[...]) != before).any()


@hp.settings(max_examples=10)
@hp.given(seed=st.integers(0, 999), config=st.sampled_from(list(CONFIGS.values())[:4]))
def test_any_weights(seed, config):
    """Kernels of any size, with values that are all alike or zero, not jitted: each operation
    has been compiled before."""
    rng = np.random.default_rng(seed)
    model = net(config)
    for layer in (model.conv, model.dense):
        w = rng.standard_t(3, layer.kernel.shape) * 10.0 ** rng.integers(-6, 6)
        w[..., 0] = rng.choice([0, w.flat[0]])
        layer.kernel[...] = jnp.asarray(w, jnp.float32)
    np.testing.assert_array_equal(bits(deploy(model)(batch())), bits(model(batch())))


@pytest.mark.parametrize("name", CONFIGS)
def test_what_stays_in_the_hooks(name):
    """All but the weight's quantizer; a hook without state is plain again.

    Kills: nn/deploy.py: `dataclasses.replace(hook.config, rhs=None)` -> `DotConfig()`; `hook.lhs
    is None and` removed.
    """
    config = CONFIGS[name]
    shipped = deploy(net(config))
    kept = dataclasses.replace(config, rhs=None)
    assert shipped.conv.conv_general_dilated.config == kept
    dense = shipped.dense.dot_general
    assert dense.config == (config if name == "integers" else kept)
    stateful = config.lhs in (TRACKED, DRAWN)
    assert isinstance(dense, ModuleHook if stateful else Hook)
    if config.lhs == TRACKED:
        assert float(dense.lhs.high[...]) == float(net(config).dense.dot_general.lhs.high[...]) > 0


@pytest.mark.parametrize(("method", "narrow"), [("absmax", True), ("percentile", False)])
def test_integers_keep_their_codes(method, narrow):
    """A narrow weight gives the same codes and scale again, or the wide one stays.

    Kills: nn/deploy.py: `if not _found_again(config.rhs, kernel, narrow):` -> `if False:` and
    `if True:`.
    """
    quantizer = Cast("int8", scale=Scale(method=method, percentile=90))
    model = net(qt.DotConfig(lhs=INT8, rhs=quantizer, integer=True))
    shipped = deploy(model)
    assert (shipped.dense.kernel[...] == quantizer(model.dense.kernel[...])).all() == narrow
    np.testing.assert_array_equal(bits(shipped(batch())), bits(model(batch())))


class Whole(nnx.Module):
    """A layer twice as large."""

    def layer(self, op, x, kernel, key=None):
        return op(x, kernel) * 2


class Folds(Whole):
    """The same, which knows the weight that does it."""

    def deploy(self, kernel):
        return kernel * 2


class Narrows(Whole):
    """The same, which cannot be a plain layer, but needs no wide weight."""

    def __init__(self, given=False):
        self.given = given

    def layer(self, op, x, kernel, key=None):
        return op(x, self.weight(kernel)) * 2

    def narrowed(self, kernel):
        return Narrows(given=True), self.weight(kernel)

    def weight(self, kernel):
        return kernel if self.given else jnp.round(kernel * 8)


@dataclasses.dataclass(frozen=True)
class Method:
    kind: type
    needs_key = False

    def module(self, kernel):
        return self.kind()

    def describe(self):
        return self.kind.__name__


@pytest.mark.parametrize("kind", [Whole, Folds, Narrows])
def test_whole_layers(kind):
    """They stay, unless they offer a weight; with a narrow one if they know how.

    Kills: nn/deploy.py: `hasattr(module, "deploy") or ` removed; `if hasattr(module,
    "deploy"):` -> `if False:`; `if hasattr(module, "narrowed"):` -> `if False:`.
    """
    model = net(qt.DotConfig(lhs=TRACKED, rhs=Method(kind)))
    shipped = deploy(model)
    assert (shipped.dense.dot_general.rhs is None) == (kind is Folds)
    changed = bits(shipped.dense.kernel[...]) != bits(model.dense.kernel[...])
    assert changed.any() == (kind is not Whole)
    for again in (shipped, deploy(shipped)):
        np.testing.assert_array_equal(bits(again(batch())), bits(model(batch())))


@dataclasses.dataclass(frozen=True)
class Still:
    """Draws in training alone, as StochasticBinaryConnect does."""

    needs_key = True

    def module(self, kernel):
        return Stills()

    def describe(self):
        return "drawn in training"


class Stills(nnx.Module):
    def __init__(self):
        self.use_running_average = False

    def __call__(self, x, key=None):
        return x * 2 if self.use_running_average else x + jax.random.normal(key, x.shape)


def test_random_bits():
    """In evaluation there may be none; a key that nothing needs any more is gone.

    Kills: nn/deploy.py: `jax.random.key(1)` -> `jax.random.key(0)`; `del hook.key` -> `pass`.
    """
    with pytest.raises(ValueError, match=r"^conv: e5m2 stochastic draws its weights anew in each"):
        deploy(net(qt.DotConfig(rhs=DRAWN)))
    model = net(qt.DotConfig(lhs=TRACKED, rhs=Still()))
    shipped = deploy(model)
    np.testing.assert_array_equal(bits(shipped(batch())), bits(model(batch())))
    assert not jax.tree.leaves(nnx.state(shipped, qt.nn.RoundingKey))


def test_what_a_hook_does_not_see_is_refused():
    model = net(qt.DotConfig(rhs=TERNARY))
    model.conv.mask = nnx.data(jnp.ones(model.conv.kernel.shape))
    with pytest.raises(ValueError, match="conv: a mask comes before the quantizer"):
        deploy(model)
    model = net(qt.DotConfig(rhs=TERNARY))
    model.dense.dtype = jnp.bfloat16
    with pytest.raises(ValueError, match="dense: only float32 layers can be deployed, not"):
        deploy(model)


def test_a_model_without_quantizers_is_copied():
    shipped = deploy(Net())
    np.testing.assert_array_equal(bits(shipped(batch())), bits(Net()(batch())))
