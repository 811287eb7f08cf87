"""Networks of the literature: the lengths of their sums, and the time to list them."""

import math
import time

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax import lax

from qtrain.models import AlexNet, CifarResNet, ResNet18
from qtrain.nn.scopes import with_scopes
from qtrain.workload import trace


def array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def lengths(make, batch, in_shape, classes):
    """(forward, input_grad, weight_grad) by path, of an abstract model and batch."""
    model = nnx.eval_shape(lambda: make(num_classes=classes, in_shape=in_shape, rngs=nnx.Rngs(0)))

    def loss(model, x):
        return jnp.sum(jnp.square(model(x)))

    x = array(batch, *in_shape)
    w = trace(loss, with_scopes(model), x, grad=True, argnums=(0, 1), params=0)
    assert all(len(gemms) == 3 for gemms in w.layers().values())
    roles = ("forward", "input_grad", "weight_grad")
    return {path: tuple(found[r] for r in roles) for path, found in w.lengths().items()}


def test_resnet18():
    """k k Cin, k k Cout, batch Hout Wout [sakr2019accumulation, Table 1]: ImageNet, batch 256."""
    expected = {"stem": (7 * 7 * 3, 7 * 7 * 64, 256 * 112**2)}
    sides = {64: 56, 128: 28, 256: 14, 512: 7}
    for stage, c in enumerate(sides, start=1):
        first, positions = max(c // 2, 64), 256 * sides[c] ** 2
        expected[f"stage{stage}/0/conv1"] = (9 * first, 9 * c, positions)
        for path in ("0/conv2", "1/conv1", "1/conv2"):
            expected[f"stage{stage}/{path}"] = (9 * c, 9 * c, positions)
        if stage > 1:
            expected[f"stage{stage}/0/shortcut"] = (first, c, positions)
    expected["head"] = (512, 1000, 256)
    found = lengths(ResNet18, 256, (224, 224, 3), 1000)
    assert found == expected
    # The lengths whose widths the specification of the paper lists, from the stem to stage 4.
    grads = [found[p][2] for p in ("stem", *(f"stage{i}/1/conv2" for i in range(1, 5)))]
    assert grads == [3211264, 802816, 200704, 50176, 12544]


def test_resnet32():
    """CIFAR-10, batch 128."""
    expected = {"stem": (27, 9 * 16, 128 * 32**2)}
    for stage, (c, side) in enumerate({16: 32, 32: 16, 64: 8}.items(), start=1):
        for block in range(5):
            first = c // 2 if stage > 1 and block == 0 else c
            positions = 128 * side**2
            expected[f"stage{stage}/{block}/conv1"] = (9 * first, 9 * c, positions)
            expected[f"stage{stage}/{block}/conv2"] = (9 * c, 9 * c, positions)
    expected["head"] = (64, 10, 128)
    make = lambda **kwargs: CifarResNet(depth=32, **kwargs)  # noqa: E731
    assert lengths(make, 128, (32, 32, 3), 10) == expected


def test_alexnet():
    """ImageNet, batch 256."""
    assert lengths(AlexNet, 256, (224, 224, 3), 1000) == {
        "conv1": (121 * 3, 121 * 64, 256 * 55**2),
        "conv2": (25 * 64, 25 * 192, 256 * 27**2),
        "conv3": (9 * 192, 9 * 384, 256 * 13**2),
        "conv4": (9 * 384, 9 * 256, 256 * 13**2),
        "conv5": (9 * 256, 9 * 256, 256 * 13**2),
        "hidden1": (6 * 6 * 256, 4096, 256),
        "hidden2": (4096, 4096, 256),
        "head": (4096, 1000, 256),
    }


# ResNet-50 in plain JAX [he2016deep, Table 1]

STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))


def resnet50_weights():
    weights = {"stem": array(7, 7, 3, 64)}
    c_in = 64
    for s, (blocks, width) in enumerate(STAGES):
        for b in range(blocks):
            weights[f"{s}.{b}.reduce"] = array(1, 1, c_in, width)
            weights[f"{s}.{b}.conv"] = array(3, 3, width, width)
            weights[f"{s}.{b}.expand"] = array(1, 1, width, 4 * width)
            if b == 0:
                weights[f"{s}.{b}.shortcut"] = array(1, 1, c_in, 4 * width)
            c_in = 4 * width
    return weights | {"head": array(c_in, 1000)}


