"""Learned quantization intervals [jung2019qil].

A layer has one interval [c - d, c + d] for its weights and one for its activations, trained by the
loss of the task. Quantized operands lie in [-1, 1]: nothing restores their scale, so that a
normalization has to follow the layer.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from qtrain.nn import Learned
from qtrain.zoo.interval import discretize, guarded, positive, transform, transform_signed
from qtrain.zoo.method import Method

REACH = 99  # percentile of the values that an interval starts by


@dataclasses.dataclass(frozen=True, kw_only=True)
class IntervalWeight:
    """Weights as j / q, j = -q..q, q = 2^(bits - 1) - 1, by one learned interval per layer.

    It begins as 0 to the 99th percentile of |w| (ours; the paper's rule is not known). `rate`
    multiplies the learning rate of c, d and gamma: a hundredth, as in a public implementation.
    gamma bends the transformer; it is 1, or starts there and is learned. As the sources only use
    positive ones, a learned gamma passes through `positive`.
    """

    bits: int = 4
    learn_gamma: bool = False
    rate: float = 0.01

    sources = ("jung2019qil",)
    needs_key = False

    def __post_init__(self) -> None:
        _check(self.bits, 2, "weights take one for the sign", self.rate)

    @property
    def q(self) -> int:
        """The number of positive levels."""
        return 2 ** (self.bits - 1) - 1

    def describe(self) -> str:
        """A short text for tables."""
        return f"{self.bits}-bit learned interval" + (" and gamma" if self.learn_gamma else "")

    def module(self, kernel: jax.Array) -> WeightInterval:
        """The learned numbers of one layer, first values from its kernel."""
        return WeightInterval(self, kernel)


@dataclasses.dataclass(frozen=True, kw_only=True)
class IntervalActivation:
    """Activations as j / q, j = 0..q, q = 2^bits - 1, by one learned interval per layer.

    It begins as 0 to the 99th percentile of one batch (ours), of [0, 1] before that. Negative
    values become 0: it goes after a ReLU. `rate` as for `IntervalWeight`.
    """

    bits: int = 4
    rate: float = 0.01

    sources = ("jung2019qil",)
    needs_key = False

    def __post_init__(self) -> None:
        _check(self.bits, 1, "there is no narrower code", self.rate)

    @property
    def q(self) -> int:
        """The number of positive levels."""
        return 2**self.bits - 1

    def describe(self) -> str:
        """A short text for tables."""
        return f"{self.bits}-bit learned interval"

    def module(self, kernel: jax.Array | None = None) -> ActivationInterval:
        """The learned numbers of one layer's input."""
        return ActivationInterval(self)


def _check(bits: int, least: int, why: str, rate: float) -> None:
    if not least <= bits <= 16:
        raise ValueError(f"bits must be {least} to 16, not {bits}: {why}")
    if rate < 0:
        raise ValueError(f"rate must be at least 0 (fixed intervals), not {rate}")


class _Interval(nnx.Module):
    """c and d of one operand; the interval may be read as `low_high()`."""

    def __init__(self, settings: IntervalWeight | IntervalActivation):
        self.settings: Any = settings
        self.c = Learned(jnp.float32(0.5), rate=settings.rate)
        self.d = Learned(jnp.float32(0.5), rate=settings.rate)

    def low_high(self) -> tuple[jax.Array, jax.Array]:
        """The ends of the interval, c - d and c + d, of the guarded numbers."""
        c, d = guarded(self.c[...], self.d[...])
        return c - d, c + d

    def _cover(self, sizes: jax.Array) -> None:
        """Sets c = d to half of a percentile, or of the largest where the percentile is zero."""
        sizes = sizes.astype(jnp.float32)
        reach = jnp.percentile(sizes, REACH)
        reach = jnp.where(reach > 0, reach, jnp.max(sizes))
        self.c[...] = self.d[...] = 0.5 * reach


class WeightInterval(_Interval):
    """`IntervalWeight` with its numbers, for one layer."""

    def __init__(self, settings: IntervalWeight, kernel: jax.Array):
        super().__init__(settings)
        if settings.learn_gamma:
            self.gamma = Learned(jnp.float32(1.0), rate=settings.rate)
        self.calibrate(kernel)

    def calibrate(self, w: jax.Array) -> None:
        """First values for weights `w` of any shape."""
        self._cover(jnp.abs(w))

    def __call__(self, w: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """The weights that the layer uses, in `w`'s shape and dtype; `key` is not used."""
        c, d = guarded(self.c[...], self.d[...])
        gamma = positive(self.gamma[...]) if self.settings.learn_gamma else None
        v = transform_signed(w.astype(jnp.float32), c, d, gamma)
        return discretize(v, self.settings.q).astype(w.dtype)


class ActivationInterval(_Interval):
    """`IntervalActivation` with its numbers, for the input of one layer."""

    def calibrate(self, x: jax.Array) -> None:
        """First values for an input like `x`, of any shape."""
        self._cover(x)

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """The input that the layer uses, in `x`'s shape and dtype; `key` is not used."""
        c, d = guarded(self.c[...], self.d[...])
        v = transform(x.astype(jnp.float32), c, d)
        return discretize(v, self.settings.q).astype(x.dtype)


def _places(bits: int | None, activation_bits: int | None) -> dict[str, Any]:
    """Settings by place; gamma is learned at 2 bits only, as a third party's quantizer does."""
    found: dict[str, Any] = {}
    if bits is not None:
        found["weight"] = IntervalWeight(bits=bits, learn_gamma=bits == 2)
    if activation_bits is not None:
        found["activation"] = IntervalActivation(bits=activation_bits)
    return found


METHODS = (
    Method(
        name="qil", title="Learned quantization intervals", source="jung2019qil",
        technique="learned", codebook="adaptive", targets=("weight", "activation"), places=_places,
        start="pretrained",
        estimator="that of the interval's transformer; zero outside of the interval",
        uncertain="first intervals are ours, the paper's are not known; that gamma is learned at"
        " 2 bits only is a third party's default",
        weight_bits=(4, 5, 3, 2), activation_bits=(4, 5, 3, 2),
    ),
)  # fmt: skip
