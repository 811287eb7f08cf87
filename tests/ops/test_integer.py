"""GEMMs in int8: the bits of the float32 emulation, or an int64 oracle times the scales."""

import dataclasses
import functools
import re

import hypothesis as hp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qtrain as qt
from qtrain.ops import conv_general_dilated, dot_general
from qtrain.ops.integer import check, matmul
from qtrain.quantize import Cast, Scale

PLAIN = (((1,), (0,)), ((), ()))
BATCHED = (((2,), (1,)), ((0,), (0,)))
CROSSED = (((3, 1), (0, 2)), ((0,), (3,)))  # two contracted dimensions, out of order
SHAPES = {
    "plain": ((5, 7), (7, 3), PLAIN),
    "K = 1": ((5, 1), (1, 3), PLAIN),
    "dense": ((2, 4, 6), (6, 5), (((2,), (0,)), ((), ()))),
    "batched": ((2, 5, 7), (2, 7, 3), BATCHED),
    "crossed": ((2, 3, 4, 5), (5, 6, 3, 2), CROSSED),
    "vectors": ((7,), (7,), (((0,), (0,)), ((), ()))),
    "empty": ((0, 7), (7, 3), PLAIN),
}
KEY = jax.random.key(5)


def quantizer(method="power_of_two", rounding="nearest", fmt="int8sym") -> Cast:
    return Cast(fmt, rounding, Scale(method=method))


def config(
    method="power_of_two", *, integer=True, error="stochastic", fmt="int8sym", split=False
) -> qt.DotConfig:
    """All four roles; `split`: the weight gradient has its own random bits and format."""
    q = quantizer(method, fmt=fmt)
    dgrad = quantizer(method, error, fmt)
    wgrad = quantizer(method, error, "int7sym") if split else dgrad
    return qt.DotConfig(lhs=q, rhs=q, dgrad=dgrad, wgrad=wgrad, integer=integer)


def three_gemms(chosen, numbers, lhs, rhs, error):
    """Forward, input gradient, weight gradient."""
    f = functools.partial(dot_general, dimension_numbers=numbers, config=chosen, key=KEY)
    y, pull = jax.vjp(f, lhs, rhs)
    return y, *pull(error.reshape(y.shape))


def operands(lhs, rhs, numbers, seed=0, scales=(0, 0, 0)):
    rng = np.random.default_rng(seed)
    out = jax.eval_shape(lambda a, b: jax.lax.dot_general(a, b, numbers), *map(_like, (lhs, rhs)))
    shapes = (lhs, rhs, out.shape)
    return [
        np.ldexp(rng.normal(size=s), k).astype(np.float32)
        for s, k in zip(shapes, scales, strict=True)
    ]


