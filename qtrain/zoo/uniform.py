"""Evenly spaced levels: the function q_k that DoReFa, WRPN and PACT share."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qtrain.optim import Constraint
from qtrain.quantize.estimator import straight_through
from qtrain.zoo.method import Method

MOST_BITS = 16


def round_steps(x: jax.Array, n: int) -> jax.Array:
    """round(n x) / n in the shape of `x`, halves to even; the gradient is the identity's.

    n is 1 to 2^16. Each level is the float32 number nearest to j / n, compiled or not, so 1 is
    exact and levels stay where they are. A NaN stays one.
    """

    def rounded(x):
        codes = lax.round(x.astype(jnp.float32) * np.float32(n), lax.RoundingMethod.TO_NEAREST_EVEN)
        # a divisor that is no constant: XLA would multiply by its inverse, but only under jit
        return (codes / jnp.where(codes == codes, np.float32(n), np.float32(np.nan))).astype(
            x.dtype
        )

    return straight_through(rounded, x)


def q_k(x: jax.Array, bits: int) -> jax.Array:
    """round((2^k - 1) x) / (2^k - 1) for x in [0, 1], k = `bits` [zhou2016dorefa, code].

    The gradient is the identity's. The error is at most 1 / (2 (2^k - 1)).
    """
    return round_steps(x, 2**bits - 1)


def check_bits(name: str, bits: int, least: int = 1, most: int = MOST_BITS) -> None:
    """Raises ValueError for a width that is not `least` to `most`."""
    if not least <= bits <= most:
        raise ValueError(f"{name} bits must be {least} to {most}, not {bits}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clipped:
    """Cuts to [0, 1], or signed to [-1, 1], and rounds to evenly spaced levels.

    2^bits levels j / n, j = 0..n, n = 2^bits - 1: the activations of DoReFa and WRPN. Signed:
    j = -n..n with n = 2^(bits - 1) - 1, the weights of WRPN. The gradient is that of the cut: 1 in
    the closed interval, else 0 [mishra2018wrpn, recalled].
    """

    bits: int = 4
    signed: bool = False

    sources = ("zhou2016dorefa", "mishra2018wrpn")
    needs_key = False

    def __post_init__(self) -> None:
        check_bits("signed" if self.signed else "unsigned", self.bits, 1 + self.signed)

    @property
    def steps(self) -> int:
        """How many levels there are above 0."""
        return 2 ** (self.bits - self.signed) - 1

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Rounds a float array of any shape."""
        low = -1.0 if self.signed else 0.0
        return straight_through(
            lambda x: round_steps(jnp.clip(x, low, 1.0), self.steps), x, clip=(low, 1.0)
        )

    def describe(self) -> str:
        """A short text for tables."""
        return f"{self.bits} bits in [{-int(self.signed)}, 1]"


class Fill(NamedTuple):
    """What `Filled` keeps."""

    last: jax.Array  # the weights that the latest step began with
    gain: jax.Array  # float32: what they and all steps were multiplied by


@dataclasses.dataclass(frozen=True, kw_only=True)
class Filled(Constraint):
    """A quantizer of fixed levels in [-1, 1], of weights that fill this range.

    Before the first step the array is divided by its max|w|, and so is each step of the optimizer
    after it: training goes as that of the weights before the division, if a normalization follows
    the layer; where none does, this is not for it. In each step weights are cut to [-1, 1]. Our
    choice: initial weights of a wide layer would all round to 0.
    """

    quantizer: Any

    @property
    def sources(self) -> tuple[str, ...]:
        """Those of the quantizer."""
        return self.quantizer.sources

    @property
    def needs_key(self) -> bool:
        """Whether a call draws random bits."""
        return self.quantizer.needs_key

    def __call__(self, w: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Rounds a kernel of any shape."""
        return self.quantizer(w, key)

    def init(self, w: jax.Array, steps: int) -> Fill:
        """Fills the range, as seen from the first step."""
        most = jnp.max(jnp.abs(w), initial=0)
        return Fill(jnp.zeros_like(w), 1 / jnp.where(most > 0, most, 1))

    def project(
        self, w: jax.Array, state: Fill, step: jax.Array, steps: int
    ) -> tuple[jax.Array, Fill]:
        """The weights that a step begins with; the first one with the array times the gain."""
        w = self.deploy(w, state)
        return w, state._replace(last=w)

    def deploy(self, w: jax.Array, state: Fill) -> jax.Array:
        """The weights after the last step."""
        return jnp.clip(state.last + (w - state.last) * state.gain, -1, 1)

    def describe(self) -> str:
        """A short text for tables."""
        return f"{self.quantizer.describe()}, range filled"


def _places(bits: Any, activation_bits: Any) -> dict[str, Any]:
    return {
        "weight": Filled(quantizer=Clipped(bits=bits, signed=True)),
        "activation": Clipped(bits=activation_bits),
    }


METHODS = (
    Method(
        name="wrpn", title="Wide reduced-precision networks", source="mishra2018wrpn",
        technique="rounding", codebook="fixed", targets=("weight", "activation"), places=_places,
        estimator="identity inside the range, else 0",
        uncertain="all of it is recalled; that weights begin by filling the range is our choice",
        weight_bits=(4, 2, 3, 8), activation_bits=(4, 1, 2, 3, 8), widen=2,
    ),
)  # fmt: skip
