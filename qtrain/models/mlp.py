"""A multilayer perceptron."""

from __future__ import annotations

import math

from flax import nnx


class Mlp(nnx.Module):
    """Two hidden layers of 256, ReLU."""

    def __init__(
        self, *, num_classes: int, in_shape: tuple[int, ...], width: int = 256, rngs: nnx.Rngs
    ):
        """`in_shape` is that of one input."""
        self.hidden1 = nnx.Linear(math.prod(in_shape), width, rngs=rngs)
        self.hidden2 = nnx.Linear(width, width, rngs=rngs)
        self.head = nnx.Linear(width, num_classes, rngs=rngs)

    def __call__(self, x):
        """(N, *in_shape) to (N, num_classes) logits."""
        x = x.reshape(x.shape[0], -1)
        x = nnx.relu(self.hidden1(x))
        return self.head(nnx.relu(self.hidden2(x)))
