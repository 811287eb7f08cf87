"""What the command line says about codes, periods and pruning reaches each layer, or is refused."""

import dataclasses

import jax
import numpy as np
import pytest

from qtrain import optim
from qtrain.quantize.binary_codes import BinaryCodes
from qtrain.recipes import describe
from qtrain.recipes import lee2018iterative as lee
from qtrain.recipes.base import baseline, budget
from qtrain.recipes.config import from_json, to_json
from qtrain.recipes.layers import Layer
from qtrain.train import text
from qtrain.train.state import create
from qtrain.zoo.iterative import Iterative

LAYERS = tuple(
    Layer(name, forward=9, input_grad=16, weight_grad=32) for name in ("conv1", "hidden", "head")
)


def constraints(**options) -> dict[str, Iterative]:
    return lee.recipe(lee.Options(**options)).constraints(LAYERS)


def test_every_option_reaches_the_layers():
    found = constraints(bits=3, method="refined", per="layer", period=31, prune=0.7)
    quantizer = BinaryCodes(bits=3, rule="refined", per="layer")
    want = Iterative(quantizer=quantizer, period=31, prune=0.7)
    assert found == dict.fromkeys(("conv1", "hidden", "head"), want)
    assert set(constraints(ends=False)) == {"hidden"}


def test_no_forward_pass_quantizes():
    """The loss sees the weights as they are; with a straight-through estimator, their codes.

    Kills: recipes/lee2018iterative.py: `if not options.straight_through` -> `if
    options.straight_through`.
    """
    recipe = lee.recipe()
    assert recipe.rules(LAYERS) == ()
    latent = lee.recipe(lee.Options(bits=2, straight_through=True))
    assert latent.constraints(LAYERS) == {}
    codes = BinaryCodes(bits=2, rule="alternating")
    assert {rule.config.rhs for rule in latent.rules(LAYERS)} == {codes}


def test_it_begins_with_float32_weights_and_float32_has_the_same_budget():
    recipe = lee.recipe()
    assert recipe.start is not None
    assert recipe.start.places() == ()
    plain = baseline(recipe)
    assert (budget(plain), plain.start) == (recipe.epochs + recipe.start.epochs, None)
    assert (plain.model, plain.optimizer) == (recipe.model, recipe.start.optimizer)


def test_the_character_model_has_every_matrix():
    """The kernel of the inputs, a row for each character, the recurrent one and the last."""
    dataset = text.windows("tiny", "to be or not to be, that is it. " * 9, "to be or not.", 8)
    chosen = lee.recipe(lee.Options(task="text", prune=0.5))
    assert (chosen.start.model, chosen.model, chosen.data) == ("char_lstm", "char_lstm", "sotu-1m")
    recipe = dataclasses.replace(chosen, batch_size=4, start=None)
    program, state = create(recipe, dataset, seed=0, steps=4)
    constrained = program.moves.constraints
    assert constrained.keys() == {"inputs/kernel", "recurrent/kernel", "head/kernel"}
    params, _ = optim.project(state.params, state.optimizer, constrained, state.step, 4)
    for path, w in jax.tree_util.tree_flatten_with_path(params)[0]:
        if optim.leaf_path(path) in constrained:
            assert max(len(np.unique(column)) for column in np.asarray(w).T) <= 3


MISTAKES = [
    ({"bits": 0}, "bits must be 1 to 8, not 0"),
    ({"task": "sound"}, "unknown task 'sound': images or text"),
    ({"method": "best"}, "unknown rule 'best'"),
    ({"per": "row"}, "scales are per channel or layer, not per 'row'"),
    ({"period": -1}, "period must be at least 0 steps, not -1"),
    ({"prune": 1.0}, "prune must be at least 0 and below 1, not 1.0"),
    (
        {"straight_through": True, "period": 8},
        "period 8 does nothing with --straight-through true",
    ),
    ({"straight_through": True, "prune": 0.5}, "prune 0.5 does nothing with --straight-through"),
]


@pytest.mark.parametrize(("options", "message"), MISTAKES)
def test_mistakes(options, message):
    with pytest.raises(ValueError, match=message) as error:
        lee.recipe(lee.Options(**options))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", lee.ABLATIONS)
def test_json_round_trip(name):
    recipe = lee.recipe(lee.ABLATIONS[name])
    assert from_json(to_json(recipe)) == recipe


def test_ablations_differ():
    """From one another, and in the weights alone: same start, same budget."""
    recipes = [lee.recipe(options) for options in lee.ABLATIONS.values()]
    assert len(set(recipes)) == len(recipes)
    assert len({dataclasses.replace(r, weight=None) for r in recipes}) == 2  # images and text
    kinds = ("", ", once", ", straight-through")
    assert {f"{bits} bits{kind}" for bits in (1, 2, 3, 4) for kind in kinds} <= {*lee.ABLATIONS}


def test_in_words():
    places = describe.places(lee.recipe(lee.Options(period=31, prune=0.5)))
    assert places["weight"] == "1-bit alternating codes, per channel, every 31 steps, 50 % pruned"
    places = describe.places(lee.recipe(lee.Options(straight_through=True)))
    assert places["weight"] == "1-bit alternating codes, per channel"
