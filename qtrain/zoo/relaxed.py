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
from qtrain.zoo.ternary import TWN

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

    eta is exact_from^(t / steps) in step t = 0, 1, ... and the forward pass has Q(w) itself from
    t = `steps` on (the second phase), as it always has in evaluation. The gradient there is applied
    to w as it is.

    Q is `quantizer`: TWN, or for binary weights `BinaryCodes(bits=1, per="layer")`. The source's
    code averages |w| of ternary weights over all of them, where `TWN` takes those it keeps.

    The source's code multiplies eta, from 1 on, by 1.04 before each epoch (1.05 if nothing else is
    said), and begins the second phase after 150 of 200 epochs: at 1.04^150 = 359, after 3/4 of the
    run [yin2018binaryrelax, code]. Here eta grows in each step, to the same. A layer does not know
    the length of its run: for one of S steps take steps = 3 S / 4; 140 is for 186.
    """

    quantizer: Quantizer = _TERNARY
    exact_from: float = 359.0
    steps: int = 140

    sources = ("yin2018binaryrelax",)
    needs_key = False

    def __post_init__(self) -> None:
        if not 1 < self.exact_from < math.inf:
            raise ValueError(f"exact_from must be above 1 and finite, not {self.exact_from}")
        if not 1 <= self.steps <= 2**24:
            raise ValueError(f"steps of the first phase must be 1 to 2^24, not {self.steps}")

    def describe(self) -> str:
        """A short text for tables."""
        name = self.quantizer.describe()
        return f"relaxed {name}, eta 1 to {self.exact_from:g} in {self.steps} steps"

    def module(self, kernel: jax.Array) -> Relaxation:
        """The steps of one layer."""
        return Relaxation(self)


class Relaxation(nnx.Module):
    """`BinaryRelax` with its step t; `model.train()` and `model.eval()` switch it."""

    def __init__(self, settings: BinaryRelax):
        self.settings = settings
        self.use_running_average = False
        self.step = nnx.BatchStat(jnp.float32(0))

    def __call__(self, w: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """The weights of this step, in the shape and type of `w`; `key` is not used."""
        eta, step, steps = jnp.float32(jnp.inf), self.step[...], self.settings.steps
        if not self.use_running_average:
            growth = np.float32(math.log2(self.settings.exact_from) / steps)
            eta = jnp.where(step >= steps, eta, jnp.exp2(product(step, growth)))
            self.step[...] = jnp.minimum(step + 1, steps)

        def values(w):
            q = self.settings.quantizer(w).astype(jnp.float32)
            return relax(w.astype(jnp.float32), q, eta).astype(w.dtype)

        return straight_through(values, w)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProxQuant(Constraint):
    """After each step, weights move towards their quantized values [bai2019proxquant].

        w <- w - sign(w - q) min(|w - q|, lambda),   q = Q(w),   lambda = most t / T

    after t steps, until T: the share `freeze` of the run. From then on weights are what Q(w) was
    there: neither codes nor scales move any more. The gradient is taken at w itself. Before T, Q(w)
    is what is evaluated.

    Q is `quantizer`: TWN, or for binary weights `BinaryCodes(bits=1, per="layer")`.

    The source's code has lambda = lr rate t, with t in epochs; a script for ternary weights has
    Adam with lr 0.01, rate 1e-4, and freezes after 400 of 600 epochs, when lambda is lr / 25. Here
    lambda does not follow the learning rate: `most` is that of the code's end for a rate of 1e-3.
    Much more undoes each step of the optimizer, and codes are frozen long before T. So in a short
    run most weights are not near Q(w) yet when they become it.

    That code has this step for signs of -1 and 1, and for multiples of signs by the median of |w|.
    For ternary weights it has (w + lambda q) / (1 + lambda) instead, and Q has a scale for each
    sign; the step, and the one scale, are ours there.
    """

    quantizer: Quantizer = _TERNARY
    most: float = 4e-5
    freeze: float = 2 / 3

    sources = ("bai2019proxquant",)

    def __post_init__(self) -> None:
        if not 0 <= self.most < math.inf:
            raise ValueError(f"most must be finite and at least 0, not {self.most}")
        if not 0 <= self.freeze <= 1:
            raise ValueError(f"freeze is a share of the run, 0 to 1, not {self.freeze}")

    def describe(self) -> str:
        """A short text for tables."""
        return f"drawn to {self.quantizer.describe()} by up to {self.most:g} a step"

    def init(self, w: jax.Array, steps: int) -> dict[str, jax.Array]:
        """Nothing is frozen yet."""
        return {"frozen": jnp.zeros((), bool), "held": jnp.zeros_like(w)}

    def project(
        self, w: jax.Array, state: dict[str, jax.Array], step: jax.Array, steps: int
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The proximal step, or what was frozen."""
        q = jnp.where(state["frozen"], state["held"], self.quantizer(w))
        frozen = step >= math.ceil(self.freeze * steps)
        rate = np.float32(self.most / max(self.freeze * steps, 1))
        by = product(step.astype(jnp.float32), rate).astype(w.dtype)
        new = jnp.where(frozen, q, attract(w, q, by))
        return new, {"frozen": frozen, "held": jnp.where(frozen, q, 0)}

    def deploy(self, w: jax.Array, state: dict[str, jax.Array]) -> jax.Array:
        """What was frozen, or Q(w)."""
        return jnp.where(state["frozen"], state["held"], self.quantizer(w))


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
        "eta grows in each step, in the source's code in each epoch; the second phase begins after"
        " 140 steps, however long the run is",
    ),
    _method(
        "proxquant", "ProxQuant", "bai2019proxquant", ProxQuant,
        "none: the gradient at the weights themselves",
        "lambda is 4e-5 at most, 1/25 of a learning rate of 1e-3, and does not follow it; the"
        " source's code draws ternary weights by a share of the distance, to a scale for each sign",
    ),
)  # fmt: skip
