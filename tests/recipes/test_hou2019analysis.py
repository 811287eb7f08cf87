"""What the command line says about weights and gradients reaches the recipe, or is refused."""

import dataclasses

import pytest

from qtrain.ops import DotConfig
from qtrain.optim import LossAware
from qtrain.recipes import describe, wang2018fp8
from qtrain.recipes import hou2019analysis as hou
from qtrain.recipes.base import baseline, merge
from qtrain.recipes.config import from_json, to_json
from qtrain.recipes.layers import Layer
from qtrain.wire import Stochastic

LAYERS = tuple(
    Layer(name, forward=9, input_grad=16, weight_grad=32) for name in ("conv1", "conv2", "head")
)


def stored(**options) -> dict[str, LossAware]:
    return hou.recipe(hou.Options(**options)).stored(LAYERS)


@pytest.mark.parametrize(
    ("text", "bits"), [("lab", 1), ("laq2", 2), ("laq3", 3), ("laq4", 4), ("laq16", 16)]
)
def test_weights(text, bits):
    assert stored(weights=text) == dict.fromkeys(("conv1", "conv2", "head"), LossAware(bits=bits))
    assert set(stored(weights=text, ends=False)) == {"conv2"}


def test_rule_reaches_the_quantizer():
    assert stored(rule="published")["head"].rule == "published"


def test_no_forward_pass_quantizes_a_stored_weight():
    """Kills: recipes/base.py: `and not _is_stored(weight)` removed."""
    recipe = hou.recipe()
    assert all(recipe.config(layer, LAYERS) == DotConfig() for layer in LAYERS)
    assert recipe.rules(LAYERS) == ()


@pytest.mark.parametrize("bits", [2, 3, 4, 16])
def test_gradients(bits):
    recipe = hou.recipe(hou.Options(gradients=f"sq{bits}", clip=2.5))
    assert recipe.wire == Stochastic(bits=bits, clip=2.5)


def test_full_precision():
    recipe = hou.recipe(hou.Options(weights="fp", gradients="fp"))
    assert (recipe.weight, recipe.wire, recipe.places()) == (None, None, ())


MISTAKES = [
    ({"weights": "laq0"}, "unknown weights 'laq0': fp, lab, laq2"),
    ({"weights": "laq1"}, "unknown weights 'laq1': fp, lab, laq2"),
    ({"weights": "laq17"}, "bits must be 1 to 16, not 17"),
    ({"weights": "ternary"}, "unknown weights 'ternary'"),
    ({"weights": "laq2 "}, "unknown weights 'laq2 '"),
    ({"gradients": "sq1"}, "unknown gradients 'sq1': fp, sq2, sq3, sq4"),
    ({"gradients": "sq17"}, "gradient bits must be 2 to 16, not 17"),
    ({"gradients": "laq2"}, "unknown gradients 'laq2': fp, sq2, sq3, sq4"),
    ({"gradients": "fp", "clip": 3.0}, "clip 3 needs quantized gradients"),
    ({"clip": 0.0}, "clip must be positive and finite, in standard deviations, not 0.0"),
    ({"clip": -2.0}, "clip must be positive .* not -2.0"),
    ({"rule": "best"}, "unknown rule 'best'"),
]


@pytest.mark.parametrize(("options", "message"), MISTAKES)
def test_mistakes(options, message):
    with pytest.raises(ValueError, match=message) as error:
        hou.recipe(hou.Options(**options))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", hou.ABLATIONS)
def test_json_round_trip(name):
    recipe = hou.recipe(hou.ABLATIONS[name])
    assert from_json(to_json(recipe)) == recipe


def test_ablations_differ():
    """From one another, and in the two places alone; the table has weights times gradients."""
    recipes = [hou.recipe(options) for options in hou.ABLATIONS.values()]
    assert len(set(recipes)) == len(recipes)
    assert len({dataclasses.replace(r, weight=None, wire=None) for r in recipes}) == 1
    assert {"lab fp", "laq2 sq2 clip 3", "laq4 sq4", "fp fp", "laq2 sq2 clip 1"} <= {*hou.ABLATIONS}


def test_merged_with_a_recipe_of_other_places():
    """FP8 fills the weights too, so it joins exchanged gradients alone."""
    wire = hou.recipe(hou.Options(weights="fp"))
    both = merge(wire, wang2018fp8.recipe())
    assert {"weight", "activation", "error", "accumulator", "wire", "update"} <= {*both.places()}
    assert (both.wire, both.optimizer) == (wire.wire, wire.optimizer)
    with pytest.raises(ValueError, match="hou2019analysis and wang2018fp8 both fill weight"):
        merge(hou.recipe(), wang2018fp8.recipe())
    assert baseline(both).places() == ()


def test_in_words():
    places = describe.places(hou.recipe(hou.Options(weights="laq2", gradients="sq2", clip=3.0)))
    assert places["weight"] == "LAQ2, in the optimizer"
    assert places["wire"] == "SQ2, clipped at 3 sigma"
