"""Every rounded addition of conv and its gradients, bit for bit against scalar loops.

The oracle asks of each output, kernel offset and channel which input it multiplies, straight
from the definition of a convolution, and adds the products in the documented order.
"""

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import hypothesis as hp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from strategies import assert_same

import qtrain as qt
from qtrain import formats
from qtrain.ops import conv_general_dilated
from qtrain.ops.accumulate import rounding_bits
from qtrain.quantize.bits import fold, key_words

NHWC = ("NHWC", "HWIO", "NHWC")
SIZE, KERNEL, CHANNELS = (4, 3), (3, 2), (4, 4)  # of two images
KEY = jax.random.key(7)


class Axis(NamedTuple):
    """How the kernel moves along one axis."""

    stride: int = 1
    low: int = 0
    high: int = 0
    lhs_dilation: int = 1
    rhs_dilation: int = 1

    def outputs(self, size: int, kernel: int) -> int:
        span = (kernel - 1) * self.rhs_dilation + 1
        padded = (size - 1) * self.lhs_dilation + 1 + self.low + self.high
        return (padded - span) // self.stride + 1

    def seen(self, output: int, offset: int, size: int) -> int | None:
        """The input under kernel offset `offset`, or None where padding or a gap lies."""
        place = output * self.stride + offset * self.rhs_dilation - self.low
        input_, gap = divmod(place, self.lhs_dilation)
        return None if gap or not 0 <= input_ < size else input_


class Case(NamedTuple):
    """A geometry, what is added how, and on which operands."""

    axes: tuple[Axis, Axis] = (Axis(), Axis())
    groups: int = 1
    accum: qt.Accumulator = qt.Accumulator("e6m9", 8)
    kind: str = "fp8"

    def outputs(self) -> tuple[int, ...]:
        return tuple(a.outputs(s, k) for a, s, k in zip(self.axes, SIZE, KERNEL, strict=True))


