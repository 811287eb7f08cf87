"""Flags of scripts/train.py that change a recipe: the optimizer, and what --help says of them."""

import dataclasses
import re

import pytest

from qtrain import recipes
from qtrain.recipes.base import Adam, Momentum, Recipe
from scripts import train


def test_help_shows_the_recipes_own_values(capsys, monkeypatch):
    """Kills: train.py: `getattr(recipe, name)` -> the default of `Recipe`."""
    module = recipes.get("float32")
    tuned = Recipe(key="a", epochs=17, model="mlp", optimizer=Adam(lr=0.25))
    monkeypatch.setattr(module, "recipe", lambda: tuned)
    with pytest.raises(SystemExit):
        train.main(["float32", "--help"])
    out = " ".join(capsys.readouterr().out.replace("│", "").split())
    for flag, value in {
        "--model": "(recipe: mlp)", "--epochs": "(recipe: 17)", "--batch-size": "(recipe: 128)",
        "--data": "(recipe: fashion-mnist-8k)", "--optimizer": "(recipe: adam)",
        "--optimizer.lr": "(recipe: 0.25)", "--optimizer.eps": "(recipe: 1e-08)",
        "--optimizer.momentum": "(momentum: 0.9)",
    }.items():  # fmt: skip
        assert re.search(rf"{re.escape(flag)} \{{(?:(?!--).)*{re.escape(value)}", out), flag


def test_no_loss_scale_and_other_sums_are_flags():
    """Kills: wang2018fp8.py: `if scale == NONE:` left out."""
    module = recipes.get("wang2018fp8")
    argv = ["--loss-scale", "none", "--accumulate.intra", "e6m5", "--accumulate.product", "e5m4"]
    recipe = module.recipe(train._parse(module, ["wang2018fp8", *argv])[0])
    assert recipe.loss_scale is None
    accum = recipe.accumulator[-1].setting.weight_grad
    assert (accum.fmt, accum.intra, accum.product) == ("e6m9", "e6m5", "e5m4")
    same, _ = train._parse(module, ["wang2018fp8", "--accumulate.intra", "None"])
    assert module.recipe(same) == module.recipe()


@pytest.mark.parametrize(
    ("argv", "optimizer"),
    [
        ([], Momentum()),
        (["--optimizer.lr", "0.1"], Momentum(lr=0.1)),
        (["--optimizer", "momentum", "--optimizer.momentum", "0.5"], Momentum(momentum=0.5)),
        (["--optimizer", "adam"], Adam()),
        (["--optimizer.b2", "0.9", "--optimizer", "adam"], Adam(b2=0.9)),
    ],
)
def test_the_optimizer_is_one_flag(argv, optimizer):
    """Kills: train.py: `settings = kinds[name]()` also where the recipe has that kind."""
    module = recipes.get("wang2018fp8")
    options, run = train._parse(module, ["wang2018fp8", *argv])
    assert train._changed(module.recipe(options), run).optimizer == optimizer
    tuned = dataclasses.replace(module.recipe(), optimizer=Momentum(lr=7.0))
    _, same = train._parse(module, ["wang2018fp8", "--optimizer", "momentum"])
    assert train._changed(tuned, same).optimizer == Momentum(lr=7.0)
