"""Learning quantization intervals with the loss of the task (QIL).

    python scripts/train.py jung2019qil                          # 32 -> 4 -> 3 -> 2 bits
    python scripts/train.py jung2019qil --bits 2                 # at once
    python scripts/train.py jung2019qil --bits 4 --activation-bits none
    python scripts/train.py jung2019qil --bits 4 --trains quantizers

Each layer learns one interval for its weights and one for its input, beside the weights and by the
same loss: what is below is pruned, what is above is clipped. A run goes through stages, each of
which begins with the weights and intervals of the one before it; the first, with those of a
float32 run [jung2019qil]. The first and the last layer stay in float32.

Deviations:
(1) The paper could not be read. Equations are those of three public notes and codes that agree;
    that gamma is learned at 2 bits only, rates and the guards are those of one of the codes; first
    intervals are ours, see `zoo.qil`.
(2) The default is a small CNN on embedded images, with stages of 4 epochs and cosine schedules, and
    no stage at 5 bits. Intervals learn at a hundredth of the rate of the weights, and the weight
    decay is 1e-4, as in a public code. Its stages have a tenth of the float32 run's rate. In so few
    epochs that is too little: from float32 to 2 bits at once (seed 0, 4 epochs), 0.005, 0.02 and
    0.05 ended at 87.0, 88.5 and 88.6 % of 2000 images. Stages have 0.02.
(3) With --ends, the input of the first layer stays in float32: images have values below zero,
    which an interval would cut off. So it does with inputs of other layers, where no ReLU comes
    before them: the recurrent one of char_lstm needs --activation-bits none.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Literal

from qtrain.recipes.base import FIRST, LAST, At, Momentum, Recipe
from qtrain.zoo.qil import IntervalActivation, IntervalWeight

MODEL, EPOCHS = "small_cnn_bn", 4  # of the float32 run and of each stage
SCRATCH = Momentum(lr=0.05, weight_decay=1e-4)
STAGE = Momentum(lr=0.02, weight_decay=1e-4)
GAMMA_BITS = 2  # of weights that learn gamma, where nothing else is said


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Which stages, and what learns in them."""

    bits: str = "4,3,2"
    """Of the weights in each stage, e.g. 4,3,2 or 2."""
    activation_bits: str | None = None
    """Of the activations in each stage; default: as many; "none" keeps float32."""
    trains: Literal["all", "quantizers"] = "all"
    """Weights and intervals, or intervals alone."""
    ends: bool = False
    """Quantize the first and the last layer too."""
    learn_gamma: bool | None = None
    """Bend the intervals of weights by a learned gamma; default: in stages of 2 bits."""
    stage_epochs: int = EPOCHS
    """Epochs of each stage; --epochs changes those of the last one."""


ABLATIONS = {  # [jung2019qil: bits, direct and progressive, joint or not], for scripts/sweep.py
    "2": Options(),
    "3": Options(bits="4,3"),
    "4": Options(bits="4"),
    "direct 3": Options(bits="3", stage_epochs=2 * EPOCHS),
    "direct 2": Options(bits="2", stage_epochs=3 * EPOCHS),
    "quantizers 4": Options(bits="4", trains="quantizers"),
    "quantizers 2": Options(trains="quantizers"),
    "weights 2": Options(activation_bits="none"),
    "weights 3": Options(bits="4,3", activation_bits="none"),
    "weights 4": Options(bits="4", activation_bits="none"),
    "ends 2": Options(ends=True),
    "gamma 1, 2": Options(learn_gamma=False),
}


def recipe(options: Options = Options()) -> Recipe:
    """The last stage; `start` is the one before it, down to a run in float32.

    Raises:
      ValueError: bits that are no list of widths, or lists of two lengths.
    """
    weights = _widths("bits", options.bits)
    activations: list[int | None] = list(weights)
    if options.activation_bits == "none":
        activations = [None] * len(weights)
    elif options.activation_bits is not None:
        activations = list(_widths("activation_bits", options.activation_bits))
    if len(activations) != len(weights):
        raise ValueError(
            f"bits {options.bits} and activation_bits {options.activation_bits} have"
            f" {len(weights)} and {len(activations)} stages: give one width for each"
        )
    found = Recipe(key="float32", model=MODEL, epochs=EPOCHS, optimizer=SCRATCH)
    for bits, activation_bits in zip(weights, activations, strict=True):
        found = _stage(options, found, bits, activation_bits)
    return found


def _stage(options: Options, start: Recipe, bits: int, activation_bits: int | None) -> Recipe:
    gamma = bits == GAMMA_BITS if options.learn_gamma is None else options.learn_gamma
    weight = IntervalWeight(bits=bits, learn_gamma=gamma)
    activation = None
    if activation_bits is not None:
        activation = _layers(IntervalActivation(bits=activation_bits), FIRST, last=options.ends)
    return Recipe(
        key="jung2019qil", model=MODEL, start=start, epochs=options.stage_epochs,
        optimizer=STAGE, trains=options.trains,
        weight=_layers(weight, None if options.ends else FIRST, last=options.ends),
        activation=activation,
    )  # fmt: skip


def _layers(setting: Any, wide: str | None, *, last: bool) -> tuple[At, ...]:
    """`setting` everywhere but at `wide`, and in the last layer if it says so."""
    whole = [path for path in (wide, None if last else LAST) if path is not None]
    return (*(At(path, None) for path in whole), At(".*", setting))


def _widths(name: str, text: str) -> list[int]:
    """The numbers in "4,3,2"."""
    if re.fullmatch(r"\d+(,\d+)*", text) is None:
        raise ValueError(f"{name} {text!r} must be widths joined by commas, such as 4,3,2")
    return [int(part) for part in text.split(",")]
