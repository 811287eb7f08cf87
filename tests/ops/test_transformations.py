"""dot and conv under JAX's transformations: values and gradients keep every bit.

With quantizers that scale or draw random bits and an accumulator in each GEMM, nothing is left
to the order in which XLA adds, so any difference is a bug.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import qtrain as qt

OPS = {"dot": (qt.dot, (16, 8), (8, 8)), "conv": (qt.conv, (8, 4, 3, 2), (2, 2, 2, 8))}
EXAMPLES = 2


slow = functools.partial(pytest.param, marks=pytest.mark.slow)
CASES = [
    ("dot", "operands"), ("conv", "operands"), ("conv", "sums"),  # sums of dot: see test_dot.py
    slow("dot", "all"), slow("conv", "all"),
]  # fmt: skip


def config(kind: str) -> qt.DotConfig:
    """Operands scaled and then rounded stochastically, stochastic sums, or both; all roles."""
    cast = error = None
    if kind != "sums":
        cast = qt.Cast("e4m3fn", "stochastic", qt.quantize.Scale(), clip_gradient=True)
        blocks = qt.quantize.Scale(method="power_of_two", axis=-1)
        error = qt.Cast("e5m2", "stochastic", blocks)
    sums = qt.Accumulator("e8m13", rounding="toward_zero")
    if kind != "operands":
        sums = qt.Accumulator("e6m9", 3, "stochastic")
    return qt.DotConfig(
        lhs=cast, rhs=cast, dgrad=error, wgrad=error,
        forward=sums, input_grad=sums, weight_grad=sums,
    )  # fmt: skip


@functools.cache
def setting(op: str, kind: str):
    """The op with its three arrays and a key each, (EXAMPLES, ...), and what plain calls give."""
    call, x, w = OPS[op]
    f = lambda x, w, key: call(x, w, config=config(kind), key=key)  # noqa: E731
    keys = jax.random.split(jax.random.key(3), EXAMPLES)
    normal = lambda seed, shape: jax.random.normal(jax.random.key(seed), (EXAMPLES, *shape))  # noqa: E731
    out = jax.eval_shape(f, normal(0, x)[0], normal(1, w)[0], keys[0])
    arrays = normal(0, x), normal(1, w), normal(2, out.shape)
    plain = jax.jit(lambda x, w, e, k: gradients(f, x, w, e, k))
    want = [plain(*each) for each in zip(*arrays, keys, strict=True)]
    return f, arrays, keys, jax.tree.map(lambda *each: jnp.stack(each), *want)


def gradients(f, x, w, error, key):
    """The value and both gradients, by way of `error`."""
    y, pull = jax.vjp(lambda x, w: f(x, w, key), x, w)
    return y, *pull(error)


def assert_same_bits(got, want) -> None:
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(
            np.asarray(g, np.float32).view(np.uint32), np.asarray(w, np.float32).view(np.uint32)
        )


def wrapped(f):
    """`f` within an inner jit, within a scan of one step, within remat."""
    step = jax.jit(f)
    once = lambda *each: lax.scan(lambda c, _: (c, step(*each)), 0, None, length=1)[1][0]  # noqa: E731
    return jax.checkpoint(once)


@pytest.mark.parametrize(("op", "kind"), [slow("dot", "operands"), CASES[1], *CASES[3:]])
def test_inner_transformations(op, kind):
    """remat, scan and jit around the op, inside of the differentiated function.

    Kills: estimator.py: a rule that closes over the scale or the key (UnexpectedTracerError).
    """
    f, arrays, keys, want = setting(op, kind)
    run = jax.jit(functools.partial(gradients, wrapped(f)))
    got = run(*(a[0] for a in arrays), keys[0])
    assert_same_bits(got, jax.tree.map(lambda x: x[0], want))


@pytest.mark.parametrize(("op", "kind"), [*CASES[:2], slow("conv", "sums"), *CASES[3:]])
def test_vmap(op, kind):
    """Over examples, each with its own key, of value and gradients."""
    f, arrays, keys, want = setting(op, kind)
    assert_same_bits(jax.jit(jax.vmap(functools.partial(gradients, f)))(*arrays, keys), want)


@pytest.mark.parametrize(
    ("op", "kind"), [slow("dot", "operands"), CASES[1], slow("conv", "sums"), *CASES[3:]]
)
def test_sharding(op, kind):
    """Eight devices: images or rows cut in four, the kernel's outputs in two."""
    f, arrays, keys, want = setting(op, kind)
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("rows", "columns"))
    put = lambda x, *spec: jax.device_put(x, NamedSharding(mesh, P(*spec)))  # noqa: E731
    x, w, error = (a[0] for a in arrays)
    inner = [None] * (w.ndim - 2)
    cut = put(x, "rows"), put(w, *inner, None, "columns"), put(error, "rows", *inner, "columns")
    got = jax.jit(functools.partial(gradients, f))(*cut, keys[0])
    assert_same_bits(got, jax.tree.map(lambda x: x[0], want))
