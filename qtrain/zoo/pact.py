"""PACT: activations cut off at a learned level [choi2018pact]."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from qtrain.nn import Learned
from qtrain.quantize.estimator import straight_through
from qtrain.quantize.product import product
from qtrain.zoo.dorefa import weight
from qtrain.zoo.method import Method
from qtrain.zoo.uniform import check_bits, q_k


def pact(x: jax.Array, alpha: jax.Array, bits: int) -> jax.Array:
    """clip(x, 0, a), rounded to 2^bits levels j a / (2^bits - 1) [choi2018pact, recalled].

    The gradient is that of the cut: in x 1 where 0 <= x < a, in a 1 where x >= a. `alpha` is a
    scalar, meant to be positive; at 0 all is 0. A NaN stays one.
    """
    alpha = alpha.astype(jnp.float32)
    cut = jnp.where(x >= alpha, alpha, jnp.where(x < 0, 0, x.astype(jnp.float32)))
    a = lax.stop_gradient(alpha)

    def rounded(y):
        return product(q_k(y / jnp.where(a == 0, 1, a), bits), a)

    return straight_through(rounded, cut).astype(x.dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pact:
    """One learned cut-off per layer, from `alpha` on, with weight decay [choi2018pact, recalled].

    The first value, "about 10", and the decay, that of the weights, are recalled too.
    """

    bits: int = 4
    alpha: float = 10.0

    sources = ("choi2018pact",)
    needs_key = False

    def __post_init__(self) -> None:
        check_bits("activation", self.bits)
        if not 0 < self.alpha < float("inf"):
            raise ValueError(f"alpha must be positive and finite, not {self.alpha}")

    def module(self, kernel: jax.Array) -> PactModule:
        """The state of one layer's activations."""
        return PactModule(self)

    def describe(self) -> str:
        """A short text for tables."""
        return f"{self.bits} bits in [0, a], a learned"


class PactModule(nnx.Module):
    """`Pact` with its cut-off."""

    def __init__(self, settings: Pact):
        """Starts at the first value of the settings."""
        self.settings = settings
        self.alpha = Learned(jnp.float32(settings.alpha), decay=True)

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Rounds activations of any shape."""
        return pact(x, self.alpha[...], self.settings.bits)


def _places(bits: Any, activation_bits: Any) -> dict[str, Any]:
    return {
        "weight": weight(bits),
        "activation": Pact(bits=activation_bits),
    }


METHODS = (
    Method(
        name="pact", title="Parameterized clipping activation", source="choi2018pact",
        technique="learned", codebook="adaptive", targets=("weight", "activation"),
        places=_places,
        estimator="that of the cut, also in the learned level; weights as DoReFa's",
        uncertain="the activations are recalled, with their first level and its decay",
        weight_bits=(4, 2, 3, 5, 8), activation_bits=(4, 2, 3, 5, 8),
    ),
)  # fmt: skip
