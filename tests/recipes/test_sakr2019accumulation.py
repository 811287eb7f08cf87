"""Widths from theory reach the accumulators of each layer's three GEMMs."""

import dataclasses
import json

import pytest

from qtrain.ops import Accumulator
from qtrain.recipes import describe
from qtrain.recipes import sakr2019accumulation as sakr
from qtrain.recipes.config import from_json, to_json
from qtrain.recipes.layers import GEMMS, Layer
from theory.requirement import mantissa_bits

SMALL_CNN = (  # at batch size 128 on 28x28 images
    Layer("conv1", forward=9, input_grad=144, weight_grad=100352),
    Layer("conv2", forward=144, input_grad=288, weight_grad=25088),
    Layer("hidden", forward=1568, input_grad=64, weight_grad=128),
    Layer("head", forward=64, input_grad=10, weight_grad=128),
)


def widths(**options) -> dict[str, list[str | None]]:
    """Format of each layer's three accumulators."""
    recipe = sakr.recipe(sakr.Options(**options))
    configs = {layer.path: recipe.config(layer, SMALL_CNN) for layer in SMALL_CNN}
    return {
        path: [accum and accum.fmt for accum in (c.forward, c.input_grad, c.weight_grad)]
        for path, c in configs.items()
    }


@pytest.mark.parametrize("theory", ["published", "exact"])
@pytest.mark.parametrize("chunk", [None, 64])
def test_each_sum_is_as_wide_as_theory_says(theory, chunk):
    """Kills: one width for the three GEMMs of a layer."""
    found = widths(theory=theory, chunk=chunk)
    assert found.pop("head") == [None, None, None]  # the last layer stays in float32
    for layer in SMALL_CNN[:-1]:
        for gemm, fmt in zip(GEMMS, found[layer.path], strict=True):
            length = layer.lengths[gemm]
            cut = chunk and min(chunk, length)
            assert fmt == f"e6m{mantissa_bits(length, theory=theory, chunk=cut)}"


def test_widths_of_the_committed_runs():
    """Those that results/sakr2019accumulation/ablations.jsonl was measured with."""
    assert widths(theory="exact") == {
        "conv1": ["e6m1", "e6m3", "e6m8"],
        "conv2": ["e6m3", "e6m4", "e6m7"],
        "hidden": ["e6m5", "e6m3", "e6m3"],
        "head": [None, None, None],
    }
    assert widths(theory="exact", chunk=64) == {
        "conv1": ["e6m1", "e6m3", "e6m5"],
        "conv2": ["e6m3", "e6m3", "e6m4"],
        "hidden": ["e6m3", "e6m3", "e6m3"],
        "head": [None, None, None],
    }


def test_perturbation_moves_every_width_but_not_below_one_bit():
    assert widths(perturb=-3)["conv1"] == ["e6m1", "e6m1", "e6m5"]
    assert widths(perturb=+2)["conv2"] == ["e6m5", "e6m6", "e6m9"]


def test_zeros_shorten_a_sum():
    """100352 products of which 14 % are not zero need 7 bits, not 8."""
    assert widths(nonzero=(("conv1", 1.0, 1.0, 0.14),))["conv1"] == ["e6m1", "e6m3", "e6m7"]


def test_advice_is_read_back(tmp_path):
    """The file that the adviser writes, and what it would be without its zeros.

    Kills: recipes/sakr2019accumulation.py `_measured` with the roles of a layer in another order.
    """
    rows = [
        {"layer": "conv1", "gemm": gemm, "nonzero": share, "length": 9}
        for gemm, share in (("weight_grad", 0.14), ("forward", 1.0), ("weight_grad", 0.1))
    ]
    (tmp_path / "advice.json").write_text(json.dumps(rows))
    told = widths(advice=tmp_path / "advice.json")
    assert told == widths(nonzero=(("conv1", 1.0, 1.0, 0.14),)) != widths()


def test_advice_that_is_none(tmp_path):
    (tmp_path / "advice.json").write_text('{"bits": 3}')
    with pytest.raises(ValueError, match="is no advice: write it"):
        widths(advice=tmp_path / "advice.json")
    with pytest.raises(OSError, match="missing"):
        widths(advice=tmp_path / "missing.json")


def test_options_reach_the_accumulator():
    recipe = sakr.recipe(sakr.Options(mantissa=4, chunk=64, rounding="align", gemms=("forward",)))
    config = recipe.config(SMALL_CNN[1], SMALL_CNN)
    assert config.forward == Accumulator("e6m4", chunk=64, rounding="align")
    assert config.input_grad is config.weight_grad is None


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "(1,6,m) by exact theory; last layer float32"),
        (
            {"theory": "published", "chunk": 64, "perturb": -1, "rounding": "toward_zero"},
            "(1,6,m) by published theory, chunk 64, toward zero, -1 bits; last layer float32",
        ),
        ({"mantissa": 4, "gemms": ("forward",)}, "e6m4, only forward; last layer float32"),
        ({"gemms": ()}, "float32"),
    ],
)
def test_a_recipe_in_words(options, text):
    assert describe.places(sakr.recipe(sakr.Options(**options)))["accumulator"] == text


def test_chunk_longer_than_every_sum():
    recipe = sakr.recipe(sakr.Options(chunk=200000))
    with pytest.raises(ValueError, match="chunk 200000 is longer than every accumulation"):
        recipe.rules(SMALL_CNN)


@pytest.mark.parametrize("name", ["exact", "published chunk 64 -3", "mantissa 3 in forward"])
def test_json_round_trip(name):
    recipe = sakr.recipe(sakr.ABLATIONS[name])
    assert from_json(to_json(recipe)) == recipe


def test_ablations_differ():
    """From one another, and each in the accumulator alone."""
    recipes = [sakr.recipe(options) for options in sakr.ABLATIONS.values()]
    assert len(set(recipes)) == len(recipes)
    assert len({dataclasses.replace(recipe, accumulator=None) for recipe in recipes}) == 1
