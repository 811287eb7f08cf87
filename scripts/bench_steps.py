"""The training steps that `bench.py` times: whole recipes, their parts, and qwix's.

All methods of the zoo are timed, each in its default width. The 8-bit step is taken apart by
operand role, so that what its quantizers add to the float32 step can be read off. Beside it qwix
does the same job on the same model, optimizer and batch: weights, activations and errors in int8,
one symmetric range per tensor, rounded to nearest.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from qtrain.nn import RoundingKey
from qtrain.quantize import Cast, Scale
from qtrain.recipes import banner2018scalable, guo2018survey, wang2018fp8
from qtrain.recipes.base import At, Error, Recipe, baseline
from qtrain.train import mesh
from qtrain.train.data import Dataset, load, normalize
from qtrain.train.state import Program, State, create
from qtrain.train.step import train_step
from qtrain.zoo import registry


class Pair(NamedTuple):
    """Two training steps, functions of the same arguments."""

    name: str
    plain: Callable
    emulated: Callable
    args: Any  # state of the plain run, state of the other, images, labels; or what makes them
    examples: int  # in the batch


def recipes() -> dict[str, Recipe]:
    """What is timed against float32, by name."""
    options = banner2018scalable.Options
    bits = {"weights": "weight_bits", "activations": "activation_bits", "errors": "error_bits"}
    none: dict[str, Any] = dict.fromkeys(bits.values(), "none")
    chosen = {
        "banner2018scalable": options(),
        "8-bit operands": options(norm="batch"),
        **{f"8-bit {r}": options(norm="batch", **{**none, f: 8}) for r, f in bits.items()},
        "range norm in float32": options(**none, norm_bits="none"),
    }
    banner = {name: banner2018scalable.recipe(o) for name, o in chosen.items()}
    return {"wang2018fp8": wang2018fp8.recipe(), **banner}


def int8() -> Recipe:
    """Every operand in -127..127, its largest magnitude at 127; both GEMMs see one error."""
    quantizer = Cast("int8sym", scale=Scale(method="absmax"))
    everywhere = (At(".*", quantizer),)
    error = (At(".*", Error(dgrad=quantizer, wgrad=quantizer)),)
    model = baseline(banner2018scalable.recipe())
    return dataclasses.replace(
        model, key="int8", weight=everywhere, activation=everywhere, error=error
    )


def pairs() -> Iterator[Pair]:
    """Each recipe against float32, then int8 against qwix if that is installed."""
    dataset = load(wang2018fp8.recipe().data)
    floats: dict[str, tuple[Program, State]] = {}
    for name, recipe in recipes().items():
        if recipe.model not in floats:
            floats[recipe.model] = _create(baseline(recipe), dataset)
        yield _pair(name, recipe, dataset, floats[recipe.model], _create(recipe, dataset))
    if importlib.util.find_spec("qwix"):
        recipe = int8()
        program, state = floats[recipe.model]
        theirs = with_qwix(program, state, jnp.asarray(dataset.train_x[: recipe.batch_size]))
        ours = _create(recipe, dataset)
        yield _pair("int8 against qwix", recipe, dataset, (theirs, state), ours)


def zoo_pairs() -> Iterator[Pair]:
    """Each method of the zoo against float32; made when it is timed."""
    dataset = load(guo2018survey.recipe().data)
    plain = functools.cache(lambda signed: _create(_unwidened(signed), dataset))
    for name in registry.METHODS:
        recipe = dataclasses.replace(
            guo2018survey.recipe(guo2018survey.Options(method=name)), start=None, widen=1
        )
        yield _lazy(f"zoo {name}", recipe, dataset, functools.partial(plain, recipe.signed))


def _unwidened(signed: bool) -> Recipe:
    return dataclasses.replace(baseline(guo2018survey.recipe()), signed=signed)


def _lazy(name: str, recipe: Recipe, dataset: Dataset, plain: Callable) -> Pair:
    """`_pair`, built at the first call of any of its functions."""
    build = functools.cache(lambda: _pair(name, recipe, dataset, plain(), _create(recipe, dataset)))
    return Pair(
        f"training step, {recipe.model}, batch {recipe.batch_size}, {name}",
        lambda *args: build().plain(*args),
        lambda *args: build().emulated(*args),
        lambda: build().args,
        recipe.batch_size,
    )


def with_qwix(program: Program, state: State, images: jax.Array) -> Program:
    """The program with its model quantized by qwix: int8 products summed in int32."""
    import qwix

    rule = qwix.QtRule(
        module_path=".*", weight_qtype="int8", act_qtype="int8", bwd_qtype="int8",
        disable_channelwise_axes=True,
    )  # fmt: skip
    model = nnx.merge(program.train_graph, state.params, program.hooks, state.stats, copy=True)
    inputs = normalize(images, program.mean, program.std)
    model = qwix.quantize_model(model, qwix.QtProvider([rule]), inputs)
    graph = nnx.split(model, nnx.Param, RoundingKey, ...)[0]
    return dataclasses.replace(program, train_graph=graph)


def _create(recipe: Recipe, dataset: Dataset) -> tuple[Program, State]:
    workers = None if recipe.wire is None else mesh.create(1, recipe.batch_size)
    return create(recipe, dataset, seed=0, steps=496, mesh=workers)


def _pair(name: str, recipe: Recipe, dataset: Dataset, plain, emulated) -> Pair:
    """The two steps on the first batch of the data set."""
    (left, left_state), (right, right_state) = plain, emulated
    n = recipe.batch_size
    images, labels = jnp.asarray(dataset.train_x[:n]), jnp.asarray(dataset.train_y[:n])
    return Pair(
        f"training step, {recipe.model}, batch {n}, {name}",
        lambda state, _, x, y: train_step(left, state, x, y),
        lambda _, state, x, y: train_step(right, state, x, y),
        (left_state, right_state, images, labels), n,
    )  # fmt: skip
