"""The zoo as a whole: every method can be built, run, named, and is in the table."""

import dataclasses
import functools
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from train import tiny

import qtrain
from qtrain import models
from qtrain.citation import entries
from qtrain.recipes import guo2018survey
from qtrain.recipes.base import FIRST, LAST, baseline, budget, changed
from qtrain.recipes.config import from_json, to_json
from qtrain.recipes.guo2018survey import ABLATIONS, Options, label, recipe
from qtrain.recipes.layers import layers
from qtrain.train import mesh
from qtrain.train.state import create
from qtrain.train.step import train_step
from qtrain.zoo import registry

README = Path(registry.__file__).parent / "README.md"
ALL = sorted(registry.METHODS)


@functools.cache
def survey_layers():
    from flax import nnx

    model = models.create("small_cnn_bn", num_classes=10, in_shape=(28, 28, 1), rngs=nnx.Rngs(0))
    return layers(model, (128, 28, 28, 1))


@pytest.mark.parametrize("name", ALL)
def test_every_method_makes_a_recipe(name):
    """In every width; the ends are left alone unless asked for, and the file says what ran."""
    method = registry.get(name)
    for bits in method.weight_bits or (None,):
        one = recipe(Options(method=name, bits=bits))
        assert budget(one) == guo2018survey.EPOCHS
        assert one.places()
        assert from_json(json.loads(json.dumps(to_json(one)))) == one
        for place in ("weight", "activation", "error"):
            rules = getattr(one, place)
            assert (place in method.targets) >= (rules is not None)
            assert rules is None or [at.path for at in rules] == [FIRST, LAST, ".*"]
        one.rules(survey_layers())
        whole = recipe(Options(method=name, bits=bits, ends=True))
        assert all([at.path for at in getattr(whole, p)] == [".*"] for p in ("weight",)
                   if getattr(whole, p))  # fmt: skip
    for bits in method.activation_bits:
        assert recipe(Options(method=name, activation_bits=bits)).activation or "layer" in dir(
            recipe(Options(method=name)).weight[-1].setting.module(jnp.ones((2, 2)))
        )
    assert method.source in entries()


@pytest.mark.parametrize("name", ["twn", "pact", "lq_nets", "inq", "kmeans", "lrnet", "xnor"])
def test_a_step_of_each_kind(name):
    """Stateless, learned, tracked, frozen, shared, whole-layer: two steps train."""
    finite(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_a_step_of_every_method(name):
    finite(name)


def finite(name):
    one = changed(recipe(Options(method=name)), batch_size=16, data="tiny")
    data = tiny.dataset()
    workers = None if one.wire is None else mesh.create(1, 16)
    program, state = create(one, data, seed=0, steps=6, mesh=workers)
    step = jax.jit(functools.partial(train_step, program))
    batch = jnp.asarray(data.train_x[:16]), jnp.asarray(data.train_y[:16])
    after = state
    for _ in range(2):
        after, row = step(after, *batch)
    assert np.isfinite(row["loss"])
    assert row["broken"] == -1
    kernels = [np.any(a != b) for a, b in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(after.params), strict=True)]  # fmt: skip
    assert any(kernels)


def test_names_in_the_sweep():
    """Widths common to the table, else the method's own; no two variants are the same run.

    Kills: recipes/guo2018survey.py: `"error" not in method.targets` -> `True`.
    """
    runs = {name: recipe(options) for name, options in ABLATIONS.items()}
    assert len(set(runs.values())) == len(runs)
    assert {"twn 2/32", "dorefa 8/8", "dorefa 1/1", "hwgq 1/2", "terngrad 32/32"} <= set(runs)
    assert sum(name.startswith("dorefa_errors") for name in runs) == 1
    assert {name.split()[0] for name in runs} == set(ALL)
    assert all(label(registry.get(o.method), o) == name for name, o in ABLATIONS.items())


def test_bits_reach_the_quantizers():
    one = recipe(Options(method="dorefa", bits=4))
    assert one.weight[-1].setting.bits == one.activation[-1].setting.bits == 4
    one = recipe(Options(method="dorefa", bits=4, activation_bits=8))
    assert one.activation[-1].setting.bits == 8
    assert recipe(Options(method="wrpn")).widen == 2
    assert baseline(recipe(Options(method="wrpn"))).widen == 1


def test_pretrained_methods_begin_with_half_the_epochs():
    one = recipe(Options(method="ttq"))
    assert (one.start.key, one.start.epochs, one.epochs) == ("float32", 3, 3)
    assert recipe(Options(method="twn")).start is None


MISTAKES = [
    ({"method": "tnw"}, "unknown method 'tnw': did you mean twn"),
    ({"method": "nosuch"}, "unknown method 'nosuch': `python -m qtrain.zoo.registry` lists all"),
    ({"method": "twn", "bits": 4}, "twn has no bits 4: choose from 2"),
    ({"method": "twn", "activation_bits": 4}, "none: it leaves them in float32"),
    ({"method": "dorefa", "bits": 5}, "dorefa has no bits 5: choose from 1, 2, 3, 4, 8"),
]


@pytest.mark.parametrize(("options", "error"), MISTAKES)
def test_mistakes(options, error):
    with pytest.raises(ValueError, match=re.escape(error)):
        recipe(Options(**options))


def test_what_is_not_built_says_why():
    for name, why in registry.NOT_BUILT.items():
        with pytest.raises(ValueError, match=f"{name} is not built: {re.escape(why[:20])}"):
            registry.get(name)


def test_readme_has_the_table():
    """Kills: an edit of a method without `python -m qtrain.zoo.registry`."""
    table = README.read_text(encoding="utf-8").split("<!-- methods -->")[1]
    assert table.split("<!-- /methods -->")[0].strip() == registry.table()


def test_every_setting_is_hashable_and_cited():
    """Equal configs share a compilation."""
    for options in ABLATIONS.values():
        one, other = recipe(options), recipe(options)
        assert hash(one) == hash(other)
        for place in ("weight", "activation", "error"):
            for at in getattr(one, place) or ():
                if at.setting is not None and place != "error":
                    assert at.setting.describe()
                    assert dataclasses.is_dataclass(at.setting)
                    assert all(source in entries() for source in at.setting.sources)
    assert qtrain.__name__ == "qtrain"
