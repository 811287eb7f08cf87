"""Signs with scales of least error: binary weight networks and XNOR-Net."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from qtrain.optim import Constraint
from qtrain.quantize.binary_codes import BinaryCodes
from qtrain.zoo.binary import Sign, with_gain
from qtrain.zoo.method import Method

_SIGNS = BinaryCodes(bits=1)  # mean|w| sign(w), per index of the last axis


@dataclasses.dataclass(frozen=True, kw_only=True)
class BWN(Constraint):
    """A filter W of n weights as alpha sign(W), alpha = mean |W|: the least squared error.

    A filter is an index of the last axis. The gradient at W_i is that at alpha sign(W_i), times

      printed  1 / n + alpha 1{|W_i| <= 1}; recalled from the paper, not read
      code     (1 / n + alpha 1{|W_i| < 1}) n (1 - 1 / c), with c input channels; in each step
               weights lose their mean over input channels and are clipped to [-1, 1]
               [rastegari2016xnor, code]

    Of alpha's dependence on the weights, both keep the weight's own share, 1 / n. The code has
    sign(0) = 0, here it is 1.
    """

    rule: Literal["printed", "code"] = "printed"

    sources = ("rastegari2016xnor",)
    needs_key = False

    def __post_init__(self) -> None:
        if self.rule not in ("printed", "code"):
            raise ValueError(f"unknown rule {self.rule!r}: printed or code")

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Scaled signs in the shape of `x`, (..., filters)."""
        fixed = lax.stop_gradient(x)
        alpha = _SIGNS.codes(fixed).scales[0]
        n = max(x.size // max(x.shape[-1], 1), 1)
        if self.rule == "printed":
            gain = jnp.where(jnp.abs(fixed) <= 1, alpha + 1 / n, 1 / n)
        else:
            gain = jnp.where(jnp.abs(fixed) < 1, alpha + 1 / n, 1 / n)
            gain = gain * self._code_factor(x.shape, n)
        return with_gain(_SIGNS.quantize(fixed), x, gain)

    def _code_factor(self, shape: tuple[int, ...], n: int) -> float:
        if len(shape) < 2 or shape[-2] < 2:
            raise ValueError(
                f"rule code needs two input channels, not a kernel of shape {shape}: it takes their"
                " mean out; use printed"
            )
        return n * (1 - 1 / shape[-2])

    def project(
        self, w: jax.Array, state: Any, step: jax.Array, steps: int
    ) -> tuple[jax.Array, Any]:
        """Centres and clips, by the rule of the code."""
        return self.deploy(w, state), state

    def deploy(self, w: jax.Array, state: Any) -> jax.Array:
        """The weights after the last step."""
        if self.rule == "printed":
            return w
        return jnp.clip(w - jnp.mean(w, axis=-2, keepdims=True), -1, 1)

    def describe(self) -> str:
        """A short text for tables."""
        return "sign x mean of a filter" + (" (code)" if self.rule == "code" else "")


@dataclasses.dataclass(frozen=True, kw_only=True)
class XNOR(BWN):
    """A layer on signs of both operands: (sign(x) * sign(W)) K alpha [rastegari2016xnor].

    Weights are those of `BWN`, inputs those of `Sign`, whose signs are all +1 after a ReLU: the
    order of layers is normalization, XNOR, pooling. There is no activation quantizer to give
    beside it. K, one number per output position, is the mean magnitude of what the kernel sees
    there, padding counted as zeros; without `input_scale` it is left out, as in the source's code.

    Recalled, but for the code. Uncertain: K passes no gradient here. alpha is multiplied into the
    signs before they are summed, so sums are rounded, where bit counts would be exact. The code's
    gate for inputs is open, 1{|x| < 1}.
    """

    input_scale: bool = True

    def module(self, kernel: jax.Array | None = None) -> XnorLayer:
        """What does the layer's work."""
        return XnorLayer(self)

    def describe(self) -> str:
        """A short text for tables."""
        return f"{super().describe()}, input sign{' x K' if self.input_scale else ''}"


class XnorLayer(nnx.Module):
    """`XNOR`, as `quantize_model` puts it into a layer; `narrow`: of kernels that are scaled signs
    by themselves, which are taken as they are.
    """

    def __init__(self, settings: XNOR, narrow: bool = False):
        """Has no state."""
        self.settings, self.narrow = settings, narrow

    def narrowed(self, kernel: jax.Array) -> tuple[XnorLayer, jax.Array]:
        """The same layer for the scaled signs of a kernel, and these."""
        return XnorLayer(self.settings, narrow=True), self._weights(kernel)

    def layer(self, op, x: jax.Array, kernel: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """`op` on signs, scaled.

        Raises:
          ValueError: the kernel is neither that of a matrix product nor of a convolution.
        """
        y = op(Sign()(x), self._weights(kernel))
        return y * input_scale(op, x, kernel) if self.settings.input_scale else y

    def _weights(self, kernel: jax.Array) -> jax.Array:
        return kernel if self.narrow else self.settings(kernel)


def input_scale(op, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """K: the mean of |x| over what each output of `op(x, kernel)` sees; without a gradient."""
    if kernel.ndim not in (2, x.ndim):
        raise ValueError(
            f"XNOR scales a matrix product or a convolution, not {x.shape} with {kernel.shape}"
        )
    groups = x.shape[-1] // kernel.shape[-2]
    mean = kernel.shape[-1] / kernel.size
    box = jnp.full((*kernel.shape[:-1], groups), mean, kernel.dtype)
    scale = op(jnp.abs(lax.stop_gradient(x)), box)
    return jnp.repeat(scale, kernel.shape[-1] // groups, axis=-1)


METHODS = (
    Method(
        name="bwn", title="Binary weight networks", source="rastegari2016xnor",
        technique="optimization", codebook="adaptive", targets=("weight",),
        places=lambda bits, activation_bits: {"weight": BWN()},
        estimator="times 1 / n + alpha 1{|w| <= 1}",
        uncertain="the backward rule is recalled; the source's code also centres weights",
        weight_bits=(1,),
    ),
    Method(
        name="xnor", title="XNOR-Net", source="rastegari2016xnor", technique="optimization",
        codebook="adaptive", targets=("weight", "activation"),
        places=lambda bits, activation_bits: {"weight": XNOR()},
        estimator="weights times 1 / n + alpha 1{|w| <= 1}, inputs hard tanh",
        uncertain="recalled; whether the input scale K passes a gradient is not known: here, not",
        weight_bits=(1,), activation_bits=(1,), signed=True,
    ),
)  # fmt: skip