def _like(shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


@pytest.mark.parametrize("split", [False, True], ids=["shared", "bifurcated"])
@pytest.mark.parametrize(("lhs", "rhs", "numbers"), SHAPES.values(), ids=SHAPES)
def test_equals_the_emulation(lhs, rhs, numbers, split):
    """Scales that are powers of two, sums below 128^2 K < 2^24: float32 adds exactly.

    Kills: an input gradient in its canonical order.
    """
    values = operands(lhs, rhs, numbers)
    got, want = (
        jax.jit(functools.partial(three_gemms, config(integer=i, split=split), numbers))(*values)
        for i in (True, False)
    )
    for a, b in zip(got, want, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_array_equal(a, b)


@hp.given(st.integers(0, 2**32 - 1), st.tuples(*[st.integers(-60, 60)] * 3))
def test_equals_the_emulation_at_any_scale(seed, powers):
    """Products of the scales stay normal float32 numbers; one scale alone may be large.

    Kills: one scale twice.
    """
    lhs, rhs, numbers = SHAPES["plain"]
    values = operands(lhs, rhs, numbers, seed, powers)
    got, want = (_jitted(i)(*values) for i in (True, False))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


@functools.cache
def _jitted(integer):
    return jax.jit(functools.partial(three_gemms, config(integer=integer), PLAIN))


def test_one_scale_may_be_large():
    """Sums of 2^22 times 2^113 are beyond float32, times 2^-113 they are not.

    Kills: `total * scale_a * scale_b`, which overflows on the way.
    """
    a = jnp.full((1, 512), 127.0) * 2.0**113
    b = jnp.full((512, 1), 127.0) * 2.0**-113
    q = quantizer()
    got = qt.dot(a, b, config=qt.DotConfig(lhs=q, rhs=q, integer=True))
    np.testing.assert_array_equal(got, [[127.0 * 127 * 512]])


@pytest.mark.parametrize("fmt", ["int8sym", "int8", "int4", "int2sym", "uint4"])
@pytest.mark.parametrize("method", ["power_of_two", "absmax", "mse", "percentile"])
def test_equals_sums_in_int64(method, fmt):
    """The codes of numpy, summed in int64, times the product of the scales: rounded three times."""
    a, b, _ = operands((9, 300), (300, 8), PLAIN)
    a, b = (np.abs(v) if fmt == "uint4" else v for v in (a, b))
    q = quantizer(method, fmt=fmt)
    got = qt.dot(a, b, config=qt.DotConfig(lhs=q, rhs=q, integer=True))
    np.testing.assert_array_equal(got, product(codes(q, a), codes(q, b)))


def codes(q: Cast, x) -> tuple[np.ndarray, np.float32]:
    """Integers of what the quantizer makes of x, and its scale."""
    scale = np.float32(np.asarray(q.scale(x, q.fmt)).item())
    return np.rint(np.asarray(q(x), np.float64) / np.float64(scale)).astype(np.int64), scale


def product(a, b) -> np.ndarray:
    return (a[0] @ b[0]).astype(np.float32) * (a[1] * b[1])


def test_each_gemm_has_its_own_scales():
    """All three by the oracle; the error has a scale and a format of its own for each of its two.

    With powers of two, codes by another role's scale would be multiples of the right ones, so
    this takes absmax. Kills: the scale of "dgrad" for "wgrad".
    """
    a, b, e = operands((9, 30), (30, 8), PLAIN)
    chosen = config("absmax", error="nearest", split=True)
    y, dx, dw = jax.jit(functools.partial(three_gemms, chosen, PLAIN))(a, b, e)
    left, right = codes(chosen.lhs, a), codes(chosen.rhs, b)
    np.testing.assert_array_equal(y, product(left, right))
    transposed = (right[0].T, right[1])
    np.testing.assert_array_equal(dx, product(codes(chosen.dgrad, e), transposed))
    transposed = (left[0].T, left[1])
    np.testing.assert_array_equal(dw, product(transposed, codes(chosen.wgrad, e)))


def test_sums_beyond_float32():
    """K = 131071 products of 128^2, the most that int32 holds: no sum is lost on the way.

    Kills: -128 clipped to -127.
    """
    k = 2**17 - 1
    a = jnp.full((1, 1, k), -128.0).at[0, 0, 0].set(-127.0)
    b = jnp.full((1, k, 1), -128.0)
    one = jnp.float32(1)
    total = 128 * 128 * k - 128
    assert float(matmul(a, b, one, one)[0, 0, 0]) == np.float32(total)
    with pytest.raises(ValueError, match=r"131072 products of int8 .* at most 131071"):
        matmul(jnp.ones((1, 1, k + 1)), jnp.ones((1, k + 1, 1)), one, one)


INTEGER_GEMM = re.compile(r"dot_general.* : \(tensor<\S*xi8>, tensor<\S*xi8>\) -> tensor<\S*xi32>")


@pytest.mark.parametrize(
    ("changes", "gemms"),
    [
        ({}, 3),
        ({"integer": False}, 0),
        ({"wgrad": None}, 2),  # bifurcation: the weight gradient sees float32
        ({"dgrad": None, "wgrad": None}, 1),
        ({"lhs": None}, 1),  # the input gradient alone has two integer operands
        ({"forward": qt.Accumulator("e6m9", 2)}, 2),  # rounded sums are no integers
        ({"input_grad": qt.Accumulator("float32", 2)}, 2),
    ],
)
def test_gemms_are_done_in_integers(changes, gemms):
    """In the lowered program. Kills: `integer` ignored."""
    chosen = dataclasses.replace(config(error="nearest"), **changes)
    a, b, e = operands((5, 7), (7, 3), PLAIN)
    text = jax.jit(functools.partial(three_gemms, chosen, PLAIN)).lower(a, b, e).as_text()
    assert len(INTEGER_GEMM.findall(text)) == gemms


@pytest.mark.parametrize("place", range(2))
def test_nan_is_not_lost(place):
    """No code stands for it. Kills: the scale of an array with NaN -> a number."""
    values = operands((5, 7), (7, 3), PLAIN)[:2]
    values[place][2, 1] = np.nan
    q = quantizer()
    y = qt.dot(*values, config=qt.DotConfig(lhs=q, rhs=q, integer=True))
    assert np.isnan(y).all()


def test_bfloat16_has_room_for_the_codes():
    """8 bits times a power of two, rounded as lax rounds."""
    values = [v.astype(jnp.bfloat16) for v in operands((5, 7), (7, 3), PLAIN)]
    got, want = (_jitted(i)(*values) for i in (True, False))
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype == jnp.bfloat16
        # both round the exact sum to bfloat16
        np.testing.assert_array_equal(np.asarray(a, np.float32), np.asarray(b, np.float32))


def test_vmap():
    a, b, _ = operands((4, 5, 7), (7, 3), (((2,), (0,)), ((), ())))
    q = quantizer()
    f = jax.jit(functools.partial(qt.dot, config=qt.DotConfig(lhs=q, rhs=q, integer=True)))
    got = jax.vmap(f, (0, None))(a, b)
    np.testing.assert_array_equal(got, jnp.stack([f(one, b) for one in a]))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Cast("int9", scale=Scale()), "int9.* has no int8 codes"),
        (Cast("uint8", scale=Scale()), "uint8.* has no int8 codes"),
        (Cast("e4m3fn", scale=Scale()), "e4m3fn.* has no int8 codes"),
        (qt.quantize.Affine(), r"Affine\(.* has no int8 codes"),
        (Cast("int8"), "one scale for the whole operand, not None"),
        (Cast("int8", scale=Scale(axis=-1)), "one scale for the whole operand, not Scale"),
        (Cast("int8", scale=Scale(axis=-1, block=1)), "one scale for the whole operand"),
    ],
)
@pytest.mark.parametrize("role", ["lhs", "rhs", "dgrad", "wgrad"])
def test_errors_are_one_clear_line(role, wrong, message):
    with pytest.raises(ValueError, match=f"{role}: .*{message}|{role}: {message}") as found:
        check(role, wrong)
    assert "\n" not in str(found.value)
    good = {r: quantizer() for r in ("lhs", "rhs", "dgrad", "wgrad")}
    with pytest.raises(ValueError, match=message):
        qt.DotConfig(**good | {role: wrong}, integer=True)


def test_convolutions_ignore_it():
    x, w = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 3))
    numbers = ("NHWC", "HWIO", "NHWC")

    def f(integer, x, w):
        chosen = config(integer=integer)
        return jnp.sum(
            conv_general_dilated(
                x, w, (1, 1), "SAME", dimension_numbers=numbers, config=chosen, key=KEY
            )
            ** 2
        )

    got, want = (jax.jit(jax.grad(functools.partial(f, i), (0, 1)))(x, w) for i in (True, False))
    jax.tree.map(np.testing.assert_array_equal, got, want)
