"""Test accuracy of every method against the bits of its weights.

Small CNN with batch normalization on fashion-mnist-8k, 6 epochs in all (3 in float32 before the
methods that begin with trained weights), first and last layer in float32; points are means of three
seeds, bars their range. Left: weights alone are quantized; right: activations too, in as many bits
where the method has them. Colour: the technique, after the survey's taxonomy. Grey: float32, mean
and range. What is below 82 % is drawn there: residual quantization without training (rvq) of one
bit. Widened WRPN has four times the operations of the others. The bits of product and residual
quantization (pq, rvq) are those of the codes alone: on layers this small, codebooks add about 8.
Rows: python scripts/sweep.py guo2018survey
"""

import numpy as np

from paper_figs import style, sweeps
from paper_figs.guo2018survey import _zoo

PAPER = _zoo.PAPER
WIDTH = "text"
PANELS = 2
TALL = 1.6
INPUTS = ("ablations",)
FLOOR = 82.0  # percent


def data(quick: bool) -> dict:
    """Percent by variant and seed; float32; what is missing."""
    ours, plain, missing = _zoo.measured()
    return {"ours": ours, "float32": plain, "missing": missing}


def draw(d: dict, axes) -> None:
    """One point a variant, in columns by width, spread by accuracy so that names do not meet."""
    for ax, narrow in zip(axes, (False, True), strict=True):
        names = [n for n, by_seed in d["ours"].items()
                 if by_seed and (_zoo.bits(n)[1] < 32) == narrow]  # fmt: skip
        for width in (1, 2, 4, 8, 16, 32):
            _column(ax, d["ours"], [n for n in names if _zoo.bits(n)[0] == width], width)
        if d["float32"]:
            values = list(d["float32"].values())
            ax.axhspan(min(values), max(values), color="#DDDDDD", zorder=0)
            ax.axhline(np.mean(values), color="#888888", zorder=0)
        ticks = (1, 2, 4, 8, 16) if narrow else (1, 2, 4, 8, 32)
        ax.set(xscale="log", xticks=ticks, xticklabels=map(str, ticks), xlim=(0.7, 1.5 * ticks[-1]),
               xlabel="bits of the weights", ylabel="test accuracy (%)")  # fmt: skip
        ax.minorticks_off()
        ax.set_ylim(FLOOR, 92.5)
    axes[0].set_title("weights alone; at 32, gradients that workers exchange")
    axes[1].set_title("weights and activations")
    for technique, color in _zoo.COLORS.items():
        axes[0].plot([], [], "o", color=color, label=technique)
    axes[0].legend(loc="lower right")
    sweeps.note(axes[1], d["missing"], x=1, y=0)


def _column(ax, ours: dict, names: list[str], width: int) -> None:
    """The variants of one width, from the worst to the best, side by side."""
    ordered = sorted(names, key=lambda n: np.mean(list(ours[n].values())))
    for place, name in enumerate(ordered):
        values = [max(v, FLOOR) for v in ours[name].values()]
        x = width * 2 ** (0.75 * (place / max(len(ordered) - 1, 1) - 0.5))
        color = _zoo.COLORS[_zoo.method(name).technique]
        ax.plot([x, x], [min(values), max(values)], color=color, linewidth=0.6)
        ax.plot(x, np.mean(values), "o", color=color)
        ax.annotate(_short(name), (x, max(values)), rotation=90, fontsize=4, ha="center",
                    va="bottom", xytext=(0, 2), textcoords="offset points")  # fmt: skip


def _short(name: str) -> str:
    """The name, with its activations where they are not as wide as the weights."""
    weights, activations = _zoo.bits(name)
    method = name.split()[0].replace("_", " ")
    return method if activations in (32, weights) else f"{method} A{activations}"


if __name__ == "__main__":
    style.main(__name__)
