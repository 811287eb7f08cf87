"""HWGQ: activations rounded to what is best for a half-wave Gaussian [cai2017hwgq]."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from qtrain.formats import Codebook
from qtrain.quantize import cast
from qtrain.quantize.estimator import straight_through
from qtrain.zoo.method import Method
from qtrain.zoo.xnor import BWN

# The step of least squared error for the positive half of N(0, 1), where every positive number goes
# to a positive level: computed, 1 to 4 bits. The source's code has 0.538 for 2 bits.
STEPS = {1: 0.798, 2: 0.539, 3: 0.322, 4: 0.184}


def uniform_centres(bits: int, step: float | None = None) -> tuple[float, ...]:
    """Multiples 1 to 2^bits - 1 of the step, as float32 numbers; by default, that of STEPS."""
    step = STEPS[bits] if step is None else step
    return tuple(float(np.float32(j * step)) for j in range(1, 2**bits))


@dataclasses.dataclass(frozen=True, kw_only=True)
class HalfWave:
    """0 for x <= 0, else the nearest positive level: the smallest positive x goes to the first.

    Inputs should be near N(0, 1), so batch normalization must come before [cai2017hwgq, code].

    centres: levels above 0, ascending; None: 2^bits - 1 of them, evenly spaced by STEPS. The
      code's own are 0.538 (1, 2, 3) and, not evenly spaced, (0.453, 1.51).
    backward: the gradient for x > 0, q being the largest level:
      clip  1 up to q, then 0 [cai2017hwgq, code]
      log   1 up to q, then 1 / (x - q + 1), which meets it there (recalled, the shift uncertain)
      relu  1 (recalled)
    """

    bits: int = 2
    centres: tuple[float, ...] | None = None
    backward: Literal["clip", "log", "relu"] = "clip"

    sources = ("cai2017hwgq",)
    needs_key = False

    def __post_init__(self) -> None:
        if self.centres is None and self.bits not in STEPS:
            raise ValueError(f"half-wave bits must be 1 to 4, not {self.bits}: or give centres")
        if self.backward not in ("clip", "log", "relu"):
            raise ValueError(f"unknown backward {self.backward!r}: clip, log or relu")
        if self.centres is not None and not 1 <= len(self.centres) < 2**self.bits:
            raise ValueError(
                f"{self.bits} bits hold 1 to {2**self.bits - 1} positive centres,"
                f" not {len(self.centres)}"
            )
        Codebook(self.levels)

    @property
    def levels(self) -> tuple[float, ...]:
        """0 and the centres."""
        if self.centres is None:
            return (0.0, *uniform_centres(self.bits))
        return (0.0, *(float(np.float32(c)) for c in self.centres))

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Rounds a float array of any shape; a NaN stays one."""
        return straight_through(lambda _: self._rounded(x), self._smooth(x))

    def _rounded(self, x: jax.Array) -> jax.Array:
        levels = self.levels
        nearest = cast(jnp.maximum(x.astype(jnp.float32), np.float32(levels[1])), Codebook(levels))
        return jnp.where(x <= 0, 0, nearest).astype(x.dtype)

    def _smooth(self, x: jax.Array) -> jax.Array:
        """What the backward pass differentiates."""
        top = np.float32(self.levels[-1])
        beyond = {
            "clip": lambda: jnp.full_like(x, top),
            "log": lambda: top + jnp.log(jnp.maximum(x - top, 0) + 1),
            "relu": lambda: x,
        }[self.backward]()
        return jnp.where(x <= 0, 0, jnp.where(x > top, beyond, x)).astype(x.dtype)

    def describe(self) -> str:
        """A short text for tables."""
        kind = "evenly spaced" if self.centres is None else "given"
        back = "" if self.backward == "clip" else f", {self.backward} gradient"
        return f"half-wave, {len(self.levels) - 1} {kind} levels above 0{back}"


def _places(bits: Any, activation_bits: Any) -> dict[str, Any]:
    return {
        "weight": BWN(),
        "activation": HalfWave(bits=activation_bits),
    }


METHODS = (
    Method(
        name="hwgq", title="Half-wave Gaussian quantization", source="cai2017hwgq",
        technique="optimization", codebook="fixed", targets=("weight", "activation"),
        places=_places, estimator="activations clipped ReLU; weights as BWN",
        uncertain="the steps for 1, 3 and 4 bits are our own optimum, not read in the source",
        weight_bits=(1,), activation_bits=(2, 1, 3, 4),
    ),
)  # fmt: skip
