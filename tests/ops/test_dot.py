"""dot and dot_general: what an empty config promises, roles, transformations, errors."""

import re

import hypothesis as hp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import qtrain as qt
from qtrain.ops import dot_general

BATCHED = (((2,), (1,)), ((0,), (0,)))
CROSSED = (((3, 1), (0, 2)), ((0,), (3,)))  # two contracted dimensions, out of order
ONES = jnp.ones((2, 3))
SUM = qt.Accumulator("e6m9", 4)
ALL = qt.DotConfig(
    lhs=qt.Cast("e5m2"),
    rhs=qt.Cast("e5m2"),
    dgrad=qt.Cast("e5m2"),
    wgrad=qt.Cast("e5m2"),
    forward=SUM,
    input_grad=SUM,
    weight_grad=SUM,
)


def normal(seed: int, shape) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def value_and_grads(f, *args):
    """f(*args) and the gradients of sum(f^2)."""
    return f(*args), *jax.grad(lambda *a: jnp.sum(f(*a) ** 2), argnums=(0, 1))(*args)


def assert_same_bits(got, want):
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(
            np.asarray(g, np.float32).view(np.uint32), np.asarray(w, np.float32).view(np.uint32)
        )


@pytest.mark.parametrize(
    ("lhs", "rhs", "numbers"),
    [
        ((5, 7), (7, 3), (((1,), (0,)), ((), ()))),
        ((2, 5, 7), (2, 7, 3), BATCHED),
        ((2, 3, 4, 5), (5, 6, 3, 2), CROSSED),
    ],
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_empty_config_is_lax(lhs, rhs, numbers, dtype):
    """Kills: routing an empty config through our own loop, or casting its operands."""
    a, b = normal(0, lhs).astype(dtype), normal(1, rhs).astype(dtype)
    ours = jax.jit(
        lambda a, b: value_and_grads(
            lambda a, b: dot_general(a, b, numbers, config=qt.DotConfig()), a, b
        )
    )
    plain = jax.jit(lambda a, b: value_and_grads(lambda a, b: lax.dot_general(a, b, numbers), a, b))
    assert_same_bits(ours(a, b), plain(a, b))


def test_gradient_without_accumulators_is_three_dots():
    config = qt.DotConfig(lhs=qt.Cast("e5m2"), rhs=qt.Cast("e5m2"), dgrad=qt.Cast("e5m2"))
    grad = jax.jit(jax.grad(lambda a, b: jnp.sum(qt.dot(a, b, config=config) ** 2), (0, 1)))
    a = jnp.ones((64, 64))
    text = grad.lower(a, a).compile().as_text()
    assert len(re.findall(r" dot\(|custom-call\(.*matmul", text)) == 3


@pytest.mark.parametrize(
    ("lhs", "rhs", "numbers"),
    [((2, 5, 7), (2, 7, 3), BATCHED), ((2, 3, 4, 5), (5, 6, 3, 2), CROSSED)],
)
def test_every_dimension_order_reaches_the_same_sums(lhs, rhs, numbers):
    """A float32 accumulator adds in K order: as close to lax as two orders of K terms are.

    Both sums of K products are within gamma_{K} sum |a b| of the exact one
    [higham2002accuracy, Sec. 3.1], for the output and, with the error for an operand, for
    both gradients. Kills: a transposed operand, swapped dgrad and wgrad.
    """
    a, b = normal(0, lhs), normal(1, rhs)
    accum = qt.Accumulator("float32")
    config = qt.DotConfig(forward=accum, input_grad=accum, weight_grad=accum)
    error = normal(2, jax.eval_shape(lambda a, b: lax.dot_general(a, b, numbers), a, b).shape)

    def run(f, *operands):
        y, pull = jax.vjp(f, *operands[:2])
        return y, *pull(operands[2])

    ours = run(lambda a, b: dot_general(a, b, numbers, config=config), a, b, error)
    plain = run(lambda a, b: lax.dot_general(a, b, numbers), a, b, error)
    size = run(lambda a, b: lax.dot_general(a, b, numbers), *map(jnp.abs, (a, b, error)))
    terms = max(*lhs, *rhs) ** 2
    unit = terms * 2.0**-24
    for got, want, magnitude in zip(ours, plain, size, strict=True):
        bound = 2 * unit / (1 - unit) * np.asarray(magnitude, np.float64) * (1 + 1e-6)
        assert (np.abs(np.asarray(got, np.float64) - np.asarray(want, np.float64)) <= bound).all()


def test_roles_reach_their_gemms():
    """Each quantizer changes exactly the results its role enters. Kills: swapped roles."""
    a, b = normal(0, (6, 8)), normal(1, (8, 5))
    error = normal(2, (6, 5))

    def run(**roles):
        y, pull = jax.vjp(lambda a, b: qt.dot(a, b, config=qt.DotConfig(**roles)), a, b)
        return y, *pull(error)

    plain = run()
    affected = {"lhs": (0, 2), "rhs": (0, 1), "dgrad": (1,), "wgrad": (2,)}
    affected |= {"forward": (0,), "input_grad": (1,), "weight_grad": (2,)}
    for role, changed in affected.items():
        setting = (
            qt.Cast("e4m3fn")
            if role in ("lhs", "rhs", "dgrad", "wgrad")
            else qt.Accumulator("e6m3")
        )
        got = run(**{role: setting})
        for i, (g, p) in enumerate(zip(got, plain, strict=True)):
            assert bool((g != p).any()) == (i in changed), (role, i)


@pytest.mark.slow  # test_transformations.py has one of each by default
def test_transformations_keep_the_bits():
    """vmap, scan, remat and jit of the whole equal the plain call, gradients too."""
    a, b = normal(0, (3, 6, 8)), normal(1, (3, 8, 5))
    f = lambda a, b: value_and_grads(lambda a, b: qt.dot(a, b, config=ALL), a, b)  # noqa: E731
    want = jax.tree.map(lambda *x: jnp.stack(x), *[f(x, y) for x, y in zip(a, b, strict=True)])
    assert_same_bits(jax.vmap(f)(a, b), want)
    assert_same_bits(lax.scan(lambda c, ab: (c, f(*ab)), 0, (a, b))[1], want)
    assert_same_bits(jax.lax.map(lambda ab: f(*ab), (a, b)), want)
    dot = jax.checkpoint(lambda a, b: qt.dot(a, b, config=ALL))
    remat = lambda a, b: value_and_grads(dot, a, b)  # noqa: E731
    assert_same_bits(jax.jit(jax.vmap(remat))(a, b), want)


@pytest.mark.parametrize(
    ("spec", "rounding"),
    [
        (P("x", None), "stochastic"),
        pytest.param(P("x", None), "nearest", marks=pytest.mark.slow),
        pytest.param(P(None, "x"), "nearest", marks=pytest.mark.slow),
        pytest.param(P(None, "x"), "stochastic", marks=pytest.mark.slow),
    ],
)
def test_sharding_keeps_the_bits(rounding, spec):
    """Eight devices, either operand dimension cut. Kills: random bits from a local index."""
    accum = qt.Accumulator("e6m9", 8, rounding)
    a, b, key = normal(0, (16, 24)), normal(1, (24, 16)), jax.random.key(3)
    run = jax.jit(
        lambda a, b: value_and_grads(lambda a, b: qt.dot(a, b, accum=accum, key=key), a, b)
    )
    mesh = Mesh(np.array(jax.devices()), ("x",))
    put = lambda x: jax.device_put(x, NamedSharding(mesh, spec))  # noqa: E731
    assert_same_bits(run(put(a), put(b)), run(a, b))


def test_equal_configs_share_a_compilation():
    traces = []

    def run(a, b, config):
        traces.append(1)
        return qt.dot(a, b, config=config)

    jitted = jax.jit(run, static_argnums=2)
    for _ in range(3):
        jitted(jnp.ones((4, 4)), jnp.ones((4, 4)), qt.DotConfig(forward=qt.Accumulator("e6m9", 2)))
    assert len(traces) == 1


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic", "toward_zero", "align"])
def test_lowers_for_accelerators(platform, rounding):
    accum = qt.Accumulator("e6m9", 4, rounding)
    run = lambda a, k: value_and_grads(lambda a, b: qt.dot(a, b, accum=accum, key=k), a, a)  # noqa: E731
    a = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    exported = jax.export.export(jax.jit(run), platforms=[platform])(a, jax.random.key(0))
    assert "stablehlo.while" in exported.mlir_module()


def test_same_key_same_bits_and_roles_differ():
    """Kills: one key for forward and backward, or a key that is ignored."""
    accum = qt.Accumulator("e6m3", 4, "stochastic")
    a = normal(0, (16, 16))
    run = lambda s: qt.dot(a, a, accum=accum, key=jax.random.key(s))  # noqa: E731
    assert_same_bits(run(1), run(1))
    assert (run(1) != run(2)).any()
    identity = jnp.eye(16)
    y, pull = jax.vjp(lambda b: qt.dot(a, b, accum=accum, key=jax.random.key(1)), identity)
    forward_of_transpose = qt.dot(a.T, y, accum=accum, key=jax.random.key(1))
    assert (pull(y)[0] != forward_of_transpose).any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: qt.dot(ONES, jnp.ones((4, 5))), r"cannot multiply \(2, 3\) by \(4, 5\)"),
        (
            lambda: qt.dot(ONES, ONES.T, accum=qt.Accumulator(chunk=4)),
            "chunk 4 is longer than the accumulation of length 3",
        ),
        (lambda: qt.Accumulator("e6m9", 0), "chunk must be at least 1 .* not 0"),
        (lambda: qt.Accumulator("e6m9", rounding="up"), "unknown rounding 'up': one of nearest"),
        (lambda: qt.Accumulator("e8m22"), "cannot accumulate in e8m22"),
        (lambda: qt.Accumulator("e6m99"), "e6m99"),
        (lambda: qt.dot(ONES, ONES.T, accum=qt.Accumulator(rounding="stochastic")), "pass key="),
        (lambda: qt.dot(ONES, ONES.T, accum=SUM, config=ALL), "both accum and config"),
    ],
)  # fmt: skip
def test_errors_name_the_value_and_the_remedy(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_derivatives_of_rounded_sums_end_here():
    """Second ones, by one line; without accumulators they are those of lax.

    Kills: accumulate.py `_differentiable_never`: left out (an error about fori_loop).
    """
    a = normal(0, (4, 4))

    def second(config):
        loss = lambda a: jnp.sum(qt.dot(a, jnp.ones((4, 4)), config=config) ** 2)  # noqa: E731
        return jax.grad(lambda a: jnp.sum(jax.grad(loss)(a) ** 2))(a)

    with pytest.raises(NotImplementedError, match="no second derivative") as error:
        second(ALL)
    assert "\n" not in str(error.value)
    assert jnp.isfinite(second(qt.DotConfig(lhs=qt.Cast("e5m2"), dgrad=qt.Cast("e5m2")))).all()


@hp.given(st.sampled_from([(0, 3, 2), (2, 0, 3), (2, 3, 0)]))
def test_empty_operands(sizes):
    m, k, n = sizes
    y = qt.dot(jnp.ones((m, k)), jnp.ones((k, n)), accum=qt.Accumulator("e6m9"))
    np.testing.assert_array_equal(y, np.zeros((m, n)))
