"""A recurrent net that models text character by character."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


class CharLstm(nnx.Module):
    """One layer of long short-term memory with forget gates, a dense layer for the next character
    [hochreiter1997lstm; gers2000forget].

    The products of the inputs do not wait for the recurrence: they are one GEMM over all
    characters. The recurrent product runs once per character, with the same weights.
    """

    def __init__(
        self, *, num_classes: int, in_shape: tuple[int, ...], width: int = 128, rngs: nnx.Rngs
    ):
        """`in_shape` is (T,), the characters of a window.

        Forget gates start open, with a bias of 1 [jozefowicz2015empirical]. A character picks one
        row of the input kernel, so its values start with variance 1, not with 1 / num_classes:
        after 240 steps that is worth 0.3 bits per character.

        Raises:
          ValueError: inputs of another rank, such as images.
        """
        if len(in_shape) != 1:
            raise ValueError(
                f"char_lstm reads windows of text, not inputs of {in_shape}: --data sotu-1m is text"
            )
        self.width = width
        unit = nnx.initializers.normal(1.0)
        self.inputs = nnx.Linear(
            num_classes, 4 * width, kernel_init=unit, bias_init=_open, rngs=rngs
        )
        self.recurrent = nnx.Linear(
            width, 4 * width, use_bias=False, kernel_init=nnx.initializers.orthogonal(), rngs=rngs
        )
        self.head = nnx.Linear(width, num_classes, rngs=rngs)

    def __call__(self, x):
        """Indices of characters (N, T) to logits (N, T, num_classes) of the next ones.

        The state is zero before the first character of each window.
        """
        letters = jax.nn.one_hot(x.astype(jnp.int32), self.inputs.in_features)
        zero = jnp.zeros((len(x), self.width))
        _, hidden = _recurrence(self.recurrent, (zero, zero), self.inputs(letters))
        return self.head(hidden)


def _open(key, shape, dtype):
    """Biases of the gates i, f, g, o: zero, but 1 for f."""
    return jnp.repeat(jnp.asarray([0, 1, 0, 0], dtype), shape[0] // 4)


def _character(recurrent, state, inputs):
    """One character: the state (h, c) and the new h; gates in the order i, f, g, o."""
    hidden, cell = state
    gates = inputs + recurrent(hidden)
    write, keep, value, show = jnp.split(gates, 4, axis=-1)
    cell = nnx.sigmoid(keep) * cell + nnx.sigmoid(write) * jnp.tanh(value)
    hidden = nnx.sigmoid(show) * jnp.tanh(cell)
    return (hidden, cell), hidden


# what layers keep, the state of their hooks among it, goes on from character to character
_LAYER: Any = nnx.StateAxes([(..., nnx.Carry)])
_recurrence: Any = nnx.scan(_character, in_axes=(_LAYER, nnx.Carry, 1), out_axes=(nnx.Carry, 1))