def operands(case: Case, seed: int = 0):
    """x (2, *SIZE, Cin), w (*KERNEL, Cin / groups, Cout) and an error, float32."""
    rng = np.random.default_rng(seed)
    cin, cout = CHANNELS
    shapes = (2, *SIZE, cin), (*KERNEL, cin // case.groups, cout), (2, *case.outputs(), cout)
    found = []
    for shape in shapes:
        x = rng.normal(size=shape)
        if case.kind == "fp8":  # the short rounding sequence runs
            x = np.asarray(jnp.asarray(x, jnp.float8_e5m2))
        elif case.kind == "zeros":  # of both signs, and products that underflow to both
            x = rng.choice([0.0, -0.0, 1.0, -1.0, 2.0**-12, -(2.0**-12)], shape)
        elif case.kind == "spread":
            x = x * 2.0 ** rng.integers(-9, 10, shape)
        found.append(x.astype(np.float32))
    return found


def places(*sizes: int):
    return itertools.product(*map(range, sizes))


def both(case: Case, output, offset) -> tuple[int, int] | None:
    """The input pixel under kernel offset `offset` of output pixel `output`."""
    at = [a.seen(*each) for a, *each in zip(case.axes, output, offset, SIZE, strict=True)]
    return None if None in at else (at[0], at[1])


def forward(case: Case, x, w, _):
    """Terms of y[n, o, co] over K = (kernel, cin), in row-major order of the outputs."""
    cin, cout = (c // case.groups for c in CHANNELS)
    for n, *o, co in places(2, *case.outputs(), CHANNELS[1]):
        first = co // cout * cin
        for *k, ci in places(*KERNEL, cin):
            at = both(case, o, k)
            yield 0.0 if at is None else x[n, *at, first + ci], w[*k, ci, co]


def input_gradient(case: Case, _, w, error):
    """Terms of dx[n, i, ci] over K = (flipped kernel, cout)."""
    cin, cout = (c // case.groups for c in CHANNELS)
    reached = {(both(case, o, k), k): o for o in places(*case.outputs()) for k in places(*KERNEL)}
    for n, *i, c in places(2, *SIZE, CHANNELS[0]):
        group, ci = divmod(c, cin)
        for *flipped, co in places(*KERNEL, cout):
            k = tuple(s - 1 - f for s, f in zip(KERNEL, flipped, strict=True))
            o = reached.get((tuple(i), k))
            co += group * cout
            yield 0.0 if o is None else error[n, *o, co], w[*k, ci, co]


def weight_gradient(case: Case, x, w, error):
    """Terms of dw[k, ci, co] over K = (n, output pixel)."""
    cin, cout = (c // case.groups for c in CHANNELS)
    for *k, ci, co in places(*w.shape):
        first = co // cout * cin
        for n, *o in places(2, *case.outputs()):
            at = both(case, o, k)
            yield 0.0 if at is None else x[n, *at, first + ci], error[n, *o, co]


GEMMS: dict[str, Callable] = {
    "forward": forward, "input_grad": input_gradient, "weight_grad": weight_gradient,
}  # fmt: skip


def expected(case: Case, role: str, arrays, like) -> np.ndarray:
    """All sums of one GEMM, in the shape of `like`."""
    accum, fmt = case.accum, formats.get(case.accum.fmt)
    left, right = np.array(list(GEMMS[role](case, *arrays)), np.float32).T
    products = (left * right).reshape(like.size, -1)
    word = None
    if accum.needs_key:
        step, output = np.meshgrid(range(2 * products.shape[1]), range(like.size), indexing="ij")
        words = key_words(fold(KEY, role))
        bits = [np.asarray(rounding_bits(words, i, step, output, 23 - fmt.man)) for i in (0, 1)]
        word = lambda output, level, step: int(bits[level][step, output])  # noqa: E731
    found = [
        oracles.total(
            row.tolist(), fmt, accum.chunk, accum.rounding,
            word=None if word is None else functools.partial(word, output),
        )
        for output, row in enumerate(products)
    ]  # fmt: skip
    return np.array(found, np.float32).reshape(like.shape)


def compare(case: Case, seed: int = 0) -> None:
    a = case.accum
    config = qt.DotConfig(forward=a, input_grad=a, weight_grad=a)
    fields = {
        "window_strides": [a.stride for a in case.axes],
        "padding": [(a.low, a.high) for a in case.axes],
        "lhs_dilation": [a.lhs_dilation for a in case.axes],
        "rhs_dilation": [a.rhs_dilation for a in case.axes],
        "feature_group_count": case.groups,
    }

    @jax.jit
    def run(x, w, error):
        conv = functools.partial(
            conv_general_dilated, dimension_numbers=NHWC, config=config,
            key=KEY if a.needs_key else None, **fields,
        )  # fmt: skip
        y, pull = jax.vjp(conv, x, w)
        return y, *pull(error)

    arrays = operands(case, seed)
    for role, got in zip(GEMMS, run(*arrays), strict=True):
        want = expected(case, role, arrays, got)
        assert_same(np.asarray(got).ravel(), want.ravel(), np.arange(want.size))


UNEVEN = (Axis(2, 2, 1), Axis(1, 0, 2))
EVERYTHING = (Axis(2, 1, 3, 3, 2), Axis(3, 2, 0, 2, 1))
CASES = {
    "strided, uneven padding, odd chunks": Case(UNEVEN, 1, qt.Accumulator("e6m9", 5), "spread"),
    "everything": Case(EVERYTHING, 2),
    "cropped, two groups, truncated": Case(
        (Axis(1, -1, 1), Axis(2, 1, -1)), 2, qt.Accumulator("e4m3fn", 4, "toward_zero"), "spread"
    ),
    "aligned": Case(UNEVEN, 2, qt.Accumulator("e6m9", None, "align"), "spread"),
    "stochastic": Case(UNEVEN, 2, qt.Accumulator("e6m9", 5, "stochastic")),
    "signs of zero": Case(UNEVEN, 1, qt.Accumulator("e4m3", 4), "zeros"),
    "kernel dilated": Case((Axis(1, 2, 2, 1, 2), Axis(1, 1, 2, 1, 3))),
    "input dilated": Case((Axis(1, 2, 1, 2), Axis(1, 0, 1, 3))),
    "depthwise": Case((Axis(1, 1, 1), Axis(2, 0, 1)), 4, qt.Accumulator("e6m9", 4)),
    "stochastic, all": Case(EVERYTHING, 1, qt.Accumulator("e6m5", 8, "stochastic"), "spread"),
}
DEFAULT = list(CASES)[:6]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in DEFAULT else pytest.mark.slow) for n in CASES]
)
def test_equals_scalar_loops(name):
    """K is (kh, kw, cin) forward, (kh, kw, cout) with the kernel flipped backward, (n, h, w) for
    the weights.

    Kills: conv.py: the kernel of the backward not flipped; its strides and dilations not swapped;
    dilation of the kernel left out; the key of another role; the index without its groups.
    """
    compare(CASES[name])


@st.composite
def geometries(draw) -> Case:
    """Any geometry with at least one output."""
    small, pad = st.integers(1, 3), st.integers(-1, 3)
    axes = tuple(draw(st.builds(Axis, small, pad, pad, small, small)) for _ in range(2))
    rounding = draw(st.sampled_from(["nearest", "stochastic", "toward_zero", "align"]))
    accum = qt.Accumulator(draw(st.sampled_from(["e6m9", "e5m2"])), None, rounding)
    case = Case(
        axes, draw(st.sampled_from([1, 2])), accum, draw(st.sampled_from(["fp8", "spread"]))
    )
    hp.assume(min(case.outputs()) > 0)
    return case


@pytest.mark.slow
@hp.given(geometries(), st.integers(0, 10**6))
def test_any_geometry(case, seed):
    compare(case, seed)
