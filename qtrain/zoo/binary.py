"""Weights and activations of one bit by their sign alone: BinaryConnect and BNN.

How far signs turn a vector is in theory/angle.py: 37 degrees for many normal weights. `xnor` gives
signs a scale.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from qtrain.optim import Constraint
from qtrain.quantize import cast
from qtrain.quantize.estimator import straight_through
from qtrain.zoo.method import Method


def sign(x: jax.Array) -> jax.Array:
    """-1 or +1 in the shape and dtype of `x`; +1 at both zeros, NaN at NaN."""
    return jnp.where(x < 0, -1, jnp.where(x >= 0, 1, x))


def with_gain(q: jax.Array, x: jax.Array, gain: jax.Array) -> jax.Array:
    """The value `q` with the gradient of gain x; `gain` broadcasts, and has none itself."""
    return straight_through(lambda _: q, x * lax.stop_gradient(gain).astype(x.dtype))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sign:
    """An activation as -1 or +1; the gradient is that of hard tanh, 1{|x| <= 1}.

    [hubara2016bnn, eq. (4)]. What comes out of a ReLU is +1 throughout: put it where inputs have
    both signs, after a normalization.
    """

    sources = ("hubara2016bnn",)
    needs_key = False

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Signs in the shape of `x`."""
        return straight_through(sign, x, clip=(-1, 1))

    def describe(self) -> str:
        """A short text for tables."""
        return "sign"


@dataclasses.dataclass(frozen=True, kw_only=True)
class BinaryConnect(Constraint):
    """A weight as -H or +H, by its sign; the wide weights stay in [-H, H].

    The gradient at the binary weight goes to the wide one as it is, without a gate
    [courbariaux2015binaryconnect, code].

    bound   H: a number, or "glorot": sqrt(1.5 / (fan in + fan out)), where the fans of a
            convolution count the kernel's area
    scaled  multiply each step of the optimizer by sqrt((fan in + fan out) / 1.5), as the code does

    Deviations: +H at zero, where the code has -H, since it rounds (w / H + 1) / 2 half to even; in
    float32 it has so up to 2^-24 H. Weights start as those of the model, not uniform in [-H, H].
    """

    bound: float | Literal["glorot"] = 1.0
    scaled: bool = True

    sources = ("courbariaux2015binaryconnect",)
    needs_key = False

    def __post_init__(self) -> None:
        if self.bound != "glorot" and not (
            isinstance(self.bound, (int, float)) and 0 < self.bound < math.inf
        ):
            raise ValueError(f"bound must be a positive number or glorot, not {self.bound!r}")

    def limit(self, shape: tuple[int, ...]) -> np.float32:
        """H of a kernel of this shape, (..., fan in, fan out)."""
        return _glorot(shape) if self.bound == "glorot" else np.float32(self.bound)

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Binary weights in the shape of `x`."""
        return straight_through(lambda x: (sign(x) * self.limit(x.shape)).astype(x.dtype), x)

    def init(self, w: jax.Array, steps: int) -> Any:
        """The weight before the next step; nothing unless steps are scaled."""
        return jnp.array(w, copy=True) if self.scaled else ()

    def project(
        self, w: jax.Array, state: Any, step: jax.Array, steps: int
    ) -> tuple[jax.Array, Any]:
        """Scales the step that led to `w`, then clips."""
        w = self.deploy(w, state)
        return w, w if self.scaled else ()

    def deploy(self, w: jax.Array, state: Any) -> jax.Array:
        """The wide weights after the last step."""
        dtype = w.dtype
        if self.scaled:
            w = state + (w - state) * (1 / _glorot(w.shape))
        h = self.limit(w.shape)
        return jnp.clip(w, -h, h).astype(dtype)

    def describe(self) -> str:
        """A short text for tables."""
        return f"sign x {'Glorot bound' if self.bound == 'glorot' else f'{self.bound:g}'}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class StochasticBinaryConnect(BinaryConnect):
    """`BinaryConnect` with +H at random, of probability clip((w / H + 1) / 2, 0, 1).

    Without bias in [-H, H], up to the 24 bits of the probability. In evaluation the wide weights
    are used as they are [courbariaux2015binaryconnect, code].
    """

    needs_key = True

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Binary weights in the shape of `x`; the same key draws the same."""
        h = self.limit(x.shape)

        def draw(x):
            return (cast(x.astype(jnp.float32) * (1 / h), "binary", key, rounding="stochastic") * h
                    ).astype(x.dtype)  # fmt: skip

        return straight_through(draw, x)

    def module(self, kernel: jax.Array | None = None) -> DrawnWeights:
        """What tells training from evaluation."""
        return DrawnWeights(self)

    def describe(self) -> str:
        """A short text for tables."""
        return f"{super().describe()}, drawn"


class DrawnWeights(nnx.Module):
    """`StochasticBinaryConnect`; `model.train()` and `model.eval()` switch it."""

    def __init__(self, settings: StochasticBinaryConnect):
        """In training."""
        self.settings = settings
        self.use_running_average = False

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Binary in training, `x` itself in evaluation."""
        return x if self.use_running_average else self.settings(x, key)


def _glorot(shape: tuple[int, ...]) -> np.float32:
    """sqrt(1.5 / (fan in + fan out)) of a kernel (..., in, out)."""
    if len(shape) < 2:
        raise ValueError(f"a kernel of shape {shape} has no fans: (..., in, out) is needed")
    return np.float32(math.sqrt(1.5 / (math.prod(shape[:-2]) * (shape[-2] + shape[-1]))))


def _method(**fields: Any) -> Method:
    """Fields that the three share."""
    weights = {"targets": ("weight",), "estimator": "identity, weights clipped"} | fields
    return Method(codebook="fixed", weight_bits=(1,), **weights)


METHODS = (
    _method(
        name="binaryconnect", title="BinaryConnect, deterministic",
        source="courbariaux2015binaryconnect", technique="rounding",
        places=lambda bits, activation_bits: {"weight": BinaryConnect()},
    ),
    _method(
        name="binaryconnect_stochastic", title="BinaryConnect, stochastic",
        source="courbariaux2015binaryconnect", technique="random rounding",
        places=lambda bits, activation_bits: {"weight": StochasticBinaryConnect()},
    ),
    _method(
        name="bnn", title="Binarized neural networks", source="hubara2016bnn",
        technique="rounding", targets=("weight", "activation"),
        places=lambda bits, activation_bits: {"weight": BinaryConnect(), "activation": Sign()},
        estimator="weights identity and clipped, activations hard tanh", activation_bits=(1,),
        signed=True,
    ),
)  # fmt: skip
