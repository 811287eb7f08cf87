"""Weights before a distortion: at the first, at some cycles, at the last.

Hidden layer of the small CNN, of `cycles`; each weight in units of the mean |w| of its output
channel, which for one bit is its code's value, 1 (grey). Trained weights have one peak. After a few
cycles those of one bit lie in two clusters, those of two bits in up to four, since a cycle moves
most weights by less than half the distance between values. Densities on a log scale.
Rows: python -m paper_figs.lee2018iterative._record
"""

import numpy as np

from paper_figs import style
from paper_figs.lee2018iterative import _record

PAPER = "lee2018iterative"
WIDTH = "text"
PANELS = 3
TALL = 1.4
INPUTS = ("cycles",)
LAYER, RUNS, MIDDLE = "hidden", ("1 bit", "2 bits", "4 bits"), 3


def data(quick: bool) -> dict:
    """Densities by cycle and run: the first, the MIDDLE one and the last."""
    rows = [row for row in style.rows(PAPER, "cycles") if row["run"] in RUNS]
    last = max(row["cycle"] for row in rows)
    density: dict[int, dict] = {c: {} for c in (0, min(MIDDLE, last), last)}
    for row in rows:
        if row["cycle"] in density:
            layer = row["layers"][LAYER]
            counts = np.array(layer["counts"])
            density[row["cycle"]][row["run"]] = counts / layer["n"] / _record.WIDTH
    return {"density": density, "edges": _record.edges()}


def draw(d: dict, axes) -> None:
    """A panel per cycle."""
    colors = style.shades(RUNS)
    for ax, (cycle, found) in zip(axes, d["density"].items(), strict=False):
        for at in (-1, 1):
            ax.axvline(at, color="#bbbbbb", linewidth=0.7, zorder=0)
        for run, density in found.items():
            ax.stairs(density, d["edges"], color=colors[run], linewidth=0.8, label=run)
        reach = _record.REACH
        ax.set(yscale="log", xlim=(-reach, reach), ylim=(1e-4, 12), title=f"cycle {cycle}")
        ax.set_xlabel("w / mean |w| of its channel")
    axes[0].set_ylabel("density")
    axes[0].legend(loc="upper right")


if __name__ == "__main__":
    style.main(__name__)
