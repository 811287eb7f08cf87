"""Weights that are drawn to their quantized values: BinaryRelax and ProxQuant.

Both start soft, with weights almost free, and end with quantized ones.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from qtrain.optim import Constraint
from qtrain.quantize.binary_codes import BinaryCodes
from qtrain.quantize.estimator import straight_through
from qtrain.quantize.product import product
from qtrain.zoo.method import Method
from qtrain.zoo.ternary import TWN, scale_of

Quantizer = Any  # `(w, key=None) -> alpha codes`, with one scale per array and codes of -1, 0, 1
_TERNARY, _BINARY = TWN(), BinaryCodes(bits=1, per="layer")


def relax(w: jax.Array, q: jax.Array, eta: jax.Array) -> jax.Array:
    """(eta q + w) / (1 + eta), as a blend: exactly `w` for eta = 0, exactly `q` for infinity."""
    own = 1 / (1 + eta)
    return product(own, w) + product(1 - own, q)


def attract(w: jax.Array, q: jax.Array, by: jax.Array) -> jax.Array:
    """Each weight nearer to `q` by `by`, or at `q`: the proximal step of by sum |w - q|."""
    away = w - q
    return jnp.where(jnp.abs(away) <= by, q, w - jnp.sign(away) * by)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BinaryRelax:
    """The forward pass uses (eta Q(w) + w) / (1 + eta), with a growing eta [yin2018binaryrelax].

    eta is 1 in the first step and `growth` times larger in each one after it. From `exact_from` on
    the forward pass has Q(w) itself (the second phase), as it always has in evaluation. The
    gradient there is applied to w as it is.

    Q is `quantizer`: TWN, or for binary weights `BinaryCodes(bits=1, per="layer")`. The source's
    code averages |w| of ternary weights over all of them, where `TWN` takes those it keeps.

    growth and exact_from are ours; by default the second phase begins after 123 steps. For a
    first phase of T steps: growth = exact_from ** (1 / T).
    """

    quantizer: Quantizer = _TERNARY
    growth: float = 1.05
    exact_from: float = 400.0

    sources = ("yin2018binaryrelax",)
    needs_key = False

    def __post_init__(self) -> None:
        if not 1 < np.float32(self.growth) < math.inf:
            raise ValueError(f"growth must be above 1, in float32 too, not {self.growth}")
        if not 1 < self.exact_from < math.inf:
            raise ValueError(f"exact_from must be above 1 and finite, not {self.exact_from}")

    def describe(self) -> str:
        """A short text for tables."""
        return f"relaxed {self.quantizer.describe()}, eta {self.growth:g}^t < {self.exact_from:g}"

    def module(self, kernel: jax.Array) -> Relaxation:
        """The growing eta of one layer."""
        return Relaxation(self)


class Relaxation(nnx.Module):
    """`BinaryRelax` with its eta; `model.train()` and `model.eval()` switch it."""

    def __init__(self, settings: BinaryRelax):
        self.settings = settings
        self.use_running_average = False
        self.eta = nnx.BatchStat(jnp.float32(1))

    def __call__(self, w: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """The weights of this step, in the shape and type of `w`; `key` is not used."""
        exact = jnp.float32(jnp.inf)
        eta, last = self.eta[...], np.float32(self.settings.exact_from)
        if self.use_running_average:
            used = exact
        else:
            used = jnp.where(eta >= last, exact, eta)
            self.eta[...] = jnp.minimum(eta * np.float32(self.settings.growth), last)

        def values(w):
            q = self.settings.quantizer(w).astype(jnp.float32)
            return relax(w.astype(jnp.float32), q, used).astype(w.dtype)

        return straight_through(values, w)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProxQuant(Constraint):
    """After each step, weights move towards their quantized values [bai2019proxquant].

        w <- w - sign(w - q) min(|w - q|, rate t),   q = Q(w),   after t steps

    The gradient is taken at w itself. From the share `freeze` of the run on, codes stay what they
    are, and w is the nearest multiple of them: quantized, with a scale that still moves. Before,
    Q(w) is what is evaluated.

    Q is `quantizer`: TWN, or for binary weights `BinaryCodes(bits=1, per="layer")`; it must have
    one scale. rate 1e-4 and freeze 2/3 are those of a script of the source; whether it counts t in
    steps, as here, or epochs, and whether scales move after freezing, is not known.
    """

    quantizer: Quantizer = _TERNARY
    rate: float = 1e-4
    freeze: float = 2 / 3

    sources = ("bai2019proxquant",)

    def __post_init__(self) -> None:
        if not 0 <= self.rate < math.inf:
            raise ValueError(f"rate must be finite and at least 0, not {self.rate}")
        if not 0 <= self.freeze <= 1:
            raise ValueError(f"freeze is a share of the run, 0 to 1, not {self.freeze}")

    def describe(self) -> str:
        """A short text for tables."""
        return f"drawn to {self.quantizer.describe()} by {self.rate:g} t"

    def init(self, w: jax.Array, steps: int) -> dict[str, jax.Array]:
        """No codes are frozen yet."""
        return {"frozen": jnp.zeros((), bool), "codes": jnp.zeros(w.shape, jnp.int8)}

    def project(
        self, w: jax.Array, state: dict[str, jax.Array], step: jax.Array, steps: int
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The proximal step, or the nearest multiple of the frozen codes."""
        q = self.quantizer(w)
        frozen = step >= math.ceil(self.freeze * steps)
        codes = jnp.where(state["frozen"], state["codes"], jnp.sign(q).astype(jnp.int8))
        codes = jnp.where(frozen, codes, 0).astype(jnp.int8)
        by = product(step.astype(jnp.float32), np.float32(self.rate)).astype(w.dtype)
        new = jnp.where(frozen, _multiple(w, codes), attract(w, q, by))
        return new, {"frozen": frozen, "codes": codes}

    def deploy(self, w: jax.Array, state: dict[str, jax.Array]) -> jax.Array:
        """The nearest multiple of the frozen codes, or Q(w)."""
        return jnp.where(state["frozen"], _multiple(w, state["codes"]), self.quantizer(w))


def _multiple(w: jax.Array, codes: jax.Array) -> jax.Array:
    return (scale_of(w, codes.astype(jnp.float32)) * codes).astype(w.dtype)


def _method(name: str, title: str, source: str, make, estimator: str, uncertain: str) -> Method:
    def places(bits, activation_bits):
        return {"weight": make(quantizer=_BINARY if bits == 1 else _TERNARY)}

    return Method(
        name=name,
        title=title,
        source=source,
        technique="optimization",
        codebook="adaptive",
        targets=("weight",),
        places=places,
        start="pretrained",
        master=make is BinaryRelax,
        estimator=estimator,
        uncertain=uncertain,
        weight_bits=(2, 1),
    )


METHODS = (
    _method(
        "binaryrelax", "BinaryRelax", "yin2018binaryrelax", BinaryRelax, "identity",
        "how fast eta grows, and when the second phase begins",
    ),
    _method(
        "proxquant", "ProxQuant", "bai2019proxquant", ProxQuant,
        "none: the gradient at the weights themselves",
        "whether t counts steps or epochs; whether scales move after freezing",
    ),
)  # fmt: skip
