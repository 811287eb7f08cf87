"""The survey's comparison, ours: accuracy lost to float32 by each method, beside published losses.

Black: our small CNN with batch normalization on fashion-mnist-8k, 6 epochs in all, points single
seeds, bar their mean; a difference of two runs scatters by about half a point. Grey: ResNet-18 on
ImageNet, against the float32 accuracy of the same source, recalled and not verified; methods
without a mark gave none, or their float32 accuracy is not known. This is not a table of the survey
itself, whose text could not be had. The two tasks are not comparable: ours is too small to lose
much.
Rows: python scripts/sweep.py guo2018survey
"""

import numpy as np

from paper_figs import style, sweeps
from paper_figs.guo2018survey import _zoo

PAPER = _zoo.PAPER
WIDTH = "text"
TALL = 0.9
INPUTS = ("ablations",)


def data(quick: bool) -> dict:
    """Points lost by variant and seed; the published ones; what is missing."""
    ours, plain, missing = _zoo.measured()
    mean = float(np.mean(list(plain.values()))) if plain else float("nan")
    lost = {n: {s: mean - v for s, v in by_seed.items()} for n, by_seed in ours.items()}
    published = {n: full - top for n, (top, full) in _zoo.PUBLISHED.items() if full}
    return {"lost": lost, "published": published, "missing": missing}


def draw(d: dict, ax) -> None:
    """One column a variant, by method and width."""
    names = list(d["lost"])
    look = {"marker": "D", "linestyle": "none", "color": "#888888", "markerfacecolor": "none",
            "markersize": 3.5}  # fmt: skip
    for place, name in enumerate(names):
        values = list(d["lost"][name].values())
        if values:
            ax.bar(place, np.mean(values), width=0.7, color="#BBBBBB", zorder=1)
            ax.plot([place] * len(values), values, "k.", markersize=2.5, zorder=3)
        if name in d["published"]:
            ax.plot(place, min(d["published"][name], 12), **look)
    ax.plot([], [], **look, label="published, ResNet-18 on ImageNet (recalled)")
    ax.axhline(0, color="black", linewidth=0.6)
    ax.set_xticks(range(len(names)), names, rotation=90, fontsize=4.5)
    ax.set(ylabel="accuracy lost (points; above 12: at 12)", xlim=(-1, len(names)), ylim=(-2, 12.5))
    ax.legend(loc="upper right")
    sweeps.note(ax, d["missing"], x=0, y=1)


if __name__ == "__main__":
    style.main(__name__)
