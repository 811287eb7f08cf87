"""Matrix products with a choice for every operand role and every running sum.

Forward:          y  = q_lhs(x) . q_rhs(w)
Input gradient:   dx = q_dgrad(dy) . q_rhs(w)^T
Weight gradient:  dw = q_lhs(x)^T . q_wgrad(dy)

Each `.` adds in the order of its contracted index, with its own `Accumulator`. Where there
is none, it is lax.dot_general, so that an empty config equals lax bit for bit.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from qtrain.ops import integer
from qtrain.ops.accumulate import accumulate, to_float32
from qtrain.ops.config import Accumulator, DotConfig, Quantizer
from qtrain.quantize.bits import fold


def dot(
    a: jax.Array,
    b: jax.Array,
    *,
    accum: Accumulator | None = None,
    config: DotConfig | None = None,
    key: jax.Array | None = None,
) -> jax.Array:
    """Multiplies (M, K) by (K, N).

    With an accumulator or an error quantizer there is reverse mode only (jax.jvp raises), and
    with an accumulator in a backward GEMM no second derivative.

    Args:
      accum: accumulator of all three GEMMs, in place of a config.
      config: quantizers and accumulators by role.
      key: PRNG key, needed if the config rounds stochastically.

    Raises:
      TypeError: sums are rounded and an operand is not a float array.
      ValueError: operands are not matrices of matching shapes, both accum and config are
        given, a chunk is longer than its accumulation, or a needed key is missing.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
        raise ValueError(f"cannot multiply {a.shape} by {b.shape}: (M, K) and (K, N) are needed")
    if accum is not None and config is not None:
        raise ValueError("both accum and config given: put the accumulator into the config")
    config = config or DotConfig(forward=accum, input_grad=accum, weight_grad=accum)
    return dot_general(a, b, (((1,), (0,)), ((), ())), config=config, key=key)


def dot_general(
    lhs: jax.Array,
    rhs: jax.Array,
    dimension_numbers,
    precision=None,
    preferred_element_type=None,
    *,
    config: DotConfig,
    key: jax.Array | None = None,
    **kwargs,
) -> jax.Array:
    """`lax.dot_general` by way of `config`; lhs is the activation, rhs the weight.

    Contracted dimensions are summed in row-major order of their position in
    `dimension_numbers`; in the backward GEMMs, in the order of the operand's free ones.
    """
    keys = role_keys(config, key)
    scales = _scales(config, lhs=lhs, rhs=rhs)
    lhs = quantize(config.lhs, lhs, keys["lhs"])
    rhs = quantize(config.rhs, rhs, keys["rhs"])
    (lc, rc), (lb, rb) = dimension_numbers
    numbers = ((tuple(lc), tuple(rc)), (tuple(lb), tuple(rb)))
    settings = dict(precision=precision, preferred_element_type=preferred_element_type, **kwargs)
    if not has_gemm_settings(config):
        return lax.dot_general(lhs, rhs, numbers, **settings)
    frozen = tuple(sorted(settings.items(), key=lambda item: item[0]))
    return _dot(config, numbers, frozen, lhs, rhs, keys, scales)


def has_gemm_settings(config: DotConfig) -> bool:
    """Whether anything is asked for beyond the two forward operands."""
    return config.integer or not config.parts().keys() <= {"lhs", "rhs"}


def role_keys(config: DotConfig, key: jax.Array | None) -> dict[str, jax.Array | None]:
    """One key per role of the config that draws random bits, folded by the role's name."""
    roles = ("lhs", "rhs", "dgrad", "wgrad", "forward", "input_grad", "weight_grad")
    drawing = [r for r in roles if (part := getattr(config, r)) is not None and part.needs_key]
    if drawing and key is None:
        raise ValueError(
            f"{', '.join(drawing)} round stochastically: pass key=jax.random.key(seed)"
        )
    return {role: None if key is None or role not in drawing else fold(key, role) for role in roles}


def quantize(quantizer: Quantizer | None, x: jax.Array, key: jax.Array | None) -> jax.Array:
    """Applies one role's quantizer, if there is one."""
    return x if quantizer is None else quantizer(x, key)


