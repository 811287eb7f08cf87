"""Lists of GEMMs: shapes, roles, multiplicity, names, and flops as XLA counts them."""

import functools
import math

import hypothesis as hp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import pallas as pl
from jax.sharding import AxisType, PartitionSpec

import qtrain as qt
from qtrain.workload import Opaque, trace


def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def roles(workload):
    return [(g.role, g.layer) for g in workload]


def conv(x, w, stride=1, padding="SAME", groups=1):
    return lax.conv_general_dilated(
        x, w, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )  # fmt: skip


# Layers


def mlp(p, x):
    for w in p:
        x = jnp.tanh(x @ w)
    return jnp.sum(x**2)


def test_dense():
    w = trace(mlp, [array(5, 7), array(7, 3)], array(11, 5), grad=True)
    assert [(g.role, g.k, g.layer) for g in w] == [
        ("forward", 5, 0),
        ("forward", 7, 1),
        ("weight_grad", 11, 1),
        ("input_grad", 3, 1),
        ("weight_grad", 11, 0),  # the data has no gradient
    ]
    assert w[0].bytes == 4 * (11 * 5 + 5 * 7 + 11 * 7)
    assert w[0].dtypes == ("float32",) * 3
    assert w.flops == 2 * 11 * (5 * 7 * 2 + 7 * 3 * 3)
    assert {k: len(v) for k, v in w.layers().items()} == {0: 2, 1: 3}
    assert w.role("input_grad") == (w[3],)


DIFFERENTIATED = {
    "grad=True": functools.partial(trace, grad=True),
    "own grad": lambda fn, *a: trace(jax.grad(fn), *a),
    "jit outside": lambda fn, *a: trace(jax.jit(jax.value_and_grad(fn)), *a),
    "jit inside": lambda fn, *a: trace(jax.value_and_grad(jax.jit(fn)), *a),
}


@hp.given(
    how=st.sampled_from(sorted(DIFFERENTIATED)),
    sides=st.lists(st.booleans(), min_size=1, max_size=4),
    linear=st.booleans(),
)
def test_square_layers_need_origins(how, sides, linear):
    """All operands are 4x4, so shapes tell nothing; the linear one's error has no data in it.

    Mutants: `return tuple(fits)` in roles._operands (order alone decides); `return 0` for the
    seed in walk._merge; roles from live code alone; marks of the innermost name stack alone.
    """

    def loss(p, x):
        for w, left in zip(p, sides, strict=True):
            x = w @ x if left else x @ w
        return jnp.sum(x) if linear else jnp.mean(jnp.tanh(x))

    found = roles(DIFFERENTIATED[how](loss, [array(4, 4)] * len(sides), array(4, 4)))
    backward = [pair for pair in found if pair[0] != "forward"]
    expected = [("weight_grad", i) for i in range(len(sides))]
    expected += [("input_grad", i) for i in range(1, len(sides))]
    assert sorted(backward) == sorted(expected)


def attention(p, x):
    with jax.named_scope("attention"):
        q, k, v = (x @ p[name] for name in "qkv")
        scores = jax.nn.softmax(jnp.einsum("bqd,bkd->bqk", q, k))
        return jnp.einsum("bqk,bkd->bqd", scores, v) @ p["o"]


@pytest.mark.parametrize("d", [8, 4])  # at 8 all operands are equally large
def test_attention_products_have_no_weight(d):
    def loss(p, x):
        return jnp.sum(attention(p, x) ** 2)

    w = trace(loss, {name: array(d, d) for name in "qkvo"}, array(1, 8, d), grad=True)
    assert {g.path for g in w} == {"attention"}
    count = lambda role: sum(g.role == role for g in w)  # noqa: E731
    assert (count("forward"), count("weight_grad"), count("input_grad")) == (6, 4, 5)
    for position, gemms in w.layers().items():
        if position in (3, 4):  # scores, values
            assert [g.role for g in gemms[1:]] == ["input_grad", "input_grad"]
            assert (gemms[0].k, gemms[0].batch) == ((d if position == 3 else 8), 1)


