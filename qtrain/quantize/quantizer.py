"""The standard quantizer: scale, cast, scale back, straight-through gradient."""

from __future__ import annotations

import dataclasses

import jax
from jax import lax

from qtrain import formats
from qtrain.quantize.cast import ROUNDINGS, Rounding, cast
from qtrain.quantize.estimator import clip_range, straight_through
from qtrain.quantize.scale import Scale, divide


@dataclasses.dataclass(frozen=True)
class Cast:
    """Rounds an operand to a format: `(x, key=None) -> x`, hashable, differentiable.

    The gradient is that of the identity; with `clip_gradient`, zero where x saturates.
    Under vmap with one key for all examples, all draw the same random bits.
    """

    fmt: str
    rounding: Rounding = "nearest"
    scale: Scale | None = None  # divide by it before rounding, multiply after
    random_bits: int | None = None  # for stochastic rounding, see `cast`
    clip_gradient: bool = False

    sources = ("bengio2013estimating",)

    def __post_init__(self) -> None:
        formats.get(self.fmt)
        if self.rounding not in ROUNDINGS:
            raise ValueError(f"unknown rounding {self.rounding!r}: one of {', '.join(ROUNDINGS)}")

    @property
    def needs_key(self) -> bool:
        """Whether a call draws random bits."""
        return self.rounding == "stochastic"

    def describe(self) -> str:
        """A short text for tables."""
        rounding = "" if self.rounding == "nearest" else f" {self.rounding.replace('_', ' ')}"
        return self.fmt + rounding

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Rounds `x`; `key` is needed for, and only used by, stochastic rounding."""
        fmt = formats.get(self.fmt)
        key = key if self.needs_key else None
        scale = None if self.scale is None else self.scale(lax.stop_gradient(x), fmt)

        def rounded(x):
            if scale is None:
                return cast(x, fmt, key, rounding=self.rounding, random_bits=self.random_bits)
            y = divide(x, scale, fmt)
            y = cast(y, fmt, key, rounding=self.rounding, random_bits=self.random_bits)
            return (y * scale).astype(x.dtype)

        clip = clip_range(fmt, scale) if self.clip_gradient else None
        return straight_through(rounded, x, clip=clip)
