"""Training in 8 bits against float32, and with one ingredient changed at a time.

Small CNN on fashion-mnist-8k, 6 epochs; float32 has batch normalization. Left: test accuracy over
training, means over seeds. Right: gap to float32, paired by seed (points), and its mean (bar);
dashed: 1 point. All of it in 8 bits costs nothing here: it ends above float32 with every seed, by
0.6 points on average. No variant ends below float32 on average: one 8-bit error for both gradients,
errors in float32, batch in place of range normalization, ranges that are symmetric and powers of
two. Beside all of it in 8 bits, though, one error for both gradients ends lower with every seed, by
0.15, 0.65 and 0.15 points, and batch normalization by 0.5, of 2000 test images; that three seeds
agree in sign has one chance in four. `bits` shows where the bifurcation is needed. Grey: gaps of
ImageNet runs, read off the poster's plots to half a point [banner2018scalable, poster].
Rows: python scripts/sweep.py banner2018scalable
"""

import numpy as np

from paper_figs import style, sweeps
from paper_figs.banner2018scalable import _runs

PAPER = "banner2018scalable"
WIDTH = "text"
PANELS = 2
TALL = 1.15
INPUTS = ("ablations",)
VARIANTS = ("full", "no bifurcation", "8-bit forward", "batch norm", "symmetric")
POSTER = {"ResNet-18": 0.0, "ResNet-50": 1.0}  # points of validation error, 8 bits - float32
READ = 0.5  # off the plots


def data(quick: bool) -> dict:
    """By variant: curves of each seed in percent, gaps to float32 of the seeds that both have."""
    found = sweeps.runs(PAPER, [*VARIANTS, "float32"])
    reference = sweeps.percent(found["float32"])
    curves = {
        name: [[100 * accuracy for _, accuracy in by_seed[s]["curve"]]
               for s in sweeps.percent(by_seed)]
        for name, by_seed in found.items()
    }  # fmt: skip
    steps = [[step for step, _ in row["curve"]] for run in found.values() for row in run.values()]
    gaps = {
        name: [reference[s] - a for s, a in sweeps.percent(found[name]).items() if s in reference]
        for name in VARIANTS
    }
    return {
        "curves": curves,
        "steps": max(steps, key=len, default=[]),
        "gaps": gaps,
        "poster": POSTER,
        "missing": sweeps.missing(found),
    }


def draw(d: dict, axes) -> None:
    """Curves on the left, gaps on the right."""
    curves, ends = axes
    for name, of_seeds in d["curves"].items():
        if of_seeds:
            curves.plot(d["steps"], np.mean(of_seeds, 0), **_runs.LOOK[name])
    curves.set(xlabel="step", ylabel="test accuracy (%)")
    curves.legend(loc="lower right")
    sweeps.note(curves, d["missing"], x=0.02, y=1)
    names = [_runs.LOOK[name]["label"] for name in d["gaps"]]
    for row, (name, gaps) in enumerate(d["gaps"].items()):
        if gaps:
            color = _runs.LOOK[name]["color"]
            ends.barh(row, np.mean(gaps), height=0.6, color=color, alpha=0.25)
            ends.plot(gaps, [row] * len(gaps), "o", color=color, alpha=0.7)
            ends.annotate(f"{np.mean(gaps):+.2f}", (0.88, row),
                          xycoords=("axes fraction", "data"), va="center")  # fmt: skip
    for row, (network, gap) in enumerate(d["poster"].items(), start=len(names)):
        ends.errorbar([gap], [row], xerr=READ, **{**style.LINE["paper"], "label": None},
                      elinewidth=0.7)  # fmt: skip
        names.append(f"poster: {network}")
    ends.axvline(0, **{**style.LINE["theory"], "label": None}, zorder=0)
    ends.axvline(1, color="#888888", linestyle="--", linewidth=0.7, zorder=0)
    ends.set(xlabel="gap to float32 (points of accuracy)", ylim=(len(names) - 0.5, -0.5))
    ends.set_xlim(min(-1.5, ends.get_xlim()[0]), max(2.2, ends.get_xlim()[1]))
    ends.set_yticks(range(len(names)), names)


if __name__ == "__main__":
    style.main(__name__)
