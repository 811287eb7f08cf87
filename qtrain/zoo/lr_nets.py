"""LR-nets: weights are random and discrete, and training moves their probabilities.

A sum of many independent weights is nearly normal: training samples each pre-activation from the
normal of its exact mean and variance, which can be differentiated [shayer2018lrnets].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from qtrain.nn import Learned
from qtrain.zoo.method import Method

FLOOR = 1e-3  # added to the variance of a pre-activation [shayer2018lrnets, code]


def ternary_start(w: jax.Array) -> tuple[jax.Array, jax.Array]:
    """P(0), and P(1) among values that are not 0, for a weight of unit scale.

    With w clipped to [-1, 1]: P(0) = 0.95 - 0.9 |w|, and (1 + w / (1 - P(0))) / 2, clipped to
    [0.05, 0.95] [shayer2018lrnets, code]. The mean is near w. float32, in the shape of w.
    """
    w = jnp.clip(w.astype(jnp.float32), -1, 1)
    zero = 0.95 - 0.9 * jnp.abs(w)
    return zero, jnp.clip(0.5 * (1 + w / (1 - zero)), 0.05, 0.95)


def binary_start(w: jax.Array) -> jax.Array:
    """P(1) of a weight of unit scale: (1 + w) / 2, clipped to [0.05, 0.95]
    [shayer2018lrnets, code]. The mean is w, up to 0.9. float32, in the shape of w.
    """
    return jnp.clip(0.5 * (1 + jnp.clip(w.astype(jnp.float32), -1, 1)), 0.05, 0.95)


def moments(filled: jax.Array, plus: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and variance of a weight that is not 0 with probability `filled`, and then 1 with
    probability `plus`, else -1. The variance is never negative, rounding included.
    """
    s = 2 * plus - 1
    return filled * s, filled * (1 - filled * (s * s))


def likeliest(filled: jax.Array, plus: jax.Array) -> jax.Array:
    """The likeliest of -1, 0 and 1; a tie goes to 0, and between -1 and 1 to 1. NaN stays NaN."""
    sign = jnp.where(plus < 0.5, -1.0, 1.0)
    w = jnp.where(filled * jnp.maximum(plus, 1 - plus) > 1 - filled, sign, 0.0)
    return jnp.where(jnp.isnan(filled + plus), jnp.nan, w)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LrNet:
    """A layer with random weights of 2 values, -1 and 1, or 3, with 0 [shayer2018lrnets].

    In training, the layer's result for an input x is z = op(x, mean) + sqrt(op(x^2, variance) +
    1e-3) N(0, 1), with the noise drawn anew for each number; the gradient passes through both. In
    evaluation, each weight has its likeliest value. (The source's code draws weights several
    times, and keeps the best.)

    What is learned are logits of probabilities. They begin by the layer's kernel divided by its
    standard deviation, as the source's code stores the weights that it begins with; the kernel is
    not used afterwards. The code adds to the loss, per weight, 1e-6 P(1) P(-1) for binary, and
    5e-12 times each squared logit for ternary weights; here the loss has nothing added.
    """

    values: int = 3

    sources = ("shayer2018lrnets",)
    needs_key = True

    def __post_init__(self) -> None:
        if self.values not in (2, 3):
            raise ValueError(f"values must be 2 (binary) or 3 (ternary), not {self.values}")

    def describe(self) -> str:
        """A short text for tables."""
        return f"LR-net, {'binary' if self.values == 2 else 'ternary'}"

    def module(self, kernel: jax.Array) -> RandomWeights:
        """The learned probabilities of one layer's weights."""
        return RandomWeights(self, kernel)


class RandomWeights(nnx.Module):
    """Logits of P(not 0), if 0 is a value, and of P(1) if not 0; see `LrNet`.

    `model.train()` and `model.eval()` switch between the two ways.
    """

    def __init__(self, settings: LrNet, kernel: jax.Array):
        """In training, with the probabilities that the kernel gives."""
        self.settings = settings
        self.use_running_average = False
        filled, plus = self._start(kernel)
        self.plus = Learned(plus)
        if filled is not None:
            self.filled = Learned(filled)

    def calibrate(self, kernel: jax.Array) -> None:
        """Begins anew with the probabilities that a kernel gives."""
        filled, plus = self._start(kernel)
        self.plus[...] = plus
        if filled is not None:
            self.filled[...] = filled

    def probabilities(self) -> tuple[jax.Array, jax.Array]:
        """P(not 0), and P(1) if not 0, in the shape of the kernel."""
        plus = jax.nn.sigmoid(self.plus[...])
        if self.settings.values == 2:
            return jnp.ones_like(plus), plus
        return jax.nn.sigmoid(self.filled[...]), plus

    def deploy(self, kernel: jax.Array) -> jax.Array:
        """The likeliest weights, of which a plain layer is this one in evaluation."""
        return likeliest(*self.probabilities()).astype(kernel.dtype)

    def layer(
        self, op: Callable, x: jax.Array, kernel: jax.Array, key: jax.Array | None = None
    ) -> jax.Array:
        """The layer on `x`, where `op(x, w)` is its convolution or product with weights w.

        Raises:
          ValueError: in training, without a key.
        """
        if self.use_running_average:
            return op(x, self.deploy(kernel))
        if key is None:
            raise ValueError("random weights need a key in training: set_keys(model, step_key)")
        mean, variance = (m.astype(kernel.dtype) for m in moments(*self.probabilities()))
        center, spread = op(x, mean), jnp.sqrt(op(x * x, variance) + FLOOR)
        return center + spread * jax.random.normal(key, center.shape, center.dtype)

    def _start(self, kernel: jax.Array) -> tuple[jax.Array | None, jax.Array]:
        deviation = jnp.std(kernel)
        w = kernel / jnp.where(deviation == 0, 1, deviation)
        if self.settings.values == 2:
            return None, _logit(binary_start(w))
        zero, plus = ternary_start(w)
        return _logit(1 - zero), _logit(plus)


def _logit(p: jax.Array) -> jax.Array:
    return jnp.log(p / (1 - p))


NOT_BUILT = {
    "ebp": "expectation back-propagation: its weights and their probabilities are updated by"
    " messages of its own, layer by layer and without a learning rate, for fully connected layers"
    " of signs: there is no gradient for an optimizer, and no rule for convolutions",
}

METHODS = (
    Method(
        name="lrnet", title="Local reparameterization network", source="shayer2018lrnets",
        technique="probabilistic", codebook="fixed", targets=("weight",),
        places=lambda bits, _: {"weight": LrNet(values=2 if bits == 1 else 3)}, assignment="soft",
        start="pretrained", master=True,
        estimator="exact, of a normal sample of each pre-activation",
        uncertain="without the source's small regularizers; evaluated by the likeliest weights,"
        " of which the source's code draws several sets and keeps the best",
        weight_bits=(2, 1),
    ),
)  # fmt: skip
