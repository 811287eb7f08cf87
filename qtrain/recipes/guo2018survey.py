"""A survey on methods and theories of quantized neural networks: any method of its zoo.

    python scripts/train.py guo2018survey --method twn               # ternary weights
    python scripts/train.py guo2018survey --method dorefa --bits 4   # and 4-bit activations
    python scripts/train.py guo2018survey --method inq --bits 5      # from trained weights
    python -m qtrain.zoo.registry                                    # all methods, by the taxonomy

Every method trains the same model, on the same data, for as many epochs in all. One that begins
with trained weights has half of them in float32 before it. The first and the last layer stay in
float32, as nearly all works of the survey leave them.

Deviations: models, data, optimizer and schedule are one for all methods, not those of each paper;
what else is recalled or unknown stands beside each method (`Method.uncertain`).
"""

from __future__ import annotations

import dataclasses
from typing import Any

from qtrain.recipes.base import FIRST, LAST, Adam, At, Error, Recipe
from qtrain.zoo import registry
from qtrain.zoo.method import Method

MODEL, EPOCHS = "small_cnn_bn", 6
SCRATCH = Adam(lr=3e-3)
FINE_TUNE = Adam(lr=1e-3)  # of trained weights
COMMON = (8, 4, 2, 1)  # widths of weights that the table compares


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Which method, in how many bits."""

    method: str = "twn"
    """Its name; `python -m qtrain.zoo.registry` lists all."""
    bits: int | None = None
    """Of the weights; default: the method's first choice."""
    activation_bits: int | None = None
    """Of the activations; default: as many as the weights have, where that is a choice, or the
    method's first."""
    ends: bool = False
    """Quantize the first and the last layer too."""


def recipe(options: Options = Options()) -> Recipe:
    """One method's run, and before it one in float32 if it begins with trained weights."""
    method = registry.get(options.method)
    places = method.settings(options.bits, _activation_bits(method, options))
    start = None
    if method.start == "pretrained":
        start = Recipe(
            key="float32", model=MODEL, signed=method.signed, epochs=EPOCHS // 2, optimizer=SCRATCH
        )
    return Recipe(
        key="guo2018survey", model=MODEL, widen=method.widen, signed=method.signed,
        start=start,
        epochs=EPOCHS if start is None else EPOCHS - start.epochs,
        optimizer=SCRATCH if start is None else FINE_TUNE,
        weight=_layers(places.get("weight"), options),
        activation=_layers(places.get("activation"), options),
        error=_layers(_error(places.get("error")), options),
        wire=places.get("wire"),
    )  # fmt: skip


def _activation_bits(method: Method, options: Options) -> int | None:
    if options.activation_bits is not None or len(method.weight_bits) < 2:
        return options.activation_bits
    bits = options.bits or method.weight_bits[0]
    return bits if bits in method.activation_bits else None


def _error(quantizer: Any) -> Error | None:
    return None if quantizer is None else Error(dgrad=quantizer, wgrad=quantizer)


def _layers(setting: Any, options: Options) -> tuple[At, ...] | None:
    if setting is None:
        return None
    whole = () if options.ends else (At(FIRST, None), At(LAST, None))
    return (*whole, At(".*", setting))


def label(method: Method, options: Options) -> str:
    """Name of a run in tables: "dorefa 4/4", bits of weights and of activations."""
    weights = options.bits or (method.weight_bits[0] if method.weight_bits else 32)
    activations = _activation_bits(method, options)
    if activations is None:
        activations = method.activation_bits[0] if method.activation_bits else 32
    return f"{method.name} {weights}/{activations}"


def _table() -> dict[str, Options]:
    """Each method in the common widths that it has, or its own; in one, if it rounds errors.

    A run that another name has already is left out: QNN of one bit is BNN.
    """
    found: dict[str, Options] = {}
    runs = set()
    for method in registry.METHODS.values():
        own = method.weight_bits[:1]
        common = [b for b in COMMON if b in method.weight_bits and "error" not in method.targets]
        for bits in common or own or (None,):
            options = Options(method=method.name, bits=bits)
            if recipe(options) not in runs:
                runs.add(recipe(options))
                found[label(method, options)] = options
    return found


ABLATIONS = _table()  # for sweep.py
