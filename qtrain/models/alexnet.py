"""AlexNet in its one-tower form [krizhevsky2014weird]."""

from __future__ import annotations

from flax import nnx


class AlexNet(nnx.Module):
    """Five convolutions and three dense layers, for images of about 224x224; no dropout, so
    that runs in different formats differ by the formats alone.
    """

    def __init__(self, *, num_classes: int, in_shape: tuple[int, int, int], rngs: nnx.Rngs):
        """`in_shape` is (height, width, channels), at least 63x63."""
        height, width, channels = in_shape
        if min(height, width) < 63:
            raise ValueError(f"AlexNet needs images of at least 63x63, not {height}x{width}")
        self.conv1 = nnx.Conv(channels, 64, (11, 11), strides=4, padding=2, rngs=rngs)
        self.conv2 = nnx.Conv(64, 192, (5, 5), padding=2, rngs=rngs)
        self.conv3 = nnx.Conv(192, 384, (3, 3), padding=1, rngs=rngs)
        self.conv4 = nnx.Conv(384, 256, (3, 3), padding=1, rngs=rngs)
        self.conv5 = nnx.Conv(256, 256, (3, 3), padding=1, rngs=rngs)
        pixels = _after_pools(height) * _after_pools(width)
        self.hidden1 = nnx.Linear(pixels * 256, 4096, rngs=rngs)
        self.hidden2 = nnx.Linear(4096, 4096, rngs=rngs)
        self.head = nnx.Linear(4096, num_classes, rngs=rngs)

    def __call__(self, x):
        """(N, H, W, C) to (N, num_classes) logits."""
        x = nnx.max_pool(nnx.relu(self.conv1(x)), (3, 3), (2, 2))
        x = nnx.max_pool(nnx.relu(self.conv2(x)), (3, 3), (2, 2))
        for conv in (self.conv3, self.conv4, self.conv5):
            x = nnx.relu(conv(x))
        x = nnx.max_pool(x, (3, 3), (2, 2))
        x = nnx.relu(self.hidden1(x.reshape(x.shape[0], -1)))
        return self.head(nnx.relu(self.hidden2(x)))


def _after_pools(size: int) -> int:
    """Side length behind the first convolution and three 3x3 pools of stride 2."""
    size = (size + 4 - 11) // 4 + 1
    for _ in range(3):
        size = (size - 3) // 2 + 1
    return size
