"""Adam [kingma2015adam, Alg. 1] with rounded moments and weights."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from qtrain.optim.axpy import Rounding, axpy, check, map_leaves, need_params, per_leaf, rate
from qtrain.quantize.product import product


class AdamState(NamedTuple):
    """Steps so far, and both moments on the grid of the format."""

    count: jax.Array  # type: ignore[assignment]  # int32; optax's name, though tuple has it too
    mu: optax.Params
    nu: optax.Params


def adam(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float | optax.Params = 0.0,
    fmt: str = "e6m9",
    rounding: Rounding = "stochastic",
) -> optax.GradientTransformationExtraArgs:
    """Mu <- Q(b1 mu + (1 - b1) g);  nu <- Q(b2 nu + (1 - b2) g^2);  w <- Q(w - learning_rate d).

    d = mu' / (sqrt(nu') + eps) + weight_decay w is computed in float32 from the moments without
    bias, mu' = mu / (1 - b1^t) and nu' = nu / (1 - b2^t). The decay is decoupled
    [loshchilov2019decoupled, Alg. 2]. Rounded to nearest, nu stalls: with b2 = 0.999 its changes
    are below half an ulp of ten significant bits. g^2 and 1 - b2 share the range of `fmt` with
    the loss scale taken out: g below about the square root of its least subnormal is lost.

    `weight_decay` is one number, or a tree of one per array.

    The weights are the master copy, as in `sgd`; `update` takes them and a `key` likewise.

    Raises:
      ValueError: as `sgd`.
    """
    target = check(fmt, rounding)

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return AdamState(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(grads, state, params=None, *, key=None, **_):
        need_params(params)
        lr = rate(learning_rate, state.count)
        t = (state.count + 1).astype(jnp.float32)

        def leaf(key_of, g, mu, nu, w, decay):
            mu = axpy(b1, mu, product(jnp.float32(1 - b1), g), target, key_of("mu"))
            nu = axpy(b2, nu, product(jnp.float32(1 - b2), g * g), target, key_of("nu"))
            unbiased = jnp.sqrt(nu / (1 - b2**t)) + eps
            direction = mu / (1 - b1**t) / unbiased + decay * w
            return axpy(-lr, direction, w, target, key_of("update")) - w, mu, nu

        decays = per_leaf(weight_decay, params)
        updates, mu, nu = map_leaves(leaf, key, rounding, grads, state.mu, state.nu, params, decays)
        return updates, AdamState(state.count + 1, mu, nu)

    return optax.GradientTransformationExtraArgs(init, update)
