"""What the recipe's flags put where, and which of them contradict each other."""

import dataclasses
import re

import pytest

from qtrain.nn import Tracked
from qtrain.ops import DotConfig
from qtrain.quantize import Affine, Cast, Scale
from qtrain.recipes import banner2018scalable as banner
from qtrain.recipes import describe
from qtrain.recipes.banner2018scalable import ABLATIONS, Options
from qtrain.recipes.base import PLACES, baseline
from qtrain.recipes.config import from_json, to_json
from qtrain.recipes.layers import Layer
from scripts import train

LAYERS = (
    Layer("conv1", forward=9, input_grad=144, weight_grad=100352),
    Layer("head", forward=64, input_grad=10, weight_grad=128),
)


def config(**options) -> DotConfig:
    """That of every layer: first and last are no exceptions [Sec. 3]."""
    recipe = banner.recipe(Options(**options))
    first, last = (recipe.config(layer, LAYERS) for layer in LAYERS)
    assert first == last
    return first


def error(bits: int = 8, kind: str = "tensor") -> Affine:
    return Affine(bits=bits, rounding="stochastic", range=kind)


def test_the_defaults_are_the_papers():
    """8 bits each, activations by tracked mean ranges, stochastic errors, the weight gradient by
    the error itself, range norm with 8-bit input and error by the paper's constant over the whole
    batch [banner2018scalable, Secs. 2 to 4]."""
    activation = Tracked(quantizer=Affine(bits=8, range="sample_mean"))
    assert config() == DotConfig(lhs=activation, rhs=Affine(bits=8), dgrad=error(), wgrad=None)
    norm = banner.recipe().norm
    assert (norm.input, norm.error) == (activation, error())
    assert (norm.constant, norm.chunks, norm.replicas) == ("paper", 1, 1)


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        ({"bifurcate": False}, {"wgrad": error()}),
        ({"weight_gradient_bits": 16}, {"wgrad": error(16)}),
        ({"error_bits": "none"}, {"dgrad": None}),
        ({"error_bits": 4}, {"dgrad": error(4)}),
        ({"error_range": "sample"}, {"dgrad": error(kind="sample")}),
        ({"weight_bits": "none"}, {"rhs": None}),
        ({"weight_bits": 3, "weight_range": "channel"}, {"rhs": Affine(bits=3, range="channel")}),
        ({"activation_bits": "none"}, {"lhs": None}),
        ({"norm_bits": 4}, {}),
        ({"norm": "batch"}, {}),
    ],
)
def test_each_flag_changes_its_own_role(options, changed):
    """Kills: no bifurcation, and yet a weight gradient by the error itself."""
    assert config(**options) == dataclasses.replace(config(), **changed)


@pytest.mark.parametrize("bits", [2, 6, 16])
def test_bits_reach_everything_that_is_not_named(bits):
    found = config(bits=bits)
    assert {found.lhs.quantizer.bits, found.rhs.bits, found.dgrad.bits} == {bits}
    norm = banner.recipe(Options(bits=bits)).norm
    assert {norm.input.quantizer.bits, norm.error.bits} == {bits}
    norm = banner.recipe(Options(bits=bits, norm_bits="none")).norm
    assert (norm.input, norm.error) == (None, None)


def test_symmetric_operands_for_integers():
    """Scales that are powers of two, one per tensor."""
    found = config(symmetric=True, integer=True, bifurcate=False)
    scale = Scale(method="power_of_two")
    assert found.lhs == found.rhs == Cast("int8sym", "nearest", scale)
    assert found.dgrad == found.wgrad == Cast("int8sym", "stochastic", scale)
    assert found.integer
    rows = config(symmetric=True, weight_range="channel", error_range="sample")
    assert (rows.rhs.scale.axis, rows.dgrad.scale.axis) == (-1, 0)


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_build_and_come_back_from_json(name):
    """And say in words what they do: every place that is filled, in one line."""
    recipe = banner.recipe(ABLATIONS[name])
    assert from_json(to_json(recipe)) == recipe
    texts = describe.places(recipe)
    for place in PLACES:
        assert (texts[place] == "float32") == (place not in recipe.places())
        assert "\n" not in texts[place]