@hp.given(
    kernel=st.sampled_from([(1, 1), (3, 3), (3, 2)]),
    stride=st.integers(1, 3),
    padding=st.sampled_from(["SAME", "VALID"]),
    groups=st.sampled_from([1, 2, 4]),
    widths=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    batch=st.integers(1, 3),
)
def test_conv_lengths(kernel, stride, padding, groups, widths, batch):
    """Forward kernel x Cin, input gradient kernel x Cout, weight gradient batch x output.

    Mutant: k without the division by the groups (kernel positions x lhs channels in
    gemm._conv_shape).
    """
    c_in, c_out = (4 * w for w in widths)
    x, w = array(batch, 7, 6, c_in), array(*kernel, c_in // groups, c_out)
    apply = functools.partial(conv, stride=stride, padding=padding, groups=groups)
    y = jax.eval_shape(apply, x, w).shape

    def loss(w, x):
        return jnp.sum(apply(x, w) ** 2)

    gemms = trace(loss, w, x, grad=True, argnums=(0, 1))
    assert sorted(g.role for g in gemms) == ["forward", "input_grad", "weight_grad"]
    found = {g.role: g for g in gemms}
    assert {role: g.k for role, g in found.items()} == {
        "forward": math.prod(kernel) * c_in // groups,
        "input_grad": math.prod(kernel) * c_out // groups,
        "weight_grad": math.prod(y[:3]),
    }
    assert (found["forward"].m, found["forward"].n) == (math.prod(y[:3]), c_out // groups)
    assert found["input_grad"].m * found["input_grad"].n * groups == math.prod(x.shape)
    weights = found["weight_grad"]
    assert weights.m * weights.n * groups == math.prod(w.shape)
    assert weights.groups == groups


# Flops against XLA


def pullback(fn):
    return lambda args, error: jax.vjp(fn, *args)[1](error)


def xla_flops(fn, *args):
    return jax.jit(fn).lower(*args).compile().cost_analysis()["flops"]


FUNCTIONS = {
    "chain": (lambda a, b, c: a @ b @ c, (array(5, 7), array(7, 3), array(3, 11))),
    "batched": (
        lambda a, b: jnp.einsum("bij,bkj->bik", a, b),
        (array(3, 5, 7), array(3, 2, 7)),
    ),
    "two contracted": (
        lambda a, b: jnp.einsum("ijk,kjl->il", a, b),
        (array(5, 3, 4), array(4, 3, 6)),
    ),
    "vmapped": (jax.vmap(lambda a, b: a @ b, in_axes=(0, None)), (array(3, 5, 7), array(7, 2))),
}


@pytest.mark.parametrize(("fn", "args"), FUNCTIONS.values(), ids=FUNCTIONS.keys())
def test_flops_of_gemms_are_xlas(fn, args):
    assert trace(fn, *args).flops == xla_flops(fn, *args)
    error = jax.eval_shape(fn, *args)
    back = pullback(fn)
    assert trace(back, args, error).flops == xla_flops(back, args, error)


def test_flops_of_unpadded_convolution_are_xlas():
    """XLA leaves out products with padding and holes, so only a dense one agrees."""
    x, w = array(2, 8, 8, 6), array(3, 3, 6, 4)
    fn = functools.partial(conv, stride=2, padding="VALID")
    assert trace(fn, x, w).flops == xla_flops(fn, x, w)


# Structure of programs


def test_scan_over_layers_counts_each():
    def block(h, p):
        return h + attention(p, h), None

    def loss(ps, x):
        with jax.named_scope("stack"):
            return jnp.sum(lax.scan(block, x, ps)[0] ** 2)

    def unrolled(ps, x):
        for i in range(5):
            x, _ = block(x, jax.tree.map(lambda p, i=i: p[i], ps))
        return jnp.sum(x**2)

    args = {name: array(5, 4, 4) for name in "qkvo"}, array(2, 8, 4)
    w, flat = trace(loss, *args, grad=True, argnums=(0, 1), params=0), trace(
        unrolled, *args, grad=True, argnums=(0, 1), params=0
    )  # fmt: skip
    assert {g.count for g in w} == {5}
    assert {g.path for g in w} == {"stack/attention"}
    assert (w.flops, w.bytes) == (flat.flops, flat.bytes)
    for role in ("forward", "input_grad", "weight_grad"):
        assert 5 * len(w.role(role)) == len(flat.role(role))


def test_nested_loops_multiply():
    def fn(w, x):
        inner = lambda x: lax.scan(lambda x, _: (x @ w, None), x, length=3)[0]  # noqa: E731
        return lax.fori_loop(0, 4, lambda i, x: inner(x), x)

    (gemm,) = trace(fn, array(2, 2), array(2, 2))
    assert gemm.count == 12
    assert trace(fn, array(2, 2), array(2, 2)).flops == 12 * 16


def test_loop_of_training_steps_keeps_roles():
    """A weight that was updated by its gradient is still a weight."""

    def steps(p, x):
        def step(_, p):
            return jax.tree.map(lambda w, g: w - 0.1 * g, p, jax.grad(mlp)(p, x))

        return lax.fori_loop(0, 9, step, p)

    w = trace(steps, [array(4, 4)] * 2, array(4, 4))
    assert sorted(roles(w)) == sorted([
        ("forward", 0), ("forward", 1),
        ("weight_grad", 1), ("input_grad", 1), ("weight_grad", 0),
    ])  # fmt: skip
    assert {g.count for g in w} == {9}


def test_while_counts_once_and_cond_its_larger_branch():
    def fn(w, x):
        small = lambda x: x @ w  # noqa: E731
        large = lambda x: x @ w @ w  # noqa: E731
        step = lambda x: lax.cond(x[0, 0] > 0, small, large, x)  # noqa: E731
        return lax.while_loop(lambda x: jnp.sum(x @ w) < 9, step, x)

    w = trace(fn, array(2, 2), array(2, 2))
    assert sorted(g.notes for g in w) == [("while",), ("while", "cond"), ("while", "cond")]
    assert "number of iterations being unknown" in str(w)


def test_checkpoint_recomputes():
    def loss(p, x):
        for i, w in enumerate(p):
            layer = jax.checkpoint(lambda x, w: jnp.sin(jnp.tanh(x @ w)))
            with jax.named_scope(f"layer{i}"):
                x = layer(x, w)
        return jnp.sum(x**2)

    w = trace(loss, [array(4, 6), array(6, 5)], array(3, 4), grad=True)
    again = [g for g in w if g.notes == ("recomputed",)]
    assert [(g.role, g.path, g.layer) for g in again] == [
        ("forward", "layer1", 1),
        ("forward", "layer0", 0),
    ]
    assert [g.path for g in w.role("weight_grad")] == ["layer1", "layer0"]


def test_own_backward_pass():
    @jax.custom_vjp
    def layer(x, w):
        return jnp.tanh(x @ w)

    layer.defvjp(
        lambda x, w: (layer(x, w), (x, w)),
        lambda kept, g: (jnp.einsum("mn,kn->mk", g, kept[1]), kept[0].T @ g),
    )

    def loss(p, x):
        for i, w in enumerate(p):
            with jax.named_scope(f"layer{i}"):
                x = layer(x, w)
        return jnp.sum(x**2)

    w = trace(loss, [array(4, 4)] * 2, array(4, 4), grad=True)
    assert sorted(roles(w)) == [
        ("forward", 0), ("forward", 1), ("input_grad", 1), ("weight_grad", 0), ("weight_grad", 1),
    ]  # fmt: skip


def test_gradients_per_example():
    per_example = jax.vmap(jax.grad(mlp), (None, 0))
    w = trace(per_example, [array(4, 6), array(6, 5)], array(7, 3, 4))
    assert roles(w)[-3:] == [("weight_grad", 1), ("input_grad", 1), ("weight_grad", 0)]
    assert [(g.batch, g.k) for g in w.role("weight_grad")] == [(7, 3), (7, 3)]


def test_derivatives_of_a_linear_solve_do_not_run():
    def fn(a, b):
        return jax.scipy.linalg.solve(a @ a.T, b, assume_a="pos")

    assert [(g.m, g.n, g.k) for g in trace(fn, array(4, 4), array(4))] == [(4, 4, 4)]


def test_quantized_ops():
    """ops.dot's pullbacks hold dead GEMMs, and its backward pass lies on other lines."""
    config = qt.DotConfig(lhs=qt.Cast("e5m2"), dgrad=qt.Cast("e5m2"), wgrad=qt.Cast("e4m3fn"))

    def loss(p, x):
        for w in p:
            x = jnp.tanh(qt.dot(x, w, config=config))
        return jnp.sum(x**2)

    w = trace(loss, [array(4, 4)] * 2, array(4, 4), grad=True)
    plain = trace(mlp, [array(4, 4)] * 2, array(4, 4), grad=True)
    assert sorted(roles(w)) == sorted(roles(plain))
    assert {g.source.split(":")[0] for g in w} == {"test_trace.py"}


def test_shards_are_listed_as_one_device_runs_them():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    split, whole = PartitionSpec("data"), PartitionSpec()

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(whole, split), out_specs=whole)
    def loss(w, x):
        return lax.psum(jnp.sum(jnp.tanh(x @ w)), "data")

    w = trace(loss, array(5, 3), array(32, 5), grad=True)
    assert [(g.role, g.m, g.k, g.notes) for g in w] == [
        ("forward", 8, 5, ("shard of 4",)),
        ("weight_grad", 5 if w[1].m == 5 else 3, 8, ("shard of 4",)),
    ]


def test_kernels_are_named_and_not_seen_into():
    def double(x_ref, o_ref):
        o_ref[...] = x_ref[...] @ x_ref[...]

    def fn(x):
        return lax.fori_loop(0, 3, lambda i, x: pl.pallas_call(double, out_shape=x)(x), x)

    w = trace(fn, array(8, 8))
    assert len(w) == 0
    assert w.opaque == (Opaque("", "pallas_call", "double", 3, w.opaque[0].source),)
    assert "not seen into: pallas_call double x 3 (test_trace.py:" in str(w)


def test_dead_code_is_left_out():
    def fn(w, x):
        jnp.tanh(x @ w)
        return x

    assert len(trace(fn, array(2, 2), array(2, 2))) == 0


# Arguments, names, errors


def test_names():
    def fn(w, x):
        with jax.named_scope("outer"), jax.named_scope("inner/most"):
            return jnp.einsum("ij,jk->ik", x, w)

    (gemm,) = trace(fn, array(2, 2), array(2, 2))
    assert gemm.path == gemm.name == "outer/inner/most"
    (gemm,) = trace(jnp.matmul, array(2, 2), array(2, 2))
    assert gemm.name == gemm.source
    file, line = gemm.source.partition(" (")[0].split(":")
    assert file.endswith(".py")
    assert int(line) > 0
    assert gemm.column > 0


def test_lines_tell_layers_apart():
    def loss(p, x):
        x = jnp.tanh(x @ p[0])
        return jnp.sum(jnp.tanh(x @ p[1]))

    w = trace(loss, [array(4, 4)] * 2, array(4, 4), grad=True)
    names = {g.layer: g.name for g in w if g.role == "forward"}
    assert len(set(names.values())) == 2
    assert all(g.source == names[g.layer] for g in w)
    assert set(w.lengths()) == set(names.values())


def test_arguments_other_than_the_first():
    def loss(x, step, *, w):
        return jnp.sum(jnp.tanh(x @ w) * step), {"step": step}

    swapped = lambda x, w: loss(x, 2, w=w)  # noqa: E731
    found = trace(swapped, array(5, 4), array(4, 3), grad=True, argnums=-1, has_aux=True)
    assert [g.role for g in found] == ["forward", "weight_grad"]
    own = jax.grad(lambda x, w: swapped(x, w)[0], argnums=1)
    assert [g.role for g in trace(own, array(5, 4), array(4, 3), params=1)] == [
        "forward",
        "weight_grad",
    ]
    kw = trace(loss, array(5, 4), 3, w=array(4, 3), grad=True, has_aux=True)
    assert [g.role for g in kw] == ["forward", "weight_grad"]


def test_closed_over_batch_is_data():
    x = np.ones((4, 4), np.float32)
    w = trace(lambda p: mlp(p, x), [array(4, 4)] * 2, grad=True)
    assert [g.role for g in w.role("weight_grad")] == ["weight_grad"] * 2


def test_table():
    w = trace(mlp, [array(5, 7), array(7, 3)], array(11, 5), grad=True)
    lines = str(w).splitlines()
    assert lines[0].split() == [
        *["layer", "role", "count", "batch", "m", "n", "k", "GFLOP", "MB", "source", "notes"]
    ]
    assert len(lines) == len(w) + 2
    assert lines[-1].startswith("5 GEMMs, ")
    rich = pytest.importorskip("rich.console")
    console = rich.Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(w)
    assert "weight_grad" in console.export_text()


def sign(x):
    return x if jnp.sum(x) > 0 else -x


UNTRACEABLE = {
    "control flow": (sign, (array(3),), r"sign: Python control flow .* at test_trace.py:\d+; use"),
    "boolean index": (lambda x: x[x > 0], (array(3),), "boolean index .* jnp.where with three"),
    "shape": (lambda x, n: x.reshape(n, -1), (array(4), 2), "shape depends .* functools.partial"),
    "numpy": (lambda x: np.sin(x) + 1, (array(3),), "numpy is called .* use jax.numpy"),
    "integer": (lambda x, n: x[: range(5)[n]], (array(4), 2), "as an integer .* functools"),
    "not an array": (lambda x, o: x, (array(3), {"act": "relu"}), r"argument 1\['act'\] is a str"),
    "its own error": (lambda a, b: a @ b, (array(3, 4), array(3, 4)), "TypeError: dot_general"),
}


@pytest.mark.parametrize(("fn", "args", "message"), UNTRACEABLE.values(), ids=UNTRACEABLE.keys())
def test_one_clear_line(fn, args, message):
    with pytest.raises(ValueError, match=message) as caught:
        trace(fn, *args)
    assert str(caught.value).startswith("cannot trace ")
    assert "\n" not in str(caught.value)


def test_gradient_needs_a_scalar():
    with pytest.raises(ValueError, match=r"array of shape \(3,\); return a scalar loss, or"):
        trace(lambda x: x, array(3), grad=True)
    with pytest.raises(ValueError, match=r"returns a tuple; return a scalar loss"):
        trace(lambda x: (jnp.sum(x), x), array(3), grad=True)
    with pytest.raises(ValueError, match="no argument"):
        trace(jnp.sum, array(3), grad=True, argnums=1)
