"""A convolutional net small enough to train on a laptop's CPU in a minute."""

from __future__ import annotations

import functools

from flax import nnx


class SmallCnn(nnx.Module):
    """Two 3x3 convolutions with 2x2 max-pooling, two dense layers; about 1.1 M multiply-adds
    per 28x28 image.
    """

    def __init__(self, *, num_classes: int, in_shape: tuple[int, int, int], rngs: nnx.Rngs):
        """`in_shape` is (height, width, channels)."""
        height, width, channels = in_shape
        self.conv1 = nnx.Conv(channels, 16, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(16, 32, (3, 3), rngs=rngs)
        self.hidden = nnx.Linear((height // 4) * (width // 4) * 32, 64, rngs=rngs)
        self.head = nnx.Linear(64, num_classes, rngs=rngs)

    def __call__(self, x):
        """(N, height, width, channels) to (N, num_classes) logits."""
        x = nnx.max_pool(nnx.relu(self.conv1(x)), (2, 2), (2, 2))
        x = nnx.max_pool(nnx.relu(self.conv2(x)), (2, 2), (2, 2))
        x = nnx.relu(self.hidden(x.reshape(x.shape[0], -1)))
        return self.head(x)


class SmallCnnBn(nnx.Module):
    """`SmallCnn` with batch normalization after each layer but the last, in place of biases."""

    def __init__(self, *, num_classes: int, in_shape: tuple[int, int, int], rngs: nnx.Rngs):
        """`in_shape` is (height, width, channels)."""
        height, width, channels = in_shape
        norm = functools.partial(nnx.BatchNorm, momentum=0.9, rngs=rngs)
        self.conv1 = nnx.Conv(channels, 16, (3, 3), use_bias=False, rngs=rngs)
        self.norm1 = norm(16)
        self.conv2 = nnx.Conv(16, 32, (3, 3), use_bias=False, rngs=rngs)
        self.norm2 = norm(32)
        flat = (height // 4) * (width // 4) * 32
        self.hidden = nnx.Linear(flat, 64, use_bias=False, rngs=rngs)
        self.norm3 = norm(64)
        self.head = nnx.Linear(64, num_classes, rngs=rngs)

    def __call__(self, x):
        """(N, height, width, channels) to (N, num_classes) logits."""
        x = nnx.max_pool(nnx.relu(self.norm1(self.conv1(x))), (2, 2), (2, 2))
        x = nnx.max_pool(nnx.relu(self.norm2(self.conv2(x))), (2, 2), (2, 2))
        x = nnx.relu(self.norm3(self.hidden(x.reshape(x.shape[0], -1))))
        return self.head(x)
