"""Non-zero ratios against masks multiplied by the operation itself."""

import hypothesis as hp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from qtrain.workload import measure_sparsity


def sparse(seed, shape, density=0.5):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=shape) * (rng.random(shape) < density), jnp.float32)


def mask(x):
    return (x != 0).astype(jnp.float32)


def check(op, lhs, rhs, k):
    """Counts up to 2^24 are exact in float32, so the average differs by its own rounding only."""
    (gemm,) = measure_sparsity(op, lhs, rhs)
    assert gemm.k == k
    counts = np.asarray(op(mask(lhs), mask(rhs)), np.float64)
    assert gemm.nonzero.product == pytest.approx(counts.mean() / k, rel=1e-14)
    assert gemm.nonzero.lhs == pytest.approx(np.asarray(mask(lhs), np.float64).mean(), rel=1e-14)
    assert gemm.nonzero.rhs == pytest.approx(np.asarray(mask(rhs), np.float64).mean(), rel=1e-14)


@pytest.mark.parametrize(("numbers", "a", "b", "k"), [
    ((((1,), (0,)), ((), ())), (5, 7), (7, 3), 7),
    ((((0,), (2,)), ((2,), (1,))), (7, 5, 2), (3, 2, 7), 7),
    ((((1, 2), (1, 0)), ((), ())), (5, 3, 4), (4, 3, 6), 12),
    ((((), ()), ((), ())), (5,), (4,), 1),
])  # fmt: skip
def test_dot(numbers, a, b, k):
    check(lambda x, y: lax.dot_general(x, y, numbers), sparse(0, a), sparse(1, b), k)


# strides, padding, dilation of lhs and rhs, feature and batch groups, kernel
CONVOLUTIONS = [
    ((1, 1), ((0, 0), (0, 0)), (1, 1), (1, 1), 1, 1, (2, 3)),
    ((2, 3), ((1, 2), (0, 1)), (1, 1), (1, 1), 2, 1, (2, 3)),
    ((2, 1), ((1, 1), (1, 1)), (1, 1), (1, 2), 1, 2, (3, 3)),
    ((1, 2), ((-1, 1), (2, -1)), (2, 1), (1, 1), 4, 1, (2, 2)),
    ((1, 1), ((2, 2), (1, 1)), (3, 2), (2, 1), 1, 4, (2, 2)),
    # More kernel positions than outputs, as in a weight gradient:
    ((2, 1), ((1, 0), (0, 0)), (1, 1), (1, 1), 1, 1, (7, 9)),
    ((1, 1), ((0, 0), (1, 1)), (1, 1), (2, 1), 1, 2, (4, 10)),
]


@hp.given(case=st.sampled_from(CONVOLUTIONS), seed=st.integers(0, 99))
def test_conv(case, seed):
    """Mutants: the product of the operands' ratios instead of the count; batch groups as the
    minor part of the image index; strides and holes exchanged in counts._slide.
    """
    strides, padding, lhs_dilation, rhs_dilation, features, batches, kernel = case

    def op(x, w):
        return lax.conv_general_dilated(
            x, w, strides, padding, lhs_dilation, rhs_dilation, ("NHWC", "HWIO", "NHWC"),
            features, batches,
        )  # fmt: skip

    x, w = sparse(seed, (4, 9, 11, 4)), sparse(seed + 100, (*kernel, 4 // features, 8), 0.3)
    check(op, x, w, np.prod(kernel) * 4 // features)


def test_average_over_a_scan_and_gradients():
    """Every iteration and every role, against the masks of an unrolled run."""
    ws, x = sparse(2, (3, 6, 6), 0.7), sparse(3, (5, 6), 0.6)

    def loss(ws, x):
        body = jax.jit(lambda x, w: (jax.nn.relu(x @ w), None))
        return jnp.sum(lax.scan(body, x, ws)[0] ** 2)

    def unrolled(ws, x):
        for w in ws:
            x = jax.nn.relu(x @ w)
        return jnp.sum(x**2)

    looped = measure_sparsity(loss, ws, x, grad=True, argnums=(0, 1), params=0)
    flat = measure_sparsity(unrolled, list(ws), x, grad=True, argnums=(0, 1), params=0)
    assert [g.count for g in looped] == [3, 3, 3]
    for gemm in looped:
        each = [g.nonzero for g in flat.role(gemm.role)]
        assert len(each) == 3
        for part in ("lhs", "rhs", "product"):
            mean = np.mean([getattr(n, part) for n in each])
            assert getattr(gemm.nonzero, part) == pytest.approx(mean, rel=1e-14)


def test_relu_halves_what_the_next_layer_sees():
    w, x = sparse(4, (64, 64), 1.0), sparse(5, (64, 64), 1.0)
    first, second = measure_sparsity(lambda w, x: jax.nn.relu(x @ w) @ w, w, x)
    assert (first.nonzero.lhs, first.nonzero.product) == (1.0, 1.0)
    # 4096 signs of symmetric products; columns share x: at most 64 independent rows.
    assert abs(second.nonzero.lhs - 0.5) < 5 * 0.5 / 8
    assert second.nonzero.product == pytest.approx(second.nonzero.lhs, rel=1e-14)


def test_loops_branches_and_custom_rules():
    @jax.custom_vjp
    def layer(x, w):
        return x @ w

    layer.defvjp(lambda x, w: (layer(x, w), (x, w)), lambda k, g: (g @ k[1].T, k[0].T @ g))

    def fn(w, x):
        x = jax.checkpoint(layer)(x, w)
        x = lax.cond(x[0, 0] > jnp.inf, lambda x: x @ w @ w, lambda x: x * 0, x)
        return lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] @ w), (0, x))[1]

    w, x = sparse(6, (4, 4), 1.0), sparse(7, (4, 4), 1.0)
    found = measure_sparsity(fn, w, x)
    assert [g.nonzero and (g.nonzero.lhs, g.nonzero.product) for g in found] == [
        (1.0, 1.0),
        None,  # the branch that was not taken
        None,
        (0.0, 0.0),
    ]
    assert len(str(found).splitlines()[0].split("product != 0")) == 2


def test_values_are_those_of_the_function():
    """A reversed scan stacks its results in the order of its inputs."""

    def fn(w, x):
        _, ys = lax.scan(lambda c, x: (c + 1, (x @ w) * (c < 1)), 0, x, reverse=True)
        return jnp.concatenate([ys[0] @ w, ys[-1] @ w])

    w, x = sparse(8, (4, 4), 1.0), sparse(9, (4, 3, 4), 1.0)
    found = measure_sparsity(fn, w, x)
    assert [g.nonzero.lhs for g in found] == [1.0, 0.0, 1.0]  # the last step ran first
    assert [g.count for g in found] == [4, 1, 1]


def test_closed_over_arrays():
    used, unused, x = sparse(10, (4, 4), 0.5), sparse(11, (5, 5)), sparse(12, (3, 4), 1.0)

    def fn(x):
        jnp.tanh(unused @ unused)
        return x @ used

    (gemm,) = measure_sparsity(fn, x)
    assert gemm.nonzero.product == gemm.nonzero.rhs == mask(used).mean()


def test_abstract_arguments_have_no_values():
    with pytest.raises(ValueError, match="pass real arrays"):
        measure_sparsity(jnp.matmul, sparse(0, (2, 2)), jax.ShapeDtypeStruct((2, 2), jnp.float32))
