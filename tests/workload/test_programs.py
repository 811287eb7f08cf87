"""Programs: loops, branches, recomputation, rules of one's own, shards, kernels."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.sharding import AxisType, PartitionSpec

import qtrain as qt
from qtrain.workload import Opaque, trace


def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def roles(workload):
    return [(g.role, g.layer) for g in workload]


def mlp(p, x):
    for w in p:
        x = jnp.tanh(x @ w)
    return jnp.sum(x**2)


def attention(p, x):
    with jax.named_scope("attention"):
        q, k, v = (x @ p[name] for name in "qkv")
        scores = jax.nn.softmax(jnp.einsum("bqd,bkd->bqk", q, k))
        return jnp.einsum("bqk,bkd->bqd", scores, v) @ p["o"]


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
    assert {g.source.split(":")[0] for g in w} == {"test_programs.py"}


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
    assert "not seen into: pallas_call double x 3 (test_programs.py:" in str(w)


def test_dead_code_is_left_out():
    def fn(w, x):
        jnp.tanh(x @ w)
        return x

    assert len(trace(fn, array(2, 2), array(2, 2))) == 0
