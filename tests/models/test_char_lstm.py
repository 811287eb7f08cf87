"""The character model is the recurrence that it says it is, quantized or not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recurrence
from flax import nnx

from qtrain import models, nn
from qtrain.models import CharLstm
from qtrain.nn import Rule, quantize_model, set_keys
from qtrain.ops import DotConfig
from qtrain.quantize import Cast
from qtrain.recipes.layers import layers

LETTERS, WIDTH, T, N = 11, 8, 6, 5
EVERY = "inputs|recurrent|head"


def small(seed=0) -> CharLstm:
    return CharLstm(num_classes=LETTERS, in_shape=(T,), width=WIDTH, rngs=nnx.Rngs(seed))


def ids(seed=0):
    return jax.random.randint(jax.random.key(seed), (N, T), 0, LETTERS).astype(jnp.uint8)


def numbers(model) -> dict:
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


@nnx.jit
def logits(model, x):
    return model(x)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_is_the_recurrence(seed):
    """Within what float32 sums may differ by.

    Kills: models/char_lstm.py: `write, keep, value, show` in another order; `recurrent(hidden)` ->
    `0 * recurrent(hidden)`; `return (hidden, cell), hidden` -> `return (cell, hidden), hidden`.
    """
    model, x = small(seed), ids(seed)
    exact, bound, arguments = recurrence.logits(numbers(model), x)
    assert recurrence.functions_err(arguments) <= recurrence.FUNCTION
    assert (np.abs(np.asarray(logits(model, x), np.float64) - exact) <= bound).all()
    assert bound.max() < 1e-4  # of logits near 1


def test_says_nothing_of_what_follows():
    """A later character changes no earlier output, and every later one.

    Kills: models/char_lstm.py: `nnx.Carry, 1), out_axes=(nnx.Carry, 1)` -> both 0.
    """
    model, x = small(), ids()
    changed = x.at[:, 3].set((x[:, 3] + 1) % LETTERS)
    one, other = logits(model, x), logits(model, changed)
    np.testing.assert_array_equal(one[:, :3], other[:, :3])
    assert (one[:, 3:] != other[:, 3:]).any(axis=(0, 2)).all()


def test_forget_gates_start_open():
    """Kills: models/char_lstm.py: `[0, 1, 0, 0]` -> `[1, 0, 0, 0]`."""
    bias = np.asarray(small().inputs.bias[...]).reshape(4, WIDTH)
    np.testing.assert_array_equal(bias, np.repeat([[0], [1], [0], [0]], WIDTH, axis=1))


def test_layers_know_their_sums():
    """The recurrent product runs once a character: its weight gradient sums over the batch.

    Kills: recipes/layers.py: `outputs[path] | own` -> `own`.
    """
    found = layers(small(), (N, T))
    assert [(x.path, x.forward, x.input_grad, x.weight_grad) for x in found] == [
        ("inputs", LETTERS, 4 * WIDTH, N * T),
        ("recurrent", WIDTH, 4 * WIDTH, N),
        ("head", WIDTH, LETTERS, N * T),
    ]
    assert set(nn.rules.paths(small())) == {x.path for x in found}


def test_rounded_weights():
    """Rounded in the hooks is rounded before, bit for bit."""
    cast = Cast("e5m2")
    quantized = quantize_model(small(), [Rule(EVERY, DotConfig(rhs=cast))])
    before = small()
    for layer in (before.inputs, before.recurrent, before.head):
        layer.kernel[...] = cast(layer.kernel[...])
    np.testing.assert_array_equal(logits(quantized, ids()), logits(before, ids()))
    assert (logits(quantized, ids()) != logits(small(), ids())).any()


def gradients(key, x):
    """Of the sum of squares of a model that rounds every operand and error at random."""
    cast = Cast("e5m2", rounding="stochastic")
    config = DotConfig(lhs=cast, rhs=cast, dgrad=cast, wgrad=cast)
    model = quantize_model(small(), [Rule(EVERY, config)])
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def grad(params, rest, x):
        loss = lambda p: jnp.sum(nnx.merge(graph, p, rest, copy=True)(x) ** 2)  # noqa: E731
        return jax.grad(loss)(params)

    return jax.tree.leaves(grad(params, set_keys(rest, jax.random.key(key)), x))


def test_random_rounding():
    """One key, the same bits; another, others; in the recurrence as well."""
    first, same, other = (gradients(key, ids()) for key in (0, 0, 1))
    for a, b, c in zip(first, same, other, strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_array_equal(a, b)
        assert (a != c).any()


@dataclasses.dataclass(frozen=True)
class Counting:
    """A quantizer that only counts its calls."""

    needs_key = False

    def module(self, kernel) -> nnx.Module:
        return Counter()


class Counter(nnx.Module):
    def __init__(self):
        self.calls = nnx.BatchStat(jnp.zeros(()))

    def __call__(self, x, key=None):
        self.calls[...] = self.calls[...] + 1
        return x


def test_state_goes_from_character_to_character():
    """A quantizer that keeps state is called once a character inside, once outside.

    Kills: models/char_lstm.py: `(..., nnx.Carry)` -> `(..., None)`.
    """
    model = quantize_model(small(), [Rule(EVERY, DotConfig(lhs=Counting()))])
    np.testing.assert_array_equal(logits(model, ids()), logits(small(), ids()))
    layers = {name: getattr(model, name).dot_general for name in EVERY.split("|")}
    calls = {name: int(hook.lhs.calls[...]) for name, hook in layers.items()}
    assert calls == {"inputs": 1, "recurrent": T, "head": 1}


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("char_lstm", (28, 28, 1), r"char_lstm reads windows of text, not inputs of \(28, 28, 1\)"),
        ("small_cnn", (64,), "small_cnn does not read text: --model char_lstm does"),
    ],
)
def test_other_inputs_are_refused(name, shape, message):
    with pytest.raises(ValueError, match=message):
        models.create(name, num_classes=10, in_shape=shape, rngs=nnx.Rngs(0))
