"""What trace accepts, how it names GEMMs, and the one line of what it cannot trace."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtrain.workload import trace


def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def mlp(p, x):
    for w in p:
        x = jnp.tanh(x @ w)
    return jnp.sum(x**2)


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
    "control flow": (
        sign,
        (array(3),),
        r"sign: Python control flow .* at test_arguments.py:\d+; use",
    ),
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
