"""Intervals of weights and activations while they are learned, and the weights beneath them.

The default recipe, seed 0, from the end of its float32 run on. Left: intervals of both quantized
layers' weights (shaded), and densities of |w| at the end of each stage (thin, sideways). Middle:
those of their inputs. Right: the shares of weights that are pruned to 0, and that are clipped.
Rows: python -m paper_figs.jung2019qil._record
"""

import numpy as np

from paper_figs import style
from paper_figs.jung2019qil._record import FLOAT32

PAPER = "jung2019qil"
WIDTH = "text"
PANELS = 3
TALL = 1.5
INPUTS = ("intervals",)
TITLE = {"conv2": "convolution", "hidden": "dense layer"}


def data(quick: bool) -> dict:
    """By layer: ends of the intervals by role and stage, pruned shares, histograms."""
    del quick
    layers: dict[str, dict] = {}
    for row in style.rows(PAPER, "intervals"):
        of_layer = layers.setdefault(row["layer"], {"weight": {}, "activation": {}})
        keys = ("step", "low", "high", "gamma", "pruned", "clipped", "counts", "largest")
        of_layer[row["role"]][row["bits"]] = {k: row[k] for k in keys if k in row}
    return {"layers": layers}


def draw(d: dict, axes) -> None:
    """Intervals of both layers' weights, those of their inputs, and pruned shares."""
    weights, activations, pruned = axes
    colors = style.shades(d["layers"])
    for layer, found in d["layers"].items():
        color = colors[layer]
        for ax, role in ((weights, "weight"), (activations, "activation")):
            for bits, stage in found[role].items():
                if bits != FLOAT32:
                    label = TITLE[layer] if bits == 4 else None
                    ax.fill_between(stage["step"], stage["low"], stage["high"], color=color,
                                    alpha=0.25, linewidth=0, label=label)  # fmt: skip
                    for end in ("low", "high"):
                        ax.plot(stage["step"], stage[end], color=color, linewidth=0.8)
        _histograms(weights, found["weight"], color)
        for bits, stage in found["weight"].items():
            if bits != FLOAT32:
                pruned.plot(stage["step"], 100 * np.array(stage["pruned"]), color=color,
                            label=f"{TITLE[layer]}, to 0" if bits == 4 else None)  # fmt: skip
                pruned.plot(stage["step"], 100 * np.array(stage["clipped"]), ":", color=color,
                            label="clipped" if bits == 4 else None)  # fmt: skip
    for ax, what in zip(axes, ("|w|", "activation", "share of weights (%)"), strict=True):
        _stages(ax, d)
        ax.set(xlabel="step", ylabel=what)
        ax.set_ylim(bottom=0)
        ax.legend(loc="upper left", fontsize=5.5)


def _histograms(ax, stages: dict, color) -> None:
    """The densities of |w| at the end of each stage, sideways, to the left of where it ends."""
    ends = [stage["step"][-1] for stage in stages.values() if stage["step"]]
    width = ends[0] - next(s["step"][0] for s in stages.values() if s["step"])
    for end, stage in zip(ends, (s for s in stages.values() if s["step"]), strict=True):
        counts = np.array(stage["counts"])
        middle = (np.arange(len(counts)) + 0.5) * stage["largest"] / len(counts)
        ax.plot(end - 0.8 * width * counts / counts.max(), middle, color=color, linewidth=0.5)


def _stages(ax, d: dict) -> None:
    """Lines where a stage begins, and its bits."""
    stages = next(iter(d["layers"].values()))["weight"]
    for bits, stage in stages.items():
        if bits != FLOAT32:
            ax.axvline(stage["step"][0], color="#888888", linewidth=0.5, zorder=0)
            ax.annotate(f"{bits} bits", (np.mean(stage["step"]), 0), ha="center", va="bottom",
                        xycoords=("data", "axes fraction"), fontsize=5.5,
                        color="#888888")  # fmt: skip


if __name__ == "__main__":
    style.main(__name__)
