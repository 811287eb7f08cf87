"""The chain of stages that the flags ask for, and what one inherits from the one before it."""

import dataclasses
import functools
import itertools

import jax
import numpy as np
import pytest
from flax import nnx
from train import tiny

from qtrain.recipes import describe
from qtrain.recipes import jung2019qil as qil
from qtrain.recipes.base import Recipe, baseline, budget, changed
from qtrain.recipes.config import from_json, to_json
from qtrain.recipes.jung2019qil import ABLATIONS, EPOCHS, Options
from qtrain.recipes.layers import Layer
from qtrain.train.state import create
from qtrain.train.step import train_step
from qtrain.zoo.qil import IntervalActivation, IntervalWeight
from scripts import train

LAYERS = tuple(Layer(p, 9, 9, 9) for p in ("conv1", "conv2", "hidden", "head"))


def stages(**options) -> list[Recipe]:
    """In the order in which they run."""
    found = [qil.recipe(Options(**options))]
    while found[0].start is not None:
        found.insert(0, found[0].start)
    return found


def quantizers(recipe: Recipe) -> dict[str, tuple]:
    """Those of weights and activations by layer."""
    configs = {layer.path: recipe.config(layer, LAYERS) for layer in LAYERS}
    return {path: (config.rhs, config.lhs) for path, config in configs.items()}


def pair(bits: int, activation_bits: int | None = None, gamma: bool | None = None) -> tuple:
    weight = IntervalWeight(bits=bits, learn_gamma=bits == 2 if gamma is None else gamma)
    return weight, IntervalActivation(bits=activation_bits or bits)


def test_the_defaults_are_progressive():
    """Float32, then 4, 3 and 2 bits; both ends float32; gamma at 2 bits; rates below the float32
    run's, and intervals at a hundredth of them [jung2019qil, a public code].

    Kills: jung2019qil.py: `start=start` -> `start=None`; `bits == GAMMA_BITS` -> `bits != 2`.
    """
    first, *rest = stages()
    assert (first.key, first.places(), first.start) == ("float32", (), None)
    for recipe, bits in zip(rest, (4, 3, 2), strict=True):
        none = (None, None)
        want = {"conv1": none, "conv2": pair(bits), "hidden": pair(bits), "head": none}
        assert quantizers(recipe) == want
        assert recipe.optimizer.lr < first.optimizer.lr
        assert recipe.trains == "all"
    assert pair(4)[0].rate == pair(4)[1].rate == 0.01
    assert {r.optimizer.weight_decay for r in stages()} == {1e-4}


@pytest.mark.parametrize(
    ("options", "of_stages"),
    [
        ({"bits": "2"}, [pair(2)]),
        ({"bits": "3,2", "learn_gamma": True}, [pair(3, gamma=True), pair(2)]),
        ({"bits": "2", "learn_gamma": False}, [pair(2, gamma=False)]),
        ({"bits": "4,3", "activation_bits": "8,4"}, [pair(4, 8), pair(3, 4)]),
        ({"bits": "4", "activation_bits": "none"}, [(pair(4)[0], None)]),
    ],
)
def test_each_flag_changes_its_own_role(options, of_stages):
    """Kills: jung2019qil.py: `zip(weights, activations` -> `zip(weights, weights`."""
    _, *rest = stages(**options)
    assert [quantizers(r)["hidden"] for r in rest] == of_stages
    assert {r.trains for r in rest} == {"all"}


def test_ends_and_quantizers_alone():
    """The images stay as they are: they have two signs, an interval of activations has one.

    Kills: jung2019qil.py: `IntervalActivation(bits=activation_bits), FIRST` -> `..., None if
    options.ends else FIRST`; `trains=options.trains` left out.
    """
    found = quantizers(qil.recipe(Options(bits="2", ends=True)))
    assert found == {"conv1": (pair(2)[0], None)} | dict.fromkeys(
        ("conv2", "hidden", "head"), pair(2)
    )
    assert [r.trains for r in stages(trains="quantizers")] == ["all"] + ["quantizers"] * 3


def test_direct_runs_have_the_epochs_of_progressive_ones():
    """All of the same last width. Kills: jung2019qil.py: `3 * EPOCHS` -> `EPOCHS`."""
    recipes = {name: qil.recipe(options) for name, options in ABLATIONS.items()}
    for bits in "23":
        assert budget(recipes[f"direct {bits}"]) == budget(recipes[bits])
        assert quantizers(recipes[f"direct {bits}"]) == quantizers(recipes[bits])
    assert budget(recipes["2"]) == 4 * EPOCHS
    assert baseline(next(iter(recipes.values()))).epochs == max(map(budget, recipes.values()))


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_build_and_come_back_from_json(name):
    """With every stage, and say in words what they do."""
    recipe = qil.recipe(ABLATIONS[name])
    assert from_json(to_json(recipe)) == recipe
    assert describe.places(recipe)["weight"].startswith(f"{name[-1]}-bit learned interval")


