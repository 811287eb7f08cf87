"""A convolutional net small enough to train on a laptop's CPU in a minute."""

from __future__ import annotations

import functools

from flax import nnx


class SmallCnn(nnx.Module):
    """Two 3x3 convolutions with 2x2 max-pooling, two dense layers; about 1.1 M multiply-adds
    per 28x28 image.
    """

    def __init__(
        self, *, num_classes: int, in_shape: tuple[int, int, int], rngs: nnx.Rngs, width: int = 1
    ):
        """`in_shape` is (height, width, channels); `width` multiplies the hidden channels."""
        flat, (a, b, c) = _flat(in_shape), (width * n for n in (16, 32, 64))
        self.conv1 = nnx.Conv(in_shape[-1], a, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(a, b, (3, 3), rngs=rngs)
        self.hidden = nnx.Linear(flat * b, c, rngs=rngs)
        self.head = nnx.Linear(c, num_classes, rngs=rngs)

    def __call__(self, x):
        """(N, height, width, channels) to (N, num_classes) logits."""
        x = nnx.max_pool(nnx.relu(self.conv1(x)), (2, 2), (2, 2))
        x = nnx.max_pool(nnx.relu(self.conv2(x)), (2, 2), (2, 2))
        x = nnx.relu(self.hidden(x.reshape(x.shape[0], -1)))
        return self.head(x)


class SmallCnnBn(nnx.Module):
    """`SmallCnn` with batch normalization after each layer but the last, in place of biases."""

    def __init__(
        self,
        *,
        num_classes: int,
        in_shape: tuple[int, int, int],
        rngs: nnx.Rngs,
        width: int = 1,
        signed: bool = False,
    ):
        """`in_shape` is (height, width, channels); `width` multiplies the hidden channels.

        `signed`: hard tanh in place of ReLU, and pooling first: the largest of four is seldom
        negative after a normalization.
        """
        self.signed = signed
        norm = functools.partial(nnx.BatchNorm, momentum=0.9, rngs=rngs)
        flat, (a, b, c) = _flat(in_shape), (width * n for n in (16, 32, 64))
        self.conv1 = nnx.Conv(in_shape[-1], a, (3, 3), use_bias=False, rngs=rngs)
        self.norm1 = norm(a)
        self.conv2 = nnx.Conv(a, b, (3, 3), use_bias=False, rngs=rngs)
        self.norm2 = norm(b)
        self.hidden = nnx.Linear(flat * b, c, use_bias=False, rngs=rngs)
        self.norm3 = norm(c)
        self.head = nnx.Linear(c, num_classes, rngs=rngs)

    def __call__(self, x):
        """(N, height, width, channels) to (N, num_classes) logits."""
        x = self._pooled(self.norm1, self.conv1(x))
        x = self._pooled(self.norm2, self.conv2(x))
        x = self.norm3(self.hidden(x.reshape(x.shape[0], -1)))
        return self.head(nnx.hard_tanh(x) if self.signed else nnx.relu(x))

    def _pooled(self, norm, x):
        if self.signed:
            return nnx.hard_tanh(norm(nnx.max_pool(x, (2, 2), (2, 2))))
        return nnx.max_pool(nnx.relu(norm(x)), (2, 2), (2, 2))


def _flat(in_shape: tuple[int, int, int]) -> int:
    """Pixels that two 2x2 poolings leave."""
    return (in_shape[0] // 4) * (in_shape[1] // 4)
