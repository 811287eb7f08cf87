"""ABC-Net: weights and activations as sums of several signs [lin2017abc].

A convolution of M-fold weights and N-fold activations is M N binary ones, weighted. It is linear in
both, so here it is one convolution of the two sums.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from qtrain.nn import Learned
from qtrain.quantize.binary_codes import Codes, least_squares, values
from qtrain.quantize.estimator import straight_through
from qtrain.quantize.product import product
from qtrain.zoo.binary import sign, with_gain
from qtrain.zoo.method import Method
from qtrain.zoo.uniform import check_bits


def shifts(count: int) -> np.ndarray:
    """u_i: evenly spaced from -1 to 1, float32; 0 for a single one, of which the source has none.

    [lin2017abc, as in a code of others].
    """
    return np.linspace(-1, 1, count, dtype=np.float32) if count > 1 else np.zeros(1, np.float32)


def bases(x: jax.Array, count: int) -> jax.Array:
    """B_i = sign(x - mean(x) + u_i std(x)), stacked in front: (count, *x.shape), float32."""
    x = x.astype(jnp.float32)
    mean, std = moments(x)
    return jnp.stack([sign(x - mean + product(u, std)) for u in shifts(count)])


def moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation of all values, float32 scalars."""
    share = np.float32(1 / max(x.size, 1))  # not `mean`: XLA divides, or multiplies under jit
    mean = product(jnp.sum(x), share)
    return mean, jnp.sqrt(product(jnp.sum((x - mean) ** 2), share))


def fit(x: jax.Array, signs: jax.Array) -> Codes:
    """The scales of least squared error for (count, *x.shape) signs."""
    codes = signs.reshape(len(signs), -1, 1)
    return Codes(least_squares(x.astype(jnp.float32).reshape(-1, 1), codes), codes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AbcWeights:
    """A weight array W as sum over m = 1..M of alpha_m B_m; one set of M = `bits` scales.

    B_m = sign(W - mean(W) + u_m std(W)) with u_m evenly spaced from -1 to 1; the scales are least
    squares. The gradient at W is that at the sum, times alpha_1 + ... + alpha_M: each B_m passes
    its own on, and neither scales nor moments have one. Recalled, but for u_m.

    The largest and the smallest value are opposite, and a scale may be negative, so on weights that
    are far from even about their mean the map need not be monotone.
    """

    bits: int = 5

    sources = ("lin2017abc",)
    needs_key = False

    def __post_init__(self) -> None:
        check_bits("ABC-Net weight", self.bits, 1, 8)

    def __call__(self, w: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """The sum of signs, in the shape and type of `w`; not finite anywhere if `w` is not."""
        fixed = lax.stop_gradient(w)
        found = fit(fixed, bases(fixed, self.bits))
        q = values(found).reshape(w.shape).astype(w.dtype)
        return with_gain(q, w, jnp.sum(found.scales))

    def describe(self) -> str:
        """A short text for tables."""
        return f"{self.bits} sign bases"


@dataclasses.dataclass(frozen=True, kw_only=True)
class AbcActivations:
    """An activation R as sum over n = 1..N of beta_n A_n, N = `bits`, with learned beta_n and v_n.

    A_n = 1 where clip(R + v_n, 0, 1) >= 1/2, else -1; its gradient is 1{0 <= R + v_n <= 1}, for R
    and for v_n alike. Recalled.

    First values are ours: of the first batch, A_n = sign(R - mean + u_n std) as for weights, and
    beta_n by least squares. (A code of others starts all v_n at 0 and all beta_n at 1, where all
    A_n stay the same.) The largest and the smallest value are opposite, so put it where inputs
    have both signs, after a normalization.
    """

    bits: int = 5

    sources = ("lin2017abc",)
    needs_key = False

    def __post_init__(self) -> None:
        check_bits("ABC-Net activation", self.bits, 1, 8)

    def module(self, kernel: jax.Array | None = None) -> ActivationBases:
        """The learned numbers of one layer."""
        return ActivationBases(self)

    def describe(self) -> str:
        """A short text for tables."""
        return f"{self.bits} sign bases, learned"


class ActivationBases(nnx.Module):
    """`AbcActivations` with its learned numbers."""

    def __init__(self, settings: AbcActivations):
        """Thresholds and scales for inputs of mean 0 and deviation 1, until calibrated."""
        count = settings.bits
        self.shift = Learned(0.5 + jnp.asarray(shifts(count)))
        self.scale = Learned(jnp.full(count, 1 / count, jnp.float32))

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """The sum of signs, in the shape and type of `x`."""
        shift, scale = self.shift[...], self.scale[...]
        total = jnp.zeros(x.shape, jnp.float32)
        for v, beta in zip(shift, scale, strict=True):
            code = straight_through(lambda z: sign(z - 0.5), x + v, clip=(0, 1))
            total = total + beta * code  # products with signs are exact
        return total.astype(x.dtype)

    def calibrate(self, x: jax.Array) -> None:
        """Sets the first values by an operand of any shape."""
        count = len(self.shift[...])
        mean, std = moments(x.astype(jnp.float32))
        self.shift[...] = 0.5 - mean + shifts(count) * std
        self.scale[...] = fit(x, bases(x, count)).scales[:, 0]


METHODS = (
    Method(
        name="abc_net", title="ABC-Net, sums of signs", source="lin2017abc",
        technique="optimization", codebook="adaptive", targets=("weight", "activation"),
        places=lambda bits, activation_bits: {
            "weight": AbcWeights(bits=bits or 5),
            "activation": AbcActivations(bits=activation_bits or 5),
        },
        start="pretrained",
        estimator="weights times the sum of scales; activations 1{0 <= x + v <= 1} per base",
        uncertain="recalled, but for the shifts of weights; first values of v and beta are ours",
        weight_bits=(5, 1, 2, 3, 4), activation_bits=(5, 1, 2, 3, 4), signed=True,
    ),
)  # fmt: skip
