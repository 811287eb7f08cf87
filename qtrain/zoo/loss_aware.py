"""Loss-aware methods: binary, ternary and wider weights that the optimizer stores narrow."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from qtrain.optim import LossAware
from qtrain.zoo.method import Method

_TERNARY = LossAware(bits=2, rule="optimum")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoScales:
    """Ternary weights with a scale for each sign, LAT2: `(w, v) -> w'` [hou2018lossaware, code].

    `one` does the positive weights, where the others count as 0, and the negative ones by
    themselves. A zero is represented without error, so it changes no scale.
    """

    one: LossAware = _TERNARY

    sources = ("hou2018lossaware",)
    stored = True  # the optimizer applies it, see `optim.stored`

    def __post_init__(self) -> None:
        if self.one.bits != 2:
            raise ValueError(f"two scales are for ternary weights, bits=2, not {self.one.bits}")

    def describe(self) -> str:
        """A short text for tables."""
        return f"LAT2 ({self.one.rule}), in the optimizer"

    def __call__(self, w: jax.Array, v: jax.Array | None = None) -> jax.Array:
        """Quantizes `w`; `v`, of its shape and not negative, weighs the error; None: evenly."""
        return self.one(jnp.maximum(w, 0), v) + self.one(jnp.minimum(w, 0), v)


def _method(name: str, title: str, places, bits: tuple[int, ...], uncertain: str = "") -> Method:
    return Method(
        name=name,
        title=title,
        source="hou2018lossaware",
        technique="optimization",
        codebook="adaptive",
        targets=("weight",),
        places=places,
        estimator="none: the gradient at the narrow weights moves the wide ones",
        uncertain=uncertain,
        weight_bits=bits,
    )


_UNCLIPPED = "the source's code clips wide weights to [-1, 1] after each step; here they are free"
_START = (
    _UNCLIPPED + "; it starts each alternation from the ternary codes of its first weights, here of"
    " the current ones, with the least-squares scale"
)
METHODS = (
    _method(
        "lab", "Loss-aware binarization", lambda *_: {"weight": LossAware(bits=1)}, (1,),
        _UNCLIPPED,
    ),
    _method(
        "lat", "Loss-aware ternarization, exact", lambda *_: {"weight": _TERNARY}, (2,),
        _UNCLIPPED,
    ),
    _method(
        "lat2", "Loss-aware ternarization with two scales", lambda *_: {"weight": TwoScales()},
        (2,), _UNCLIPPED,
    ),
    _method(
        "laq", "Loss-aware quantization (2 bits: ternarization, alternating)",
        lambda bits, _: {"weight": LossAware(bits=bits, begin="ternary")},
        (3, 2, 4, 5, 6, 8), _START,
    ),
)  # fmt: skip
NOT_BUILT = {
    "laq_log": "powers of two need a projection of their own in `optim.LossAware`; `inq` has them"
}
