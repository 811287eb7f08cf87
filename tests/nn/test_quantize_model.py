"""Rules on paths: what they change, what they leave, and how a wrong rule is told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import qtrain as qt
from qtrain import models, nn

CAST = qt.Cast("e5m2")
FORWARD = qt.DotConfig(lhs=CAST, rhs=CAST)
RANDOM = qt.DotConfig(lhs=qt.Cast("e5m2", "stochastic"), rhs=CAST)
SHAPE = (8, 8, 1)


def cnn(seed: int = 0):
    return models.create("small_cnn", num_classes=10, in_shape=SHAPE, rngs=nnx.Rngs(seed))


def images(n: int = 4):
    return jax.random.normal(jax.random.key(1), (n, *SHAPE))


def test_paths():
    assert nn.paths(cnn()) == ("conv1", "conv2", "head", "hidden")


def test_quantizes_only_what_a_rule_matches():
    """One layer by hand: conv1 sees the rounded image and the rounded kernel, the rest nothing.

    Kills: nn/rules.py `fullmatch` -> `match` ("hea" would catch the head).
    """
    model, plain = nn.quantize_model(cnn(), [nn.Rule("hea|conv1", FORWARD)]), cnn()
    x = images()
    plain.conv1.kernel[...] = qt.cast(plain.conv1.kernel[...], "e5m2")
    np.testing.assert_array_equal(model(x), plain(qt.cast(x, "e5m2")))


def test_first_match_wins():
    """Kills: nn/rules.py: the last match wins."""
    rules = [nn.Rule("conv1", qt.DotConfig()), nn.Rule("conv.*", FORWARD)]
    both, second = (
        nn.quantize_model(cnn(), rules),
        nn.quantize_model(cnn(), [nn.Rule("conv2", FORWARD)]),
    )
    np.testing.assert_array_equal(both(images()), second(images()))


def test_empty_config_keeps_every_bit():
    """Outputs and gradients, as nnx computes them without qtrain."""
    x = images()
    loss = lambda model: jnp.sum(model(x) ** 2)  # noqa: E731
    plain = nnx.value_and_grad(loss)(cnn())
    ours = nnx.value_and_grad(loss)(nn.quantize_model(cnn(), [nn.Rule(".*", qt.DotConfig())]))
    jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(plain), jax.tree.leaves(ours))


def test_equal_configs_share_a_compilation():
    """Hooks are part of the graph definition by value, not by identity."""
    split = [nnx.split(nn.quantize_model(cnn(s), [nn.Rule(".*", FORWARD)])) for s in (0, 1)]
    assert split[0][0] == split[1][0]
    traces = []

    @jax.jit
    def run(state, x):
        traces.append(1)
        return nnx.merge(split[0][0], state)(x)

    for _, state in split:
        run(state, images())
    assert len(traces) == 1


def test_keys_differ_by_step_and_layer():
    """Kills: nn/hooks.py `fold(step_key, name)` -> `step_key`."""
    model = nn.quantize_model(cnn(), [nn.Rule("conv.*", RANDOM)])
    seen = set()
    for step in range(3):
        nn.set_keys(model, jax.random.fold_in(jax.random.key(0), step))
        keys = [leaf[...].tolist() for leaf in jax.tree.leaves(
            nnx.state(model, nn.RoundingKey), is_leaf=lambda x: isinstance(x, nn.RoundingKey)
        )]  # fmt: skip
        assert len(keys) == 2
        seen |= {tuple(key) for key in keys}
    assert len(seen) == 6


def test_same_key_same_bits():
    model = nn.quantize_model(cnn(), [nn.Rule(".*", RANDOM)])
    outs = [nn.set_keys(model, jax.random.key(k))(images()) for k in (5, 5, 6)]
    np.testing.assert_array_equal(outs[0], outs[1])
    assert (outs[0] != outs[2]).any()


def test_a_rule_that_matches_nothing_is_an_error():
    message = "rule 'conv3' matches no layer; the layers are conv1, conv2, head, hidden"
    with pytest.raises(ValueError, match=message):
        nn.quantize_model(cnn(), [nn.Rule("conv3", FORWARD)])


def test_no_regular_expression():
    with pytest.raises(ValueError, match=r"\(conv"):
        nn.quantize_model(cnn(), [nn.Rule("(conv", FORWARD)])
