"""The smallest net that has both kinds of layers with hooks."""

from flax import nnx


class Net(nnx.Module):
    """A convolution and a dense layer, for images (N, 4, 4, 1)."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(1, 2, (3, 3), rngs=rngs)
        self.dense = nnx.Linear(2 * 4 * 4, 3, rngs=rngs)

    def __call__(self, x):
        return self.dense(nnx.relu(self.conv(x)).reshape(len(x), -1))
