"""The recipe and its ablations on fashion-mnist-8k: test accuracy over training, and at its end.

Small CNN, 6 epochs, three seeds; lines are means, points single runs. Each variant changes one
ingredient: sums without chunks, nearest instead of stochastic rounding in the update, FP8 operands
in the last layer, no loss scale [wang2018fp8, Figs. 1, 4, 5 and Tables 3, 4].
Rows: python scripts/sweep.py wang2018fp8
"""

import numpy as np

from paper_figs import style

PAPER = "wang2018fp8"
WIDTH = "text"
PANELS = 2
INPUTS = ("ablations",)


def data(quick: bool) -> dict:
    """Accuracies in percent by variant: (seeds, epochs) curves and their steps."""
    found: dict[str, dict] = {}
    for row in style.rows(PAPER, "ablations"):
        variant = found.setdefault(row["variant"], {"curves": {}, "steps": []})
        variant["steps"] = [step for step, _ in row["curve"]]
        variant["curves"][str(row["seed"])] = [100 * accuracy for _, accuracy in row["curve"]]
    return found


def draw(d: dict, axes) -> None:
    """Curves on the left, the last point of each run on the right."""
    curves, ends = axes
    for name, variant in d.items():
        runs = np.array(list(variant["curves"].values()))
        curves.plot(variant["steps"], runs.mean(0), **style.LINE[name])
    curves.set(xlabel="step", ylabel="test accuracy (%)")
    curves.legend()
    for row, (name, variant) in enumerate(d.items()):
        last = [run[-1] for run in variant["curves"].values()]
        ends.plot(last, [row] * len(last), "o", color=style.LINE[name]["color"], alpha=0.7)
        ends.plot([np.mean(last)], [row], "|", color="#000000", markersize=9)
    ends.set(xlabel="final test accuracy (%)", yticks=range(len(d)), ylim=(len(d) - 0.5, -0.5))
    ends.set_yticklabels([style.LINE[name]["label"] for name in d])


if __name__ == "__main__":
    style.main(__name__)