def test_ablations_differ():
    recipes = [qil.recipe(options) for options in ABLATIONS.values()]
    assert all(a != b for a, b in itertools.combinations(recipes, 2))


def test_flags_reach_the_options():
    """In the form that the command documents."""
    argv = ["jung2019qil", "--bits", "4,3,2", "--trains", "quantizers", "--ends", "true"]
    assert train._parse(qil, argv)[0] == Options(bits="4,3,2", trains="quantizers", ends=True)
    argv = ["jung2019qil", "--bits", "2", "--activation-bits", "none", "--learn-gamma", "False"]
    options, _ = train._parse(qil, argv)
    assert options == Options(bits="2", activation_bits="none", learn_gamma=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": "4;3"}, "bits '4;3' must be widths joined by commas, such as 4,3,2"),
        ({"bits": ""}, "bits '' must be widths joined by commas"),
        ({"bits": "4,1"}, "bits must be 2 to 16, not 1"),
        ({"bits": "4,3", "activation_bits": "4"}, "activation_bits 4 have 2 and 1 stages"),
        ({"activation_bits": "four"}, "activation_bits 'four' must be widths joined by commas"),
        ({"stage_epochs": 0}, "epochs must be at least 1, not 0"),
    ],
)
def test_errors_are_one_clear_line(options, message):
    with pytest.raises(ValueError, match=message) as found:
        qil.recipe(Options(**options))
    assert "\n" not in str(found.value)


def small(model: str = "small_cnn_bn", **options) -> Recipe:
    return changed(qil.recipe(Options(**options)), batch_size=16, model=model)


def numbers(state) -> dict[str, np.ndarray]:
    """Learned numbers and kernels of a state, by path."""
    flat = nnx.to_flat_state(state.params)
    return {"/".join(map(str, path)): np.asarray(v[...]) for path, v in flat}


def test_a_stage_inherits_intervals_and_weights():
    """And calibrates what the stage before did not have: at first all, at 2 bits gamma.

    Kills: zoo/qil.py: `self.c = Learned` -> `self.middle = Learned` (no run can go on from it).
    """
    data, last = tiny.dataset(), small(bits="3,2")
    _, plain = create(last.start.start, data, seed=0, steps=1)
    _, first = create(last.start, data, seed=0, steps=1, start=plain)
    kernel = numbers(plain)["conv2/kernel"]
    path = "conv2/conv_general_dilated"
    found = numbers(first)
    np.testing.assert_array_equal(found["conv2/kernel"], kernel)
    half = np.percentile(abs(kernel), 99) / 2
    np.testing.assert_allclose(found[f"{path}/rhs/c"], half, rtol=1e-4)  # between two of many
    assert found[f"{path}/lhs/c"] != np.float32(0.5)
    moved = first._replace(params=jax.tree.map(lambda x: 1.25 * x, first.params))
    _, second = create(last, data, seed=0, steps=1, start=moved)
    for name, value in numbers(second).items():
        gamma = name.endswith("gamma")
        np.testing.assert_array_equal(value, 1.0 if gamma else numbers(moved)[name], name)


def test_rates_of_one_step():
    """With all, everything moves, intervals and gamma at a hundredth of the rate; with quantizers,
    they alone, as far.

    From rest, momentum moves a number by its rate times its gradient; float32 sums of a number and
    its move err by 2^-24 of the number.
    Kills: zoo/qil.py: `rate: float = 0.01` -> `rate: float = 1.0`.
    """
    recipe = small(bits="2", ends=True, model="mlp")
    fast = dataclasses.replace(
        recipe, weight=_at_rate(recipe.weight), activation=_at_rate(recipe.activation)
    )
    alone = dataclasses.replace(recipe, trains="quantizers")
    before, slow = moves(recipe)
    (_, quick), (_, only) = moves(fast), moves(alone)
    learned = {n for n in before if n.rpartition("/")[2] in ("c", "d", "gamma")}
    for name in before.keys() - learned:
        assert abs(slow[name]).max() > 0, name
        assert abs(only[name]).max() == 0, name
    for name in learned:
        off = 2**-22 * abs(before[name])
        assert abs(quick[name]) > off
        np.testing.assert_allclose(slow[name], 0.01 * quick[name], atol=off, rtol=1e-5)
        np.testing.assert_allclose(only[name], slow[name], atol=off, rtol=1e-5)


def moves(recipe: Recipe) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Numbers by path, and how far one step moves them."""
    data = tiny.dataset()
    program, state = create(recipe, data, seed=0, steps=10)
    before = numbers(state)
    batch = data.train_x[: recipe.batch_size], data.train_y[: recipe.batch_size]
    after, _ = jax.jit(functools.partial(train_step, program))(state, *batch)
    return before, {n: v - before[n] for n, v in numbers(after).items()}


def _at_rate(ats):
    """The same places with intervals at the rate of the weights."""
    return tuple(
        dataclasses.replace(at, setting=at.setting and dataclasses.replace(at.setting, rate=1.0))
        for at in ats
    )
