"""Test accuracy by the bits of weights, activations, errors and normalization: the knee.

Small CNN with range batch normalization on fashion-mnist-8k, 6 epochs; points are single seeds,
lines their means, crosses at 10 % (chance) runs that stopped at a NaN; right: the same, enlarged.
With bifurcation nothing is lost from 5 bits on, 1.5 points at 4, 7 at 3; at 2 a run learns little,
nothing, or stops. Without it, so that the weight gradient too sees the rounded error, the knee is a
bit higher: nothing is lost from 6 bits on, 1.2 points at 5, 5 at 4, and five of six runs at 2 and 3
stop (means are of those that end). At 8 bits it makes no difference. Grey: ResNet-18 on CIFAR-10,
top-1, read off the poster's plot to half a point [banner2018scalable, poster]: its knee is at 6.
Rows: python scripts/sweep.py banner2018scalable
"""

import numpy as np

from paper_figs import style, sweeps
from paper_figs.banner2018scalable import _runs

PAPER = "banner2018scalable"
WIDTH = "text"
PANELS = 2
TALL = 1.2
CHANCE = 10.0
INPUTS = ("ablations",)
BITS = (2, 3, 4, 5, 6, 7, 8)
POSTER = {2: 18, 4: 83, 6: 89.5, 7: 89.5, 8: 89.5}
SERIES = {True: "full", False: "no bifurcation"}


def data(quick: bool) -> dict:
    """Percent by series, bits and seed; the means of float32; what is missing."""
    names = {series: {b: _name(b, bifurcate) for b in BITS} for bifurcate, series in SERIES.items()}
    found = sweeps.runs(
        PAPER, [*(n for by_bits in names.values() for n in by_bits.values()), "float32"]
    )
    ours = {
        series: {b: sweeps.percent(found[name]) for b, name in by_bits.items()}
        for series, by_bits in names.items()
    }
    stopped = {
        series: [b for b, name in by_bits.items() if sweeps.stopped(found[name])]
        for series, by_bits in names.items()
    }
    return {"ours": ours, "stopped": stopped, "float32": sweeps.percent(found["float32"]),
            "poster": POSTER, "missing": sweeps.missing(found)}  # fmt: skip


def _name(bits: int, bifurcate: bool) -> str:
    if bits == 8:
        return SERIES[bifurcate]
    return f"{bits} bits" if bifurcate else f"{bits} bits, no bifurcation"


def draw(d: dict, axes) -> None:
    """All of it, and what is near float32."""
    for ax in axes:
        for shift, series in zip((-0.06, 0.06), SERIES.values(), strict=True):
            _series(ax, d, series, shift)
        if d["float32"]:
            ax.axhline(np.mean(list(d["float32"].values())), **_runs.LOOK["float32"], zorder=0)
        label = "poster: ResNet-18, CIFAR-10"
        ax.plot(list(d["poster"]), list(d["poster"].values()),
                **{**style.LINE["paper"], "label": label})  # fmt: skip
        ax.set(xlabel="bits", ylabel="final test accuracy (%)", xticks=BITS)
    axes[0].legend(loc="lower right")
    axes[1].set(xlim=(3.7, 8.3), ylim=(81, 91.5))
    sweeps.note(axes[1], d["missing"], x=1, y=0)


def _series(ax, d: dict, series: str, shift: float) -> None:
    look = {**_runs.LOOK[series], "label": "bifurcation" if series == "full" else series}
    done = {b: list(values.values()) for b, values in d["ours"][series].items() if values}
    ax.plot([b + shift for b in done], [np.mean(v) for v in done.values()], **look)
    for b, values in done.items():
        ax.plot([b + shift] * len(values), values, "o", color=look["color"], alpha=0.6,
                markersize=3)  # fmt: skip
    for b in d["stopped"][series]:
        ax.plot([b + shift], [CHANCE], "X", color=look["color"], markersize=5)


if __name__ == "__main__":
    style.main(__name__)
