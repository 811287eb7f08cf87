"""Whole models through a file: the same outputs, bit for bit, and no tensor of another model."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from qtrain import models
from qtrain.export import Export, Origin, export, load, read, write
from qtrain.export.codes import packed_size, plain
from qtrain.nn import RangeNorm, RoundingKey, Tracked, quantize_model, replace_batch_norms, set_keys
from qtrain.nn.deploy import deploy
from qtrain.nn.hooks import ModuleHook
from qtrain.quantize import Affine, Cast, Scale
from qtrain.recipes.base import At, Recipe
from qtrain.recipes.layers import layers
from qtrain.wire import Stochastic

TERNARY = Cast("ternary", scale=Scale())
RECIPES = {
    "ternary": Recipe(key="float32", model="mlp", weight=(At("hidden.", TERNARY),)),
    "per channel, tracked inputs, range norm": Recipe(
        key="float32", model="small_cnn_bn", norm=RangeNorm(),
        weight=(At(".*", Affine(bits=4, range="channel")),),
        activation=(At(".*", Tracked(quantizer=Affine(bits=4))),),
    ),
    "drawn inputs, narrow wire": Recipe(
        key="float32", model="mlp", wire=Stochastic(bits=3),
        weight=(At(".*", Cast("int8", scale=Scale(axis=-1))),),
        activation=(At(".*", Cast("e5m2", rounding="stochastic")),),
    ),
}  # fmt: skip
SHAPE = (8, 8, 1)


def origin(recipe: Recipe) -> Origin:
    return Origin(recipe=recipe, shape=SHAPE, num_classes=10, mean=(0.3,), std=(0.2,))


def model_of(recipe: Recipe, seed: int = 0) -> nnx.Module:
    """In evaluation, every number drawn anew: biases and statistics are not what they start as."""
    model = models.create(recipe.model, num_classes=10, in_shape=SHAPE, rngs=nnx.Rngs(seed))
    if recipe.norm is not None:
        replace_batch_norms(model, recipe.norm)
    quantize_model(model, recipe.rules(layers(model, (recipe.batch_size, *SHAPE))))
    rng = np.random.default_rng(seed)
    state = nnx.state(model, nnx.Not(RoundingKey))
    nnx.update(model, jax.tree.map(
        lambda x: jnp.asarray(np.abs(rng.normal(size=x.shape)) + (x.ndim < 2), x.dtype), state
    ))  # fmt: skip
    model.eval()
    return set_keys(model, jax.random.key(0))


def outputs(model: nnx.Module) -> np.ndarray:
    x = jax.random.normal(jax.random.key(1), (5, *SHAPE))
    return np.asarray(nnx.jit(lambda model, x: model(x))(model, x)).view(np.uint32)


@pytest.mark.parametrize("name", RECIPES)
def test_a_loaded_model_is_the_model(name, tmp_path):
    """Its outputs are those of the model that still quantizes its weights.

    Kills: export/model.py: `set_keys(model, jax.random.key(0))` -> `model`;
    `nnx.update(model, filled)` removed; `model = deploy(_built(origin))` -> `_built(origin)`.
    """
    model = model_of(RECIPES[name])
    write(tmp_path / "file", export(deploy(model), origin(RECIPES[name])))
    loaded = load(tmp_path / "file")
    np.testing.assert_array_equal(outputs(loaded), outputs(model))
    hooks = [m for _, m in nnx.iter_modules(loaded) if isinstance(m, ModuleHook)]
    assert all(hook.config.rhs is None for hook in hooks)


def test_sizes_of_a_model(tmp_path):
    """Two bits for the ternary layers, float32 for the others and for biases."""
    recipe = RECIPES["ternary"]
    write(tmp_path / "file", export(deploy(model_of(recipe)), origin(recipe)))
    found = read(tmp_path / "file").tensors
    for name, size in (("hidden1/kernel", 64 * 256), ("hidden2/kernel", 256 * 256)):
        assert (found[name].form, found[name].bits) == ("scale", 1)  # all weights are positive
        assert found[name].nbytes == packed_size(size, 1) + 4
    assert (found["head/kernel"].form, found["head/kernel"].nbytes) == ("plain", 4 * 256 * 10)
    assert (found["head/bias"].form, found["head/bias"].nbytes) == ("plain", 40)


def test_nan_names_its_tensor():
    model = deploy(model_of(RECIPES["ternary"]))
    model.head.kernel[...] = model.head.kernel[...].at[3, 3].set(jnp.nan)
    with pytest.raises(ValueError, match=r"^head/kernel: 1 of 2560 values are NaN; such a model"):
        export(model, origin(RECIPES["ternary"]))


def test_tensors_of_another_model_are_named(tmp_path):
    """Kills: export/model.py: `if shapes(arrays) != shapes(wanted):` -> `if False:`."""
    recipe = RECIPES["ternary"]
    good = export(deploy(model_of(recipe)), origin(recipe))
    wrong = {**good.tensors, "head/bias": plain(np.zeros(11, np.float32))}
    write(tmp_path / "file", dataclasses.replace(good, tensors=wrong))
    with pytest.raises(ValueError, match=r"file has other tensors than .*: head/bias$"):
        load(tmp_path / "file")
    for about, message in (({"type": "qtrain.no.Such"}, "cannot read qtrain.no.Such"),
                           ({"type": "os.system"}, "is no qtrain type"),
                           ([1], "tuple is not what a model is made by")):  # fmt: skip
        write(tmp_path / "file", Export(about=about, tensors=good.tensors))
        with pytest.raises(ValueError, match=message):
            load(tmp_path / "file")