def conv(weights, name, x, stride=1):
    with jax.named_scope(name):
        numbers = ("NHWC", "HWIO", "NHWC")
        y = lax.conv_general_dilated(
            x, weights[name], (stride, stride), "SAME", dimension_numbers=numbers
        )
        mean, var = jnp.mean(y, (0, 1, 2)), jnp.var(y, (0, 1, 2))
        return (y - mean) * lax.rsqrt(var + 1e-5)


def resnet50(weights, images, labels):
    x = jax.nn.relu(conv(weights, "stem", images, 2))
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
    for s, (blocks, _) in enumerate(STAGES):
        for b in range(blocks):
            stride = 2 if s > 0 and b == 0 else 1
            y = jax.nn.relu(conv(weights, f"{s}.{b}.reduce", x))
            y = jax.nn.relu(conv(weights, f"{s}.{b}.conv", y, stride))
            y = conv(weights, f"{s}.{b}.expand", y)
            if b == 0:
                x = conv(weights, f"{s}.{b}.shortcut", x, stride)
            x = jax.nn.relu(x + y)
    with jax.named_scope("head"):
        logits = jnp.mean(x, (1, 2)) @ weights["head"]
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1))


def test_resnet50_at_imagenet_size():
    """All three roles of 54 layers, in less than the ten seconds that two cores may take."""
    weights = resnet50_weights()
    images, labels = array(256, 224, 224, 3), jax.ShapeDtypeStruct((256,), jnp.int32)
    start = time.process_time()
    w = trace(resnet50, weights, images, labels, grad=True)
    assert time.process_time() - start < 10
    assert [len(w.role(r)) for r in ("forward", "input_grad", "weight_grad")] == [54, 53, 54]
    assert set(w.lengths()) == set(weights)
    for gemm in w.role("weight_grad"):
        assert gemm.m * gemm.n == math.prod(weights[gemm.path].shape)
    assert w.lengths()["stem"] == {"forward": 147, "weight_grad": 256 * 112**2}
    assert w.lengths()["3.0.conv"] == {
        "forward": 9 * 512, "input_grad": 9 * 512, "weight_grad": 256 * 7**2,
    }  # fmt: skip


# A decoder that scans over its layers


def block(h, p):
    b, n, d = h.shape
    heads = p["qkv"].shape[1] // (3 * 64)
    with jax.named_scope("attention"):
        q, k, v = jnp.split((h @ p["qkv"]).reshape(b, n, 3 * heads, 64), 3, 2)
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / 8
        scores = jnp.where(jnp.tri(n, dtype=bool), scores, -jnp.inf)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)
        h = h + mixed.reshape(b, n, d) @ p["out"]
    with jax.named_scope("mlp"):
        h = h + jax.nn.gelu(h @ p["up"]) @ p["down"]
    return h, None


def decoder(p, tokens):
    x = p["embedding"][tokens]
    with jax.named_scope("layers"):
        x, _ = lax.scan(jax.checkpoint(block), x, p["layers"])
    with jax.named_scope("logits"):
        logits = x @ p["embedding"].T
    return -jnp.mean(jax.nn.log_softmax(logits)[..., 0])


@pytest.mark.parametrize("d", [768, 1024])
def test_decoder(d):
    depth, n = 24, 1024
    p = {
        "embedding": array(50304, d),
        "layers": {
            "qkv": array(depth, d, 3 * d),
            "out": array(depth, d, d),
            "up": array(depth, d, 4 * d),
            "down": array(depth, 4 * d, d),
        },
    }
    tokens = jax.ShapeDtypeStruct((8, n), jnp.int32)
    start = time.process_time()
    w = trace(decoder, p, tokens, grad=True)
    assert time.process_time() - start < 10
    first = [g for g in w if not g.notes]
    weights = 12 * d * d * depth + 50304 * d
    scores = 2 * depth * 8 * n * n * d  # multiplications of q k and of p v
    forward = sum(g.flops * g.count for g in first if g.role == "forward")
    assert forward == 2 * (8 * n * weights + scores)
    gradients = [(g.role, g.path, g.count) for g in first if g.role != "forward"]
    attention, mlp = "layers/attention", "layers/mlp"
    assert sorted(gradients) == sorted([
        *[("weight_grad", attention, depth)] * 2, *[("input_grad", attention, depth)] * 6,
        *[("weight_grad", mlp, depth)] * 2, *[("input_grad", mlp, depth)] * 2,
        ("weight_grad", "logits", 1), ("input_grad", "logits", 1),
    ])  # fmt: skip
    again = [g for g in w if g.notes == ("recomputed",)]
    # The block's last product is not needed again.
    assert {g.path: sum(h.path == g.path for h in again) for g in again} == {attention: 4, mlp: 1}
