"""Convolutions with a choice for every operand role and every running sum.

The three GEMMs of a convolution, with their index of accumulation K:

Forward           y[n,o,co]   over K = (kernel, cin)        patches(x) . w
Input gradient    dx[n,i,ci]  over K = (kernel, cout)       patches(dilated dy) . flipped w
Weight gradient   dw[k,ci,co] over K = (n, output pixel)    patches(x)^T . dy

K runs in row-major order of those indices; zeros that padding and dilation bring in are
added like any other product. Where a GEMM has no `Accumulator`, it is lax's convolution.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qtrain.ops.accumulate import accumulate, to_float32
from qtrain.ops.config import Accumulator, DotConfig
from qtrain.ops.dot import has_gemm_settings, quantize, quantize_error, role_keys
from qtrain.ops.operands import extent

_TILE = 1 << 18  # outputs per tile of images
_TILE_PIXELS = 1 << 13  # and its pixels: rows of that length stay in the level-1 cache


def conv(
    x: jax.Array,
    w: jax.Array,
    *,
    strides=1,
    padding="SAME",
    config: DotConfig,
    key: jax.Array | None = None,
    groups: int = 1,
) -> jax.Array:
    """Convolves (N, *spatial, Cin) with (*kernel, Cin / groups, Cout), channels last.

    Derivatives are those of `dot`: reverse mode only, once.

    Raises:
      ValueError: as `conv_general_dilated`, or x and w have not as many axes.
    """
    rank = x.ndim - 2
    if rank < 0 or w.ndim != x.ndim:
        raise ValueError(
            f"cannot convolve {x.shape} with {w.shape}: (N, *spatial, Cin) and"
            " (*kernel, Cin / groups, Cout) are needed"
        )
    strides = (strides,) * rank if isinstance(strides, int) else tuple(strides)
    return conv_general_dilated(
        x, w, strides, padding, dimension_numbers=_channels_last(rank),
        feature_group_count=groups, config=config, key=key,
    )  # fmt: skip


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides,
    padding,
    lhs_dilation=None,
    rhs_dilation=None,
    dimension_numbers=None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision=None,
    preferred_element_type=None,
    *,
    config: DotConfig,
    key: jax.Array | None = None,
    **kwargs,
) -> jax.Array:
    """`lax.conv_general_dilated` by way of `config`; lhs is the activation, rhs the weight.

    Raises:
      TypeError: sums are rounded and an operand is not a float array.
      ValueError: a chunk is longer than its accumulation, a needed key is missing, or
        batch_group_count is not 1 where the backward or the sums are configured; a stride
        below 1, or not as many strides as spatial axes. Shapes, groups, paddings and dilations
        that do not fit are lax's errors.
    """
    if len(window_strides) != lhs.ndim - 2:
        raise ValueError(f"{lhs.ndim - 2} strides are needed, not {tuple(window_strides)}")
    if min(window_strides, default=1) < 1:
        raise ValueError(f"strides must be at least 1, not {tuple(window_strides)}")
    keys = role_keys(config, key)
    lhs = quantize(config.lhs, lhs, keys["lhs"])
    rhs = quantize(config.rhs, rhs, keys["rhs"])
    settings = dict(precision=precision, preferred_element_type=preferred_element_type, **kwargs)
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    if not has_gemm_settings(config):
        return lax.conv_general_dilated(
            lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation, numbers,
            feature_group_count, batch_group_count, **settings,
        )  # fmt: skip
    if batch_group_count != 1:
        raise ValueError(f"batch_group_count must be 1 here, not {batch_group_count}")
    rank = lhs.ndim - 2
    ones = (1,) * rank
    rhs_dilation = tuple(rhs_dilation or ones)
    kernel = [
        (rhs.shape[d] - 1) * r + 1 for d, r in zip(numbers.rhs_spec[2:], rhs_dilation, strict=True)
    ]
    if isinstance(padding, str):
        sizes = [lhs.shape[d] for d in numbers.lhs_spec[2:]]
        padding = lax.padtype_to_pads(sizes, kernel, window_strides, padding)
    window = _Window(
        strides=tuple(window_strides),
        padding=tuple((int(lo), int(hi)) for lo, hi in padding),
        lhs_dilation=tuple(lhs_dilation or ones),
        rhs_dilation=rhs_dilation,
        groups=feature_group_count,
        settings=tuple(sorted(settings.items(), key=lambda item: item[0])),
    )
    n, c, *spatial = numbers.lhs_spec
    x = jnp.transpose(lhs, (n, *spatial, c))
    co, ci, *spatial = numbers.rhs_spec
    y = _conv(config, window, x, jnp.transpose(rhs, (*spatial, ci, co)), keys)
    n, c, *spatial = numbers.out_spec
    order = (n, *spatial, c)
    return jnp.transpose(y, [order.index(d) for d in range(y.ndim)])


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Window:
    """How the kernel moves over a channels-last input."""

    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]
    groups: int
    settings: tuple

    def plain(self, x, w):
        """The same convolution by lax."""
        return lax.conv_general_dilated(
            x, w, self.strides, self.padding, self.lhs_dilation, self.rhs_dilation,
            _channels_last(len(self.strides)), self.groups, **dict(self.settings),
        )  # fmt: skip


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _conv(config: DotConfig, window: _Window, x, w, keys):
    out = jax.eval_shape(window.plain, x, w)
    if config.forward is None:
        return window.plain(x, w)
    y = _accumulate_conv(x, w, window, config.forward, keys["forward"])
    return y.reshape(out.shape).astype(out.dtype)


def _conv_fwd(config, window, x, w, keys):
    return _conv(config, window, x, w, keys), (x, w, keys)


def _conv_bwd(config, window, residuals, error):
    x, w, keys = residuals
    _, pull = jax.vjp(window.plain, x, w)
    for_dgrad, for_wgrad = quantize_error(config, error, keys)
    if config.input_grad is None:
        dx = pull(for_dgrad)[0]
    else:
        back, flipped = _transposed(window, x.shape, w, error.shape)
        dx = _accumulate_conv(for_dgrad, flipped, back, config.input_grad, keys["input_grad"])
        dx = dx.reshape(x.shape).astype(x.dtype)
    if config.weight_grad is None:
        dw = pull(for_wgrad)[1]
    else:
        dw = _weight_gradient(
            x, for_wgrad, w.shape, window, config.weight_grad, keys["weight_grad"]
        )
        dw = dw.astype(w.dtype)
    return dx, dw, None


_conv.defvjp(_conv_fwd, _conv_bwd)


def _channels_last(rank: int) -> lax.ConvDimensionNumbers:
    spatial = tuple(range(1, rank + 1))
    last = rank + 1
    return lax.ConvDimensionNumbers(
        lhs_spec=(0, last, *spatial),
        rhs_spec=(last, rank, *range(rank)),
        out_spec=(0, last, *spatial),
    )


def _accumulate_conv(x, w, window: _Window, accum, key):
    """(N, *out, Cout) as patches times kernel, summed over (kernel, cin).

    Goes through a few images at a time: patches take as much memory as the kernel has
    offsets times the images, and a tile of them stays in cache.
    """
    x, w = to_float32(x), to_float32(w)
    out = jax.eval_shape(window.plain, x, w).shape
    if math.prod(out) == 0:
        return jnp.zeros(out, jnp.float32)
    kernel = jnp.moveaxis(w.reshape(-1, window.groups, out[-1] // window.groups), 1, 0)
    extents = (extent(x), extent(w))
    pixels, channels = math.prod(out[1:-1]), out[-1]
    step = max(1, min(_TILE_PIXELS, _TILE // channels) // max(pixels, 1))
    step = min(step, out[0])
    tiles = -(-out[0] // step)
    x = jnp.pad(x, [(0, tiles * step - out[0])] + [(0, 0)] * (x.ndim - 1))

    def tile(operands):
        i, images = operands
        rows = step * pixels
        index = None
        if accum.needs_key:
            index = lax.iota(jnp.uint32, rows * channels) + i * np.uint32(rows * channels)
            index = jnp.moveaxis(index.reshape(rows, window.groups, -1), 1, 0)
        patches = jnp.swapaxes(_patches(images, w.shape[:-2], window, k_first=True), 1, 2)
        y = accumulate(patches, kernel, accum, key, extents=extents, index=index)
        return jnp.moveaxis(y, 0, 1).reshape(step, *out[1:])

    if tiles == 1:
        return tile((jnp.uint32(0), x))
    y = lax.map(tile, (lax.iota(jnp.uint32, tiles), x.reshape(tiles, step, *x.shape[1:])))
    return y.reshape(-1, *out[1:])[: out[0]]


def _weight_gradient(x, error, shape, window: _Window, accum: Accumulator, key):
    """(*kernel, Cin / groups, Cout), summed over (n, output pixel)."""
    if error.size == 0:
        return jnp.zeros(shape, jnp.float32)
    x, error = to_float32(x), to_float32(error)
    patches = _patches(x, shape[:-2], window, k_first=False)
    right = error.reshape(-1, window.groups, shape[-1] // window.groups)
    right = jnp.moveaxis(right, 1, 0)
    index = None
    if accum.needs_key:
        index = lax.iota(jnp.uint32, math.prod(shape)).reshape(-1, *right.shape[::2])
        index = jnp.moveaxis(index, 1, 0)
    extents = (extent(x), extent(error))
    dw = accumulate(jnp.swapaxes(patches, 1, 2), right, accum, key, extents=extents, index=index)
    return jnp.moveaxis(dw, 0, 1).reshape(shape)


def _patches(x, kernel: tuple[int, ...], window: _Window, *, k_first: bool):
    """What each output sees: (groups, kernel * Cin / groups, N * out) or its transpose,
    the one or the other laid out contiguously.
    """
    zero = jnp.zeros((), x.dtype)
    config = [
        (lo, hi, d - 1) for (lo, hi), d in zip(window.padding, window.lhs_dilation, strict=True)
    ]
    x = lax.pad(x, zero, [(0, 0, 0), *config, (0, 0, 0)])
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, window.rhs_dilation, strict=True)]
    out = [
        (s - span) // step + 1
        for s, span, step in zip(x.shape[1:-1], spans, window.strides, strict=True)
    ]
    c_group = x.shape[-1] // window.groups
    x = x.reshape(*x.shape[:-1], window.groups, c_group)
    x = jnp.moveaxis(x, (-2, -1), (0, 1)) if k_first else jnp.moveaxis(x, -2, 0)
    spatial = 3 if k_first else 2  # first spatial axis
    shifted = []
    for offset in itertools.product(*map(range, kernel)):
        index = [slice(None)] * x.ndim
        for d, o in enumerate(offset):
            start = o * window.rhs_dilation[d]
            stop = start + (out[d] - 1) * window.strides[d] + 1
            index[spatial + d] = slice(start, stop, window.strides[d])
        shifted.append(x[tuple(index)])
    if k_first:
        return jnp.stack(shifted, 1).reshape(window.groups, len(shifted) * c_group, -1)
    return jnp.stack(shifted, -2).reshape(window.groups, -1, len(shifted) * c_group)


def _transposed(window: _Window, x_shape, w, y_shape):
    """The convolution of the error that gives the input gradient: window and kernel."""
    padding = []
    sizes = zip(x_shape[1:-1], w.shape[:-2], y_shape[1:-1], window.padding, strict=True)
    for d, (n, k, m, (low, _)) in enumerate(sizes):
        span = (k - 1) * window.rhs_dilation[d] + 1
        dilated_in = (n - 1) * window.lhs_dilation[d] + 1
        dilated_out = (m - 1) * window.strides[d] + 1
        before = span - 1 - low
        padding.append((before, dilated_in + span - 1 - dilated_out - before))
    back = dataclasses.replace(
        window, strides=window.lhs_dilation, lhs_dilation=window.strides, padding=tuple(padding)
    )
    *kernel, c_in, c_out = w.shape
    flipped = jnp.flip(w, range(len(kernel))).reshape(
        math.prod(kernel), c_in, window.groups, c_out // window.groups
    )
    flipped = jnp.transpose(flipped, (0, 3, 2, 1))  # kernel, cout of a group, group, cin
    return back, flipped.reshape(*kernel, c_out // window.groups, window.groups * c_in)
