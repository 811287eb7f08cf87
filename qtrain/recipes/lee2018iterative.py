"""Retraining-based iterative weight quantization.

    python scripts/train.py lee2018iterative                          # 1 bit, once an epoch
    python scripts/train.py lee2018iterative --bits 2 --method refined --period 31
    python scripts/train.py lee2018iterative --prune 0.7
    python scripts/train.py lee2018iterative --task text --period 490

Trained weights are quantized, trained on in full precision by the ordinary loss and optimizer, and
quantized again, every `period` steps and at the end: no latent weights, no straight-through
estimator [lee2018iterative]. An evaluation shows the weights before and after a distortion.

Deviations:
(1) Only the abstracts of the paper and of its successor could be read. The period in batches is the
    successor's [lee2018deeptwist]; quantizer, one scale per output channel, pruning by magnitude
    before the first distortion, lengths and rates are ours.
(2) The optimizer's memory is kept at each distortion. The rate falls by a cosine over the whole
    run, inside of cycles too.
(3) Every matrix is quantized, the first and the last too; biases stay in float32.
(4) The defaults are a small CNN on embedded images; the paper's LSTM on the Penn treebank is
    replaced by a character model on embedded text.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from qtrain.quantize.binary_codes import BinaryCodes
from qtrain.recipes.base import FIRST, LAST, Adam, At, Recipe
from qtrain.zoo.iterative import Iterative

EPOCHS = {"images": 12, "text": 6}  # of retraining
STARTS = {
    "images": Recipe(key="float32", model="small_cnn", epochs=6, optimizer=Adam(lr=3e-3)),
    "text": Recipe(
        key="float32", model="char_lstm", data="sotu-1m", batch_size=32, epochs=4,
        optimizer=Adam(lr=2e-2),
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How weights are quantized, and when."""

    task: Literal["images", "text"] = "images"
    """A small CNN on fashion-mnist-8k, or the LSTM character model on sotu-1m, whose epochs have
    490 steps."""
    bits: int = 1
    """Codes for each weight, 1 to 8."""
    method: Literal["greedy", "refined", "alternating"] = "alternating"
    """How the codes and their scales are found; for one bit all are the same. A second pass of
    greedy ones moves the weights again: see the figure `cycles`."""
    per: Literal["channel", "layer"] = "channel"
    """One set of scales for each output channel, or one for a layer."""
    period: int = 62
    """Steps from one distortion to the next; 0: only once, after the training. Here 62 steps are an
    epoch."""
    prune: float = 0.0
    """Share of each layer's weights, the smallest ones at the start, that becomes and stays 0."""
    straight_through: bool = False
    """For comparison: quantize full-precision weights in every forward pass, and pass the gradient
    straight through."""
    ends: bool = True
    """Quantize the first and the last layer too."""


def _table() -> dict[str, Options]:
    found = {}
    for bits in (1, 2, 3, 4):
        found[f"{bits} bits"] = Options(bits=bits)
        found[f"{bits} bits, once"] = Options(bits=bits, period=0)
        found[f"{bits} bits, straight-through"] = Options(bits=bits, straight_through=True)
    for period in (1, 8, 31, 124, 248):
        found[f"period {period}"] = Options(period=period)
    for prune in (0.5, 0.7, 0.9):
        found[f"pruned {prune:g}"] = Options(prune=prune)
    found["2 bits, greedy"] = Options(bits=2, method="greedy")
    for bits in (1, 2, 3):
        found[f"text, {bits} bits"] = Options(task="text", bits=bits, period=490)
        found[f"text, {bits} bits, once"] = Options(task="text", bits=bits, period=0)
    found["text, 1 bits, straight-through"] = Options(task="text", straight_through=True)
    found["text, pruned 0.7"] = Options(task="text", prune=0.7, period=490)
    return found


ABLATIONS = _table()  # [lee2018iterative: 1 to 4 bits, with pruning], periods; for sweep.py


def recipe(options: Options = Options()) -> Recipe:
    """Retraining of trained weights."""
    setting = _setting(options)
    whole = () if options.ends else (At(FIRST, None), At(LAST, None))
    if options.task not in STARTS:
        raise ValueError(f"unknown task {options.task!r}: {' or '.join(STARTS)}")
    start = STARTS[options.task]
    return dataclasses.replace(
        start,
        key="lee2018iterative",
        start=start,
        epochs=EPOCHS[options.task],
        weight=(*whole, At(".*", setting)),
    )


def _setting(options: Options) -> Any:
    quantizer = BinaryCodes(bits=options.bits, rule=options.method, per=options.per)
    if not options.straight_through:
        return Iterative(quantizer=quantizer, period=options.period, prune=options.prune)
    for name in ("period", "prune"):
        if (value := getattr(options, name)) != getattr(Options(), name):
            raise ValueError(f"{name} {value} does nothing with --straight-through true")
    return quantizer
