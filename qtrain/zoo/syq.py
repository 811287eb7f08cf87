"""SYQ: binary or ternary codes times learned scales, one for each position of a kernel."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from qtrain.nn import Learned
from qtrain.quantize.estimator import straight_through
from qtrain.quantize.product import product
from qtrain.zoo.binary import sign
from qtrain.zoo.method import Method
from qtrain.zoo.ternary import check_share, codes_of, largest
from qtrain.zoo.uniform import Clipped

Group = Literal["pixel", "row", "layer"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SYQ:
    """Symmetric quantization of weights, w' = alpha_g t [faraone2018syq].

        t = sign(w) where |w| > eta max|w|, else 0

    eta 0.05 is that of the source's code for ternary weights. eta 0 is binary: there, all weights
    have a sign, 0 a positive one. Weights that share a scale, `group`:

      pixel  a position (kh, kw) of a convolution's kernel (kh, kw, cin, cout)
      row    a row kh of it
      layer  the whole array, as always for a dense kernel (in, out)

    Scales start from the mean |w| of their group (recalled; the source's code loads them or takes
    1). For the gradient g at w': dalpha_g = sum of g t over the group, and dw = alpha_g g, or g
    where t is 0, as in the source's code.
    """

    eta: float = 0.05
    group: Group = "pixel"

    sources = ("faraone2018syq",)
    needs_key = False

    def __post_init__(self) -> None:
        check_share(self.eta, "eta")
        if self.group not in get_args(Group):
            raise ValueError(f"unknown group {self.group!r}: one of {', '.join(get_args(Group))}")

    def describe(self) -> str:
        """A short text for tables."""
        codes = "binary" if self.eta == 0 else f"{self.eta:g} max|w|"
        return f"SYQ, {codes}, scale per {self.group}"

    def module(self, kernel: jax.Array) -> Scales:
        """The scales of one layer."""
        return Scales(self, kernel)

    def shape(self, kernel: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the scales of a kernel of that shape: 1 for axes that share them."""
        positions = max(len(kernel) - 2, 0)
        own = {"pixel": positions, "row": min(positions, 1), "layer": 0}[self.group]
        return kernel[:own] + (1,) * (len(kernel) - own)

    def codes(self, w: jax.Array) -> jax.Array:
        """-1, 0 or 1, float32; NaN where any weight is not finite."""
        reach = largest(w)
        if self.eta > 0:
            return codes_of(w, product(reach, np.float32(self.eta)))
        return jnp.where(jnp.isfinite(reach), sign(w), jnp.nan)


class Scales(nnx.Module):
    """`SYQ` with its scales, for one layer."""

    def __init__(self, settings: SYQ, kernel: jax.Array):
        self.settings = settings
        over = tuple(d for d, n in enumerate(settings.shape(kernel.shape)) if n == 1)
        self.alpha = Learned(jnp.mean(jnp.abs(kernel.astype(jnp.float32)), over, keepdims=True))

    def __call__(self, w: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Codes times scales, in the shape and type of `w`; `key` is not used."""
        codes = straight_through(self.settings.codes, w.astype(jnp.float32))
        return (jnp.where(codes == 0, 1, self.alpha[...]) * codes).astype(w.dtype)


def _places(bits: int | None, activation_bits: int | None) -> dict[str, Any]:
    weight = SYQ(eta=0.0 if bits == 1 else SYQ.eta)
    if activation_bits is None:
        return {"weight": weight}
    return {"weight": weight, "activation": Clipped(bits=activation_bits)}


METHODS = (
    Method(
        name="syq", title="Symmetric quantization", source="faraone2018syq", technique="learned",
        codebook="adaptive", targets=("weight", "activation"), places=_places, start="pretrained",
        estimator="gradient times the scale, times 1 where the code is 0",
        uncertain="the first scales are recalled; activations are DoReFa's,"
        " one of two kinds in the source's code",
        weight_bits=(2, 1), activation_bits=(8, 4, 2),
    ),
)  # fmt: skip
