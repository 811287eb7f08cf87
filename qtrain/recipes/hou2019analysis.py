"""Analysis of quantized models.

    python scripts/train.py hou2019analysis                      # LAQ3 weights, SQ3 gradients
    python scripts/train.py hou2019analysis --weights laq2 --gradients sq2 --clip 3 --workers 4
    python scripts/train.py hou2019analysis --weights fp --gradients fp

Weights are stored in few bits by loss-aware quantization: the full-precision ones live in the
optimizer, the gradient is taken at the quantized ones. Workers quantize their gradients
stochastically and send each other nothing else [hou2019analysis, Sec. 2].

Deviations:
(1) Levels of m bits are those of the predecessor's code: j / (2^(m-1) - 1). Which rule the paper
    uses for the scale above two bits is not known to us; the default is least squares.
(2) The paper's server averages gradients and sends quantized weights; here each worker gathers
    all gradients and does the server's work itself, as in its all-reduce remark.
(3) Biases are neither quantized nor left out of the exchange. Scales and clipping are per tensor.
(4) The default is Adam on a small CNN with embedded images, with a cosine schedule, at a rate of
    3e-3. At 1e-3 (short_steps.jsonl) SQ2 clipped at 3 sigma loses 1.8 points, here 0.5: Adam turns
    the larger norm of quantized gradients into shorter steps.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

from qtrain.optim import LossAware
from qtrain.recipes.base import FIRST, LAST, Adam, At, Recipe
from qtrain.wire import Stochastic


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Each ingredient of the paper, so that an ablation is one flag."""

    weights: str = "laq3"
    """fp, lab (1 bit), or laq2, laq3, ... (2 bits, 3 bits, ...)."""
    gradients: str = "sq3"
    """fp, or sq2, sq3, ... (2 bits, 3 bits, ...)."""
    clip: float | None = None
    """Cut gradients to so many standard deviations before they are quantized; None: do not."""
    rule: Literal["least_squares", "published", "optimum"] = "least_squares"
    """How a weight tensor's scale and codes are found."""
    ends: bool = True
    """Quantize the weights of the first and the last layer too; the paper's AlexNet does not."""


def _table() -> dict[str, Options]:
    weights = ("fp", "lab", "laq2", "laq3", "laq4")
    gradients = (("fp", None), ("sq2", None), ("sq2", 3.0), ("sq3", None), ("sq4", None))
    found = {
        f"{w} {g}" + (f" clip {clip:g}" if clip else ""): Options(weights=w, gradients=g, clip=clip)
        for w in weights
        for g, clip in gradients
    }
    for clip in (1.0, 2.0):
        found[f"laq2 sq2 clip {clip:g}"] = Options(weights="laq2", gradients="sq2", clip=clip)
    for w in ("laq3", "laq4"):
        found[f"{w} fp, published"] = Options(weights=w, gradients="fp", rule="published")
    return found


ABLATIONS = _table()  # [hou2019analysis, Sec. 4: weight bits x gradient bits, clip], for sweep.py


def recipe(options: Options = Options()) -> Recipe:
    """Quantized weights and gradients, or either."""
    return Recipe(
        key="hou2019analysis",
        optimizer=Adam(lr=3e-3),
        weight=_weights(options),
        wire=_gradients(options),
    )


def _weights(options: Options) -> tuple[At, ...] | None:
    narrow = {"rule": options.weights not in ("fp", "lab"), "ends": options.weights != "fp"}
    for name, holds in narrow.items():
        if not holds and (value := getattr(options, name)) != getattr(Options(), name):
            raise ValueError(f"{name} {value} does nothing for {options.weights} weights")
    if options.weights == "fp":
        return None
    bits = 1 if options.weights == "lab" else _bits("weights", options.weights, "laq")
    quantizer = LossAware(bits=bits, rule=options.rule)
    whole = () if options.ends else (At(FIRST, None), At(LAST, None))
    return (*whole, At(".*", quantizer))


def _gradients(options: Options) -> Stochastic | None:
    if options.gradients != "fp":
        bits = _bits("gradients", options.gradients, "sq")
        return Stochastic(bits=bits, clip=options.clip)
    if options.clip is not None:
        raise ValueError(
            f"clip {options.clip:g} needs quantized gradients: add --gradients sq3, or leave it out"
        )
    return None


def _bits(name: str, text: str, prefix: str) -> int:
    """The number in "laq3" or "sq2"."""
    match = re.fullmatch(rf"{prefix}([2-9]|[1-9]\d+)", text)
    if match is None:
        lab = ", lab" if prefix == "laq" else ""
        raise ValueError(f"unknown {name} {text!r}: fp{lab}, {prefix}2, {prefix}3, {prefix}4, ...")
    return int(match[1])
