"""Training deep neural networks with 8-bit floating point numbers.

    python scripts/train.py wang2018fp8

Operands of all three GEMMs in FP8 = (1,5,2); every addition inside them rounded to FP16 = (1,6,9)
in chunks of 64; a constant loss scale of 1000; image and last layer in FP16; weight update in FP16
with stochastic rounding [wang2018fp8, Sec. 3]. "fp16" below is the paper's (1,6,9), not binary16.

Deviations:
(1) Exponent bias and special codes are not given in what we could read: IEEE-like bias, subnormals,
    infinities and NaNs are assumed. Other choices are format names, e.g. --operand e5m2finite.
(2) Bias vectors and normalization run in float32; only their update is in FP16.
(3) The paper trains its baselines' networks; the default here is a small CNN on embedded images,
    with a cosine schedule, shared by the recipe and its float32 baseline.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from qtrain.ops import Accumulator
from qtrain.ops.config import Rounding
from qtrain.quantize import Cast
from qtrain.recipes.base import (
    FIRST,
    LAST,
    Accumulators,
    At,
    Error,
    LossScale,
    Recipe,
    Update,
)

FP16 = "e6m9"  # [wang2018fp8, Sec. 3]
NONE = "none"  # on the command line: leave this place in float32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accumulate:
    """The running sums inside the forward, input-gradient and weight-gradient GEMMs."""

    fmt: str = FP16
    """Format of every partial sum; "none" leaves sums to float32 hardware order."""
    chunk: int | None = 64
    """Products per chunk; 1 (or None) is the plain sum that swamping hurts."""
    rounding: Rounding = "nearest"
    """How each addition is rounded."""
    intra: str | None = None
    """Format of the sums inside a chunk, where it differs from fmt."""
    product: str | None = None
    """Format that each product is rounded to before it is added; None keeps it exact."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class UpdateOptions:
    """The optimizer's three additions, its momentum and the master weights."""

    fmt: str = FP16
    """Format of weights, momentum and each addition; "none" keeps float32."""
    rounding: Literal["nearest", "stochastic"] = "stochastic"
    """Nearest loses updates smaller than half an ulp of the weight."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Each ingredient of the paper, so that an ablation is one flag."""

    operand: str = "e5m2"
    """FP8 format of weights, activations and errors in the GEMMs; "none" keeps float32."""
    accumulate: Accumulate = Accumulate()
    update: UpdateOptions = UpdateOptions()
    first_layer: str = "fp16"
    """Format of the image that enters the first layer: fp16, fp8 (= --operand), or any name."""
    last_layer: str = "fp16"
    """Format of the last layer's operands: fp16, fp8 (= --operand), or any name."""
    loss_scale: float | Literal["dynamic", "none"] = 1000.0
    """Constant factor on the loss; "dynamic": halved on overflow, doubled after a quiet time;
    "none": no factor, and a gradient that is not finite ends the run instead of being skipped."""


ABLATIONS = {  # [wang2018fp8, Figs. 1, 4, 5 and Tables 3, 4], for scripts/sweep.py
    "full": Options(),
    "no chunks": Options(accumulate=Accumulate(chunk=1)),
    "nearest update": Options(update=UpdateOptions(rounding="nearest")),
    "FP8 last layer": Options(last_layer="fp8"),
    "no loss scale": Options(loss_scale=1.0),
}


def recipe(options: Options = Options()) -> Recipe:
    """The paper's recipe, with the chosen ingredients changed."""
    named = {"fp16": FP16, "fp8": options.operand}
    body = _cast(options.operand)
    image = _cast(named.get(options.first_layer, options.first_layer))
    last = _cast(named.get(options.last_layer, options.last_layer))
    operands = (At(LAST, last), At(".*", body))
    return Recipe(
        key="wang2018fp8",
        weight=operands,
        activation=(At(LAST, last), At(FIRST, image), At(".*", body)),
        error=tuple(At(at.path, Error(dgrad=at.setting, wgrad=at.setting)) for at in operands),
        accumulator=_accumulator(options.accumulate),
        update=_update(options.update),
        loss_scale=_loss_scale(options.loss_scale),
    )


def _cast(fmt: str) -> Cast | None:
    return None if fmt == NONE else Cast(fmt)


def _accumulator(options: Accumulate) -> tuple[At, ...] | None:
    if options.fmt == NONE:
        return None
    accum = Accumulator(**dataclasses.asdict(options))
    return (At(".*", Accumulators(forward=accum, input_grad=accum, weight_grad=accum)),)


def _update(options: UpdateOptions) -> Update | None:
    return None if options.fmt == NONE else Update(fmt=options.fmt, rounding=options.rounding)


def _loss_scale(scale: float | str) -> LossScale | None:
    if scale == NONE:
        return None
    if scale == "dynamic":
        return LossScale(init=2.0**16, dynamic=True)
    if not isinstance(scale, int | float) or not 0 < scale < float("inf"):
        raise ValueError(
            f"loss_scale must be a positive number, 'dynamic' or 'none', not {scale!r}"
        )
    return LossScale(init=float(scale))
