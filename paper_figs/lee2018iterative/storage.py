"""Test accuracy against stored bits for each weight, with and without pruning.

Small CNN on fashion-mnist-8k, means over seeds: 1 to 4 bits, quantized in each of 12 epochs of
retraining, once after them, or in every forward pass; one bit after half, 70 % and 90 % of each
layer was pruned. Bits are those of the codes, of the 32-bit scales of each output channel, and of
which weights survive: a bit for each (o), or its entropy (x), the least that any index needs
[derived]. With a bit for each, one pruned bit takes more than a dense one, however much is pruned.
Rows: python scripts/sweep.py lee2018iterative
"""

import math

import numpy as np
from flax import nnx

from paper_figs import style, sweeps
from qtrain import models
from qtrain.recipes import lee2018iterative
from theory import stored_bits

PAPER = "lee2018iterative"
WIDTH = "column"
TALL = 1.3
INPUTS = ("ablations",)
BITS = (1, 2, 3, 4)
SHAPE, CLASSES = (28, 28, 1), 10
DENSE = {
    "": ("each epoch", style.LINE["recipe"]["color"], "-"),
    ", once": ("once", "#D55E00", "-."),
    ", straight-through": ("straight-through", "#009E73", "--"),
}
PRUNED = {prune: f"pruned {prune:g}" for prune in (0.5, 0.7, 0.9)}


def data(quick: bool) -> dict:
    """Points (bits per weight, percent) by line; what is missing."""
    names = {kind: [f"{bits} bits{kind}" for bits in BITS] for kind in DENSE}
    wanted = [*(n for of in names.values() for n in of), *PRUNED.values(), "float32"]
    found = {name: sweeps.percent(rows) for name, rows in sweeps.runs(PAPER, wanted).items()}
    mean = {name: float(np.mean(list(p.values()))) for name, p in found.items() if p}
    shapes = kernels()
    lines = {
        kind: [(stored(shapes, bits), mean[name]) for bits, name in zip(BITS, of, strict=True)
               if name in mean]
        for kind, of in names.items()
    }  # fmt: skip
    pruned = {
        index: [(stored(shapes, 1, prune, index), mean[name]) for prune, name in PRUNED.items()
                if name in mean]
        for index in ("mask", "entropy")
    }  # fmt: skip
    return {"lines": lines, "pruned": pruned, "float32": mean.get("float32"),
            "missing": sweeps.missing(sweeps.runs(PAPER, wanted))}  # fmt: skip


def kernels() -> list[tuple[int, ...]]:
    """Shapes of the weights of the recipe's model."""
    name = lee2018iterative.recipe().model
    model = models.create(name, num_classes=CLASSES, in_shape=SHAPE, rngs=nnx.Rngs(0))
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return [v[...].shape for path, v in flat if path[-1] == "kernel"]


def stored(shapes, bits: int, prune: float = 0.0, index: stored_bits.Index = "mask") -> float:
    """Bits for each weight, over all layers; a scale for each output channel and code."""
    sizes = [math.prod(shape) for shape in shapes]
    each = [
        n * stored_bits.bits_per_weight(bits, pruned=prune, index=index, group=n / shape[-1])
        for n, shape in zip(sizes, shapes, strict=True)
    ]
    return sum(each) / sum(sizes)


def draw(d: dict, ax) -> None:
    """Lines of dense weights, points of pruned ones."""
    for kind, points in d["lines"].items():
        label, color, dash = DENSE[kind]
        if points:
            ax.plot(*zip(*points, strict=True), ".", color=color, linestyle=dash, label=label)
    for index, marker in (("mask", "o"), ("entropy", "x")):
        if points := d["pruned"][index]:
            ax.plot(*zip(*points, strict=True), marker, color="#CC79A7", markerfacecolor="none",
                    linestyle=":", linewidth=0.7, label=f"1 bit, pruned, {index}")  # fmt: skip
    if d["float32"] is not None:
        ax.axhline(d["float32"], color="#000000", linewidth=0.8, label="float32")
    ax.set(xlabel="stored bits per weight", ylabel="test accuracy (%)")
    ax.legend(loc="lower right")
    sweeps.note(ax, d["missing"], x=0.02, y=0)


if __name__ == "__main__":
    style.main(__name__)
