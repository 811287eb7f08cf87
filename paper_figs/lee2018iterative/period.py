"""Test accuracy of one-bit weights by the period of their distortion.

Small CNN on fashion-mnist-8k: 6 epochs in float32, 12 of retraining, 744 steps in all; points are
seeds, the line their means. A distortion in every step rounds small updates away; one after the
training alone, at the right end ("once"), leaves the loss no chance to act on the codes: an optimum
in between is expected [derived]. Dashed: the same codes in every forward pass, with a
straight-through estimator. Black: float32 for as many epochs in all.
Rows: python scripts/sweep.py lee2018iterative
"""

import numpy as np

from paper_figs import style, sweeps

PAPER = "lee2018iterative"
WIDTH = "column"
TALL = 1.2
INPUTS = ("ablations",)
PERIODS = {1: "period 1", 8: "period 8", 31: "period 31", 62: "1 bits", 124: "period 124",
           248: "period 248", 744: "1 bits, once"}  # fmt: skip
LEVELS = {"float32": "float32", "1 bits, straight-through": "straight-through"}


def data(quick: bool) -> dict:
    """Percent by period and seed, and of what has no period."""
    found = sweeps.runs(PAPER, [*PERIODS.values(), *LEVELS])
    return {
        "periods": {n: list(sweeps.percent(found[name]).values()) for n, name in PERIODS.items()},
        "levels": {name: list(sweeps.percent(found[name]).values()) for name in LEVELS},
        "missing": sweeps.missing(found),
    }


def draw(d: dict, ax) -> None:
    """One curve."""
    there = {n: seeds for n, seeds in d["periods"].items() if seeds}
    look = style.LINE["recipe"]
    ax.plot(list(there), [np.mean(seeds) for seeds in there.values()], **look | {"label": None})
    for n, seeds in there.items():
        ax.plot([n] * len(seeds), seeds, ".", color=look["color"], alpha=0.6)
    dashes = {"float32": "-", "1 bits, straight-through": "--"}
    for name, seeds in d["levels"].items():
        if seeds:
            ax.axhline(np.mean(seeds), color="#000000", linewidth=0.8, linestyle=dashes[name],
                       label=LEVELS[name])  # fmt: skip
    ax.set_xscale("log", base=2)
    ax.set_xticks(list(PERIODS), [*map(str, list(PERIODS)[:-1]), "once"])
    ax.minorticks_off()
    ax.set(xlabel="period (steps)", ylabel="test accuracy (%), one bit")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="lower center")
    sweeps.note(ax, d["missing"], x=0.02, y=0)


if __name__ == "__main__":
    style.main(__name__)
