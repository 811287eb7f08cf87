"""LQ-Nets: levels b v whose basis v follows the values by least squares [zhang2018lqnets]."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from qtrain.quantize.estimator import straight_through
from qtrain.zoo.method import Method
from qtrain.zoo.uniform import check_bits

QUARTILE = 0.6745  # of N(0, 1), as in the source's code
KEPT = np.float32(0.9)  # share of the old basis in each step [zhang2018lqnets, code]
RIDGE = 1e-4  # [zhang2018lqnets, code]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnedBasis:
    """Rounds to the nearest of 2^bits levels sum_i b_i v_i, with a basis v of `bits` numbers.

    signed: b_i is -1 or 1, and each index of the last axis (output channel) has its own basis:
    weights. Otherwise b_i is 0 or 1, and a layer has one basis: activations. Thresholds are the
    midpoints of neighbouring levels. In training, each call moves the basis, after it was used:

        v <- 0.9 v + 0.1 (B^T B + delta I)^-1 (B^T x + delta v),   B: the codes of this call

    Differs from the source's code: delta is max(1e-4, 1e-6 n) for n values; there it is 1e-4 for
    weights and 0 for activations, with which a step has no answer where a code is not used.

    The gradient is the identity's; for activations, 0 above the largest level. First values are
    those of the code: v_i = 2^i 2 (0.6745) / (2^bits - 1), or of weights in (kh, kw, cin, cout)
    2^i 0.6745 sqrt(2 / (kh kw cout)) / 2^(bits - 1), where cout is the layer's width behind it.
    """

    bits: int = 2
    signed: bool = False

    sources = ("zhang2018lqnets",)
    needs_key = False

    def __post_init__(self) -> None:
        check_bits("basis", self.bits, 1, 4)

    @property
    def codes(self) -> np.ndarray:
        """All codes b, float32 (2^bits, bits), the lowest bit first."""
        numbers = np.arange(2**self.bits)[:, None] >> np.arange(self.bits) & 1
        return (2 * numbers - 1 if self.signed else numbers).astype(np.float32)

    def first(self, shape: tuple[int, ...]) -> jax.Array:
        """First basis of a layer whose kernel has this shape: (bits, channels or 1)."""
        powers = 2.0 ** np.arange(self.bits)[:, None]
        if not self.signed:
            return jnp.float32(powers * 2 * QUARTILE / (2**self.bits - 1))
        fan_out = np.prod(shape[:-2], dtype=int) * shape[-1]
        unit = QUARTILE * np.sqrt(2 / fan_out) / 2 ** (self.bits - 1)
        return jnp.float32(np.broadcast_to(powers * unit, (self.bits, shape[-1])))

    def module(self, kernel: jax.Array) -> Basis:
        """The basis of one layer's operand."""
        return Basis(self, kernel)

    def describe(self) -> str:
        """A short text for tables."""
        return f"{self.bits} bits, learned basis {'per channel' if self.signed else 'per layer'}"


class Basis(nnx.Module):
    """`LearnedBasis` with its basis v, (bits, channels or 1); `model.eval()` holds it still."""

    def __init__(self, settings: LearnedBasis, kernel: jax.Array):
        """In training, with the first basis."""
        self.settings = settings
        self.use_running_average = False
        self.v = nnx.BatchStat(settings.first(kernel.shape))

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Rounds a float array, whose last axis is the channels."""
        v = self.v[...]
        levels, codes = sorted_levels(v, self.settings.codes)
        top = jnp.inf if self.settings.signed else levels[-1]
        y = straight_through(lambda x: rounded(x, levels), x, clip=(-jnp.inf, top))
        if not self.use_running_average:
            columns = lax.stop_gradient(x).astype(jnp.float32).reshape(-1, v.shape[1])
            new = least_squares(columns, v, levels, codes)
            self.v[...] = KEPT * v + (1 - KEPT) * new
        return y


def sorted_levels(v: jax.Array, codes: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Levels b v of a basis (bits, channels), ascending along (2^bits, channels), and the code b of
    each, (2^bits, channels, bits).
    """
    levels = jnp.zeros((len(codes), v.shape[1]), jnp.float32)
    for i, row in enumerate(v):
        levels = levels + codes[:, i, None] * row
    order = jnp.argsort(levels, axis=0)
    return jnp.take_along_axis(levels, order, axis=0), jnp.asarray(codes)[order]


def thresholds(levels: jax.Array) -> jax.Array:
    """The midpoints of neighbouring levels; a value above one is rounded up."""
    return (levels[:-1] + levels[1:]) * 0.5


def rounded(x: jax.Array, levels: jax.Array) -> jax.Array:
    """The nearest of `levels` (count, channels or 1) along the last axis of `x`; NaN of a NaN."""
    y = jnp.where(jnp.isnan(x), x, levels[0])
    for threshold, level in zip(thresholds(levels), levels[1:], strict=True):
        y = jnp.where(x > threshold, level, y)
    return y.astype(x.dtype)


def least_squares(x: jax.Array, v: jax.Array, levels: jax.Array, codes: jax.Array) -> jax.Array:
    """The basis that minimizes |x - B v'|^2 + delta |v' - v|^2 for the codes B that `v` gives `x`.

    Args:
      x: float32 (n, channels).
      v: the old basis, (bits, channels); what it stays where there is no finite answer.
      levels: of `v`, ascending, (2^bits, channels).
      codes: of the levels, (2^bits, channels, bits).
    """
    above = sum((x > t).astype(jnp.int32) for t in thresholds(levels))
    members = [above == i for i in range(len(levels))]
    count = jnp.stack([jnp.sum(m, axis=0, dtype=jnp.float32) for m in members])
    total = jnp.stack([jnp.sum(jnp.where(m, x, 0), axis=0) for m in members])
    ridge = np.float32(max(RIDGE, 1e-6 * len(x)))
    # as sums, not as products of matrices, which some devices compute in fewer bits
    square = jnp.sum(count[..., None, None] * codes[..., None, :] * codes[..., None], axis=0)
    right = jnp.sum(total[..., None] * codes, axis=0) + ridge * v.T
    new = jnp.linalg.solve(square + ridge * np.eye(len(v), dtype=np.float32), right[..., None])
    return jnp.where(jnp.isfinite(new[..., 0]), new[..., 0], v.T).T


def _places(bits: Any, activation_bits: Any) -> dict[str, Any]:
    return {
        "weight": LearnedBasis(bits=bits, signed=True),
        "activation": LearnedBasis(bits=activation_bits),
    }


METHODS = (
    Method(
        name="lq_nets", title="LQ-Nets", source="zhang2018lqnets", technique="optimization",
        codebook="adaptive", targets=("weight", "activation"), places=_places,
        estimator="identity for weights; for activations, 0 above the largest level",
        uncertain="a ridge in every step, which the source's code has for weights alone",
        weight_bits=(2, 1, 3, 4), activation_bits=(2, 1, 3, 4),
    ),
)  # fmt: skip
