"""Recipes: what a place says about each layer, merging, and what the checks catch."""

import dataclasses

import pytest

import qtrain as qt
from qtrain import recipes
from qtrain.recipes import describe, wang2018fp8
from qtrain.recipes.base import (
    FIRST,
    LAST,
    Accumulators,
    Adam,
    At,
    LossScale,
    Recipe,
    Update,
    baseline,
    merge,
)
from qtrain.recipes.config import differences, from_json, to_json
from qtrain.recipes.layers import Layer

LAYERS = (
    Layer("conv1", forward=9, input_grad=144, weight_grad=1000),
    Layer("conv2", forward=144, input_grad=288, weight_grad=250),
    Layer("head", forward=512, input_grad=10, weight_grad=128),
)
FP8, FP16 = qt.Cast("e5m2"), qt.Cast("e6m9")


def accumulator(**changes) -> tuple[At, ...]:
    accum = qt.Accumulator("e6m9", **changes)
    return (At(".*", Accumulators(forward=accum, input_grad=accum, weight_grad=accum)),)


def test_the_paper_layer_by_layer():
    """[wang2018fp8, Sec. 3]: FP8 operands, image and last layer in (1,6,9), chunks of 64."""
    recipe = wang2018fp8.recipe()
    first, middle, last = (recipe.config(layer, LAYERS) for layer in LAYERS)
    assert (first.lhs, first.rhs, first.dgrad, first.wgrad) == (FP16, FP8, FP8, FP8)
    assert (middle.lhs, middle.rhs, middle.dgrad, middle.wgrad) == (FP8, FP8, FP8, FP8)
    assert (last.lhs, last.rhs, last.dgrad, last.wgrad) == (FP16, FP16, FP16, FP16)
    assert middle.forward == middle.weight_grad == qt.Accumulator("e6m9", chunk=64)
    assert middle.input_grad == middle.forward
    assert first.forward == qt.Accumulator("e6m9", chunk=9)  # a shorter sum is one chunk
    assert recipe.update == Update(fmt="e6m9", rounding="stochastic")
    assert recipe.loss_scale == LossScale(init=1000.0)


@pytest.mark.parametrize(
    ("options", "place", "text"),
    [
        ({}, "accumulator", "e6m9, chunk 64"),
        ({"accumulate": wang2018fp8.Accumulate(chunk=1)}, "accumulator", "e6m9, chunk 1"),
        ({"accumulate": wang2018fp8.Accumulate(fmt="none")}, "accumulator", "float32"),
        (
            {"accumulate": wang2018fp8.Accumulate(intra="e6m5", product="e5m4")},
            "accumulator",
            "e6m9, chunk 64, e6m5 inside, e5m4 products",
        ),
        ({"update": wang2018fp8.UpdateOptions(rounding="nearest")}, "update", "e6m9"),
        ({"last_layer": "fp8"}, "weight", "e5m2"),
        ({"last_layer": "none"}, "weight", "e5m2; last layer float32"),
        ({"first_layer": "bfloat16"}, "activation", "e5m2; last layer e6m9; first layer bfloat16"),
        ({"operand": "none"}, "error", "float32; last layer e6m9"),
        ({"loss_scale": "dynamic"}, "loss_scale", "65536, dynamic"),
        ({"loss_scale": "none"}, "loss_scale", "float32"),
    ],
)
def test_each_ingredient_is_one_option(options, place, text):
    """And changes no other place."""
    changed = describe.places(wang2018fp8.recipe(wang2018fp8.Options(**options)))
    assert changed[place] == text
    if options and "operand" not in options:
        whole = describe.places(wang2018fp8.recipe())
        assert [p for p in whole if whole[p] != changed[p]] in (
            [place],
            ["weight", "activation", "error"],
        )


def test_first_match_wins():
    """Kills: recipes/base.py: the last match wins."""
    recipe = Recipe(key="a", weight=(At("conv1", FP16), At("conv.*", FP8)))
    found = [recipe.config(layer, LAYERS).rhs for layer in LAYERS]
    assert found == [FP16, FP8, None]


@pytest.mark.parametrize(("path", "layer"), [(FIRST, "conv1"), (LAST, "head")])
def test_first_and_last_need_no_name(path, layer):
    recipe = Recipe(key="a", weight=(At(path, FP8),))
    assert [x.path for x in LAYERS if recipe.config(x, LAYERS).rhs] == [layer]


def test_float32_changes_no_layer():
    assert baseline(wang2018fp8.recipe()).rules(LAYERS) == ()
    assert baseline(wang2018fp8.recipe()).places() == ()


def test_merge():
    """Settings of training come from the first; both places are filled."""
    a = Recipe(key="a", epochs=3, weight=(At(".*", FP8),))
    b = Recipe(key="b", epochs=5, accumulator=accumulator(chunk=4))
    both = merge(a, b)
    assert (both.key, both.epochs, both.places()) == ("a+b", 3, ("weight", "accumulator"))
    assert both.config(LAYERS[1], LAYERS).forward == qt.Accumulator("e6m9", chunk=4)


def test_a_place_holds_one_recipe():
    with pytest.raises(ValueError, match="a and a both fill weight: only recipes that fill diff"):
        merge(*[Recipe(key="a", weight=(At(".*", FP8),))] * 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"weight": (At("conv9", FP8),)},
            "weight rule 'conv9' matches no layer.*conv1, conv2, head",
        ),
        ({"accumulator": accumulator(chunk=1001)}, r"chunk 1001 is longer.*K = 1000.*layer conv1"),
    ],
)
def test_rules_that_cannot_hold(changes, message):
    with pytest.raises(ValueError, match=message):
        Recipe(key="a", **changes).rules(LAYERS)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: At("(", FP8), r"At\('\('\) is not a regular expression"),
        (lambda: Recipe(key="a", epochs=0), "epochs must be at least 1, not 0"),
        (lambda: wang2018fp8.recipe(wang2018fp8.Options(loss_scale=0)), "not 0"),
        (lambda: Adam(b2=1), "b2 must be at least 0 and below 1, not 1"),
        (lambda: Adam(schedule="linear"), "unknown schedule 'linear': constant or cosine"),
        (lambda: recipes.get("wang2018"), "unknown recipe 'wang2018': did you mean wang2018fp8"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("options", wang2018fp8.ABLATIONS.values(), ids=wang2018fp8.ABLATIONS)
def test_json_round_trip(options):
    recipe = wang2018fp8.recipe(options)
    assert from_json(to_json(recipe)) == recipe


def test_adam_comes_back_from_json():
    recipe = Recipe(key="a", optimizer=Adam(eps=1e-6))
    assert from_json(to_json(recipe)) == recipe


def test_differences_name_the_field():
    a, b = wang2018fp8.recipe(), dataclasses.replace(wang2018fp8.recipe(), epochs=9)
    assert differences(to_json(a), to_json(b)) == ["epochs: 6 -> 9"]


def test_a_file_chooses_no_imports():
    with pytest.raises(ValueError, match="is no qtrain type"):
        from_json({"type": "os.system", "command": "true"})


def test_titles_say_what_each_recipe_is():
    assert recipes.titles()["wang2018fp8"].startswith("Training deep neural networks with 8-bit")
