"""Every model has the published size, traces on its own image shape, and runs a quantized step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from qtrain import models, nn
from qtrain.recipes import wang2018fp8
from qtrain.recipes.layers import layers

IMAGENET, CIFAR = (224, 224, 3), (32, 32, 3)


def abstract(name: str, shape, classes: int):
    return nnx.eval_shape(
        lambda: models.create(name, num_classes=classes, in_shape=shape, rngs=nnx.Rngs(0))
    )


def count(model) -> int:
    return sum(np.prod(p.shape) for p in jax.tree.leaves(nnx.state(model, nnx.Param)))


@pytest.mark.parametrize(
    ("name", "shape", "classes", "parameters"),
    [
        # ResNet-20: 0.27 M, ResNet-32: 0.46 M [he2016deep, Table 6]; the digits by hand from the
        # layer shapes: kernels, two vectors per normalization, one bias in the head.
        ("resnet20", CIFAR, 10, 269_722),
        ("resnet32", CIFAR, 10, 464_154),
        ("resnet18", IMAGENET, 1000, 11_689_512),
        ("alexnet", IMAGENET, 1000, 61_100_840),
    ],
)
def test_size(name, shape, classes, parameters):
    assert count(abstract(name, shape, classes)) == parameters


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "alexnet"])
def test_imagenet_models_trace_a_quantized_step(name):
    """Abstractly: the whole FP8 recipe, forward and gradients."""
    model = models.create(name, num_classes=1000, in_shape=IMAGENET, rngs=nnx.Rngs(0))
    found = layers(model, (2, *IMAGENET))
    nn.quantize_model(model, wang2018fp8.recipe().rules(found))
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    loss = lambda p, r, x: jnp.sum(nnx.merge(graph, p, r, copy=True)(x))  # noqa: E731
    x = jax.ShapeDtypeStruct((2, *IMAGENET), jnp.float32)
    grads = jax.eval_shape(jax.grad(loss), params, rest, x)
    assert jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, params)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet20", "resnet18", "alexnet"])
def test_runs_a_quantized_step(name):
    """For real, on one image: finite gradients, none of them all zero."""
    shape = CIFAR if name == "resnet20" else IMAGENET
    model = models.create(name, num_classes=10, in_shape=shape, rngs=nnx.Rngs(0))
    found = layers(model, (1, *shape))
    nn.quantize_model(model, wang2018fp8.recipe().rules(found))
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    loss = lambda p, r, x: jnp.sum(nnx.merge(graph, p, r, copy=True)(x) ** 2)  # noqa: E731
    grads = jax.jit(jax.grad(loss))(params, rest, jax.random.normal(jax.random.key(0), (1, *shape)))
    for leaf in jax.tree.leaves(grads):
        assert jnp.isfinite(leaf).all()
    assert sum(bool((leaf != 0).any()) for leaf in jax.tree.leaves(grads)) > 5


def test_layers_know_their_sums():
    """K of the three GEMMs of the small CNN: 3 3 Cin, 3 3 Cout, N H W."""
    model = models.create("small_cnn", num_classes=10, in_shape=(28, 28, 1), rngs=nnx.Rngs(0))
    found = {
        x.path: (x.forward, x.input_grad, x.weight_grad) for x in layers(model, (128, 28, 28, 1))
    }
    assert found == {
        "conv1": (9, 144, 128 * 784),
        "conv2": (144, 288, 128 * 196),
        "hidden": (1568, 64, 128),
        "head": (64, 10, 128),
    }


def test_unknown_model():
    with pytest.raises(ValueError, match="unknown model 'resnet-20': did you mean resnet20"):
        models.create("resnet-20", num_classes=10, in_shape=CIFAR, rngs=nnx.Rngs(0))