def test_ablations_differ():
    recipes = [banner.recipe(options) for options in ABLATIONS.values()]
    assert len(set(recipes)) == len(recipes)
    words = [tuple(describe.places(recipe).values()) for recipe in recipes]
    assert len(set(words)) == len(recipes)


def test_in_words():
    texts = describe.places(banner.recipe())
    assert texts["weight"] == "8-bit affine, per tensor"
    assert texts["activation"] == "8-bit affine, mean range of samples, running in evaluation"
    assert texts["error"] == "dgrad 8-bit affine stochastic, per tensor, wgrad float32"
    assert texts["norm"].startswith("range (paper constant), input 8-bit affine")


def test_the_baseline_is_float32():
    plain = baseline(banner.recipe(Options(symmetric=True, integer=True)))
    assert plain.places() == ()
    assert not plain.integer
    assert plain.model == "small_cnn_bn"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 1}, "bits must be 2 to 16, not 1"),
        ({"bits": 17}, "bits must be 2 to 16, not 17"),
        ({"bits": 1, "symmetric": True}, "bits must be 2 to 16, not 1"),
        ({"norm_bits": 0}, "bits must be 2 to 16, not 0"),
        ({"bifurcate": False, "weight_gradient_bits": 16}, "16 needs --bifurcate"),
        ({"norm": "batch", "chunks": 16}, "chunks 16 is a setting of --norm range"),
        ({"norm": "batch", "constant": "code"}, "constant code is a setting of --norm range"),
        ({"norm": "batch", "norm_bits": 4}, "norm_bits 4 is a setting of --norm range"),
        ({"integer": True}, "--integer needs --symmetric"),
        ({"integer": True, "symmetric": True, "bits": 9}, "at most 8 bits, not 9"),
        (
            {"integer": True, "symmetric": True, "weight_gradient_bits": 16},
            "at most 8 bits, not 16",
        ),
        (
            {"integer": True, "symmetric": True, "error_range": "sample"},
            "needs one range per operand",
        ),
        ({"chunks": 0}, "chunks must be at least 1, not 0"),
        ({"replicas": 0}, "replicas must be at least 1, not 0"),
    ],
)
def test_errors_are_one_clear_line(options, message):
    with pytest.raises(ValueError, match=message) as found:
        banner.recipe(Options(**options))
    assert "\n" not in str(found.value)


def flags(*words: str) -> list[str]:
    return train._flags(list(words))


def test_true_and_false_as_words():
    """tyro has --name and --no-name."""
    assert flags("--bifurcate", "false", "--bits", "6") == ["--no-bifurcate", "--bits", "6"]
    assert flags("--integer", "true") == ["--integer"]
    assert flags("--loss-scale.dynamic", "false") == ["--loss-scale.no-dynamic"]
    assert flags("true", "--no-baseline") == ["true", "--no-baseline"]


def test_flags_reach_the_options():
    argv = ["banner2018scalable", "--bifurcate", "false", "--bits", "6", "--norm", "batch"]
    options, _ = train._parse(banner, argv)
    assert options == Options(bifurcate=False, bits=6, norm="batch")
    argv = ["banner2018scalable", "--error-bits", "none", "--norm-bits", "4", "--chunks", "16"]
    options, _ = train._parse(banner, argv)
    assert options == Options(error_bits="none", norm_bits=4, chunks=16)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--bits", "1"], "error: bits must be 2 to 16, not 1"),
        (["--model", "mlp"], "error: Mlp has no batch normalization to replace: "),
        (["--chunks", "3"], "error: .* values per channel cannot be cut into 3 chunks"),
    ],
)
def test_the_command_says_so_in_one_line(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train.main(["banner2018scalable", *argv]) == 1
    printed = capsys.readouterr().err.strip()
    assert re.match(message, printed)
    assert "\n" not in printed