def quantize_error(config: DotConfig, error: jax.Array, keys) -> tuple[jax.Array, jax.Array]:
    """The error as the input-gradient and as the weight-gradient GEMM see it."""
    for_dgrad = quantize(config.dgrad, error, keys["dgrad"])
    if config.wgrad == config.dgrad:
        return for_dgrad, for_dgrad
    return for_dgrad, quantize(config.wgrad, error, keys["wgrad"])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _dot(config: DotConfig, numbers, settings, lhs, rhs, keys, scales):
    plain: Callable = functools.partial(
        lax.dot_general, dimension_numbers=numbers, **dict(settings)
    )
    exact = _both(scales, "lhs", "rhs")
    if config.forward is None and exact is None:
        return plain(lhs, rhs)
    out = jax.eval_shape(plain, lhs, rhs)
    left, right = map(to_float32, _canonical(lhs, rhs, numbers))
    y = _gemm(left, right, config.forward, keys["forward"], exact)
    return y.reshape(out.shape).astype(out.dtype)


def _dot_fwd(config, numbers, settings, lhs, rhs, keys, scales):
    return _dot(config, numbers, settings, lhs, rhs, keys, scales), (lhs, rhs, keys, scales)


def _dot_bwd(config, numbers, settings, residuals, error):
    lhs, rhs, keys, scales = residuals
    scales = scales | _scales(config, dgrad=error, wgrad=error)
    plain: Callable = functools.partial(
        lax.dot_general, dimension_numbers=numbers, **dict(settings)
    )
    _, pull = jax.vjp(plain, lhs, rhs)
    canonical, restore = jax.vjp(lambda a, b: _canonical(a, b, numbers), lhs, rhs)
    left, right = map(to_float32, canonical)
    shape = (left.shape[0], left.shape[1], right.shape[2])
    for_dgrad, for_wgrad = quantize_error(config, error, keys)
    exact = _both(scales, "dgrad", "rhs")
    if config.input_grad is None and exact is None:
        dlhs = pull(for_dgrad)[0]
    else:
        e = to_float32(for_dgrad.reshape(shape))
        back = jnp.swapaxes(right, 1, 2)
        d = _gemm(e, back, config.input_grad, keys["input_grad"], exact)
        dlhs = restore((d.astype(lhs.dtype), jnp.zeros_like(canonical[1])))[0]
    exact = _both(scales, "lhs", "wgrad")
    if config.weight_grad is None and exact is None:
        drhs = pull(for_wgrad)[1]
    else:
        e = to_float32(for_wgrad.reshape(shape))
        back = jnp.swapaxes(left, 1, 2)
        d = _gemm(back, e, config.weight_grad, keys["weight_grad"], exact)
        drhs = restore((jnp.zeros_like(canonical[0]), d.astype(rhs.dtype)))[1]
    return dlhs, drhs, None, None


_dot.defvjp(_dot_fwd, _dot_bwd)


def _scales(config: DotConfig, **operands) -> dict[str, jax.Array]:
    """The scale of each given role that has a quantizer, if GEMMs are to be done in integers."""
    if not config.integer:
        return {}
    return {
        role: integer.scale_of(quantizer, x)
        for role, x in operands.items()
        if (quantizer := getattr(config, role)) is not None
    }


def _both(scales, left: str, right: str) -> tuple[jax.Array, jax.Array] | None:
    """The scales of a GEMM's two operands, if both are integers."""
    return (scales[left], scales[right]) if left in scales and right in scales else None


def _gemm(a, b, accum: Accumulator | None, key, scales):
    """(B, M, K) times (B, K, N) with rounded sums, or in integers."""
    if accum is not None:
        return accumulate(a, b, accum, key)
    return integer.matmul(a, b, *scales)


def _canonical(lhs, rhs, numbers):
    """(B, M, K) and (B, K, N) views of the operands."""
    (lc, rc), (lb, rb) = numbers
    free = lambda x, used: tuple(d for d in range(x.ndim) if d not in used)  # noqa: E731
    lf, rf = free(lhs, lc + lb), free(rhs, rc + rb)
    size = lambda x, dims: math.prod(x.shape[d] for d in dims)  # noqa: E731
    left = jnp.transpose(lhs, lb + lf + lc).reshape(size(lhs, lb), size(lhs, lf), size(lhs, lc))
    right = jnp.transpose(rhs, rb + rc + rf).reshape(size(rhs, rb), size(rhs, rc), size(rhs, rf))
    return left, right
