"""Training with the predicted widths and with fewer bits: test accuracy of the small CNN.

fashion-mnist-8k, 6 epochs, FP8 operands; every sum in (1,6,m) with m by the exact theory or by the
published formula, plus the perturbation of 0 to -3 bits [sakr2019accumulation, Fig. 6]. Left: means
over seeds, exact theory, plain sums. Right: final accuracies, small points single seeds, large ones
their means (the axis label says how many seeds); the line is the same recipe with float32 sums.
Rows: python scripts/sweep.py sakr2019accumulation
"""

import numpy as np

from paper_figs import style

PAPER = "sakr2019accumulation"
WIDTH = "text"
PANELS = 2
TALL = 1.15
INPUTS = ("ablations",)
PERTURB = (0, -1, -2, -3)
SERIES = {  # colour, marker
    "exact": ("#D55E00", "o"),
    "exact chunk 64": ("#E69F00", "s"),
    "published": ("#0072B2", "^"),
    "published chunk 64": ("#56B4E9", "v"),
}


def data(quick: bool) -> dict:
    """Percent by variant and seed: curves over the steps, and the final accuracies."""
    wanted = {"float32 sums", *(_name(s, p) for s in SERIES for p in PERTURB)}
    found: dict = {"curves": {}, "final": {}, "steps": []}
    for row in style.rows(PAPER, "ablations"):
        if row["variant"] not in wanted or row["accuracy"] is None:
            continue
        found["steps"] = [step for step, _ in row["curve"]]
        curve = [100 * accuracy for _, accuracy in row["curve"]]
        found["curves"].setdefault(row["variant"], {})[row["seed"]] = curve
        found["final"].setdefault(row["variant"], {})[row["seed"]] = 100 * row["accuracy"]
    return found


def _name(series: str, perturb: int) -> str:
    return f"{series} {perturb:+d}" if perturb else series


def draw(d: dict, axes) -> None:
    """Curves on the left, final accuracies by perturbation on the right."""
    curves, ends = axes
    _curves(d, curves)
    for i, (series, (color, marker)) in enumerate(SERIES.items()):
        done = [p for p in PERTURB if _name(series, p) in d["final"]]
        means = [np.mean(list(d["final"][_name(series, p)].values())) for p in done]
        x = np.array(done) + 0.12 * (1.5 - i)
        ends.plot(x, means, marker + "-", color=color, label=series, linewidth=0.8, markersize=4.5)
        for at, p in zip(x, done, strict=True):
            runs = list(d["final"][_name(series, p)].values())
            ends.plot([at] * len(runs), runs, ".", color=color, alpha=0.6)
    if reference := d["final"].get("float32 sums"):
        ends.axhline(np.mean(list(reference.values())), **{**style.LINE["float32"], "label": None},
                     linewidth=0.7, zorder=0)  # fmt: skip
    counts = {len(runs) for runs in d["final"].values()}
    seeds = "–".join(str(c) for c in sorted({min(counts), max(counts)}))
    ends.set(xticks=PERTURB, xlim=(0.4, -3.4), ylabel="final test accuracy (%)")
    ends.set_xlabel(f"bits added to the prediction ({seeds} seeds)")
    ends.legend(loc="lower left")


def _curves(d: dict, ax) -> None:
    colors = style.shades(PERTURB)
    for p in (None, *PERTURB):
        name = "float32 sums" if p is None else _name("exact", p)
        if name in d["curves"]:
            look = style.LINE["float32"] if p is None else {"color": colors[p]}
            label = name if p is None or p else "exact ±0"
            runs = np.array(list(d["curves"][name].values()))
            ax.plot(d["steps"], runs.mean(0), **{**look, "label": label})
    ax.set(xlabel="step", ylabel="test accuracy (%)")
    ax.legend(loc="lower right")


if __name__ == "__main__":
    style.main(__name__)
