"""Clipping: it keeps the norm of quantized gradients from growing with d, at the price of a bias.

Left: E||Q(Clip(g))||^2 / ||g||^2 of SQ2. Lines: exact for Gaussian entries; dots: draws; squares:
the four weight tensors of the small CNN, means over batches of two epochs. Unclipped it rises with
d, as sqrt(2 ln d) for Gaussian entries and up to 1.8 times that for real ones, of kurtosis 3 to 28:
far from the sqrt d of Proposition 1 (dashed) and of the worst gradient (dotted). Clipped it does
not rise, and is below Proposition 2 (dashed); real gradients, more of whose norm is clipped away,
are below Gaussian ones [hou2019analysis, Prop. 1-3]. Middle, right: test accuracy and training loss
with LAQ2 and SQ2; black: float32 gradients, shaded the range of seeds. Clipping wins back two
thirds of the 3.5 points that SQ2 loses, from the first epoch on. The published price, a larger loss
in the end for c = 1, does not appear: training loss ends 4 % below that of c = 3, and accuracies
are equal within seeds. The bias of c = 1 is a sixth to a half of ||g||^2; but Adam undoes that
clipped gradients are shorter.
Rows: python -m paper_figs.hou2019analysis._gradients; python scripts/sweep.py hou2019analysis
"""

import itertools

import numpy as np

from paper_figs import style, sweeps
from theory import gradient_quantization as gq

PAPER = "hou2019analysis"
WIDTH = "text"
PANELS = 3
TALL = 1.6
INPUTS = ("ablations", "gradients")
BITS = 2
CLIPS = {"no clip": None, "c = 1": 1.0, "c = 2": 2.0, "c = 3": 3.0}
COLOR = dict(zip(CLIPS, ("#D55E00", "#56B4E9", "#009E73", "#0072B2"), strict=True))
VARIANTS = {
    "no clip": "laq2 sq2", "c = 1": "laq2 sq2 clip 1", "c = 2": "laq2 sq2 clip 2",
    "c = 3": "laq2 sq2 clip 3", "float32 gradients": "laq2 fp",
}  # fmt: skip
DRAWS = 2**18  # entries drawn for each d and clip


def data(quick: bool) -> dict:
    """Norms by d: theory, Gaussian draws, layers; percents and training losses by clip."""
    d = np.array([2**k for k in range(4, 21, 4 if quick else 1)])
    drawn = d[d <= 2**12] if quick else d[::2]
    found = sweeps.runs(PAPER, VARIANTS.values())
    return {
        "d": d,
        "printed": [gq.proposition1(int(n), BITS) for n in d],
        "sharp": [gq.sharp_enlargement(int(n), BITS) for n in d],
        "printed_clipped": {k: gq.proposition2(BITS, c) for k, c in CLIPS.items() if c},
        "gaussian": {k: _gaussian(d, c) for k, c in CLIPS.items()},
        "drawn_at": drawn,
        "drawn": {k: [_drawn(int(n), c) for n in drawn] for k, c in CLIPS.items()},
        "layers": {k: _layers(c) for k, c in CLIPS.items()},
        "percent": {k: sweeps.percent(found[name]) for k, name in VARIANTS.items()},
        "loss": {k: _loss(found[name]) for k, name in VARIANTS.items()},
        "missing": sweeps.missing(found),
    }  # fmt: skip


def _gaussian(d: np.ndarray, c: float | None) -> list[float]:
    if c is not None:
        return [gq.clipped_enlargement(BITS, c)] * len(d)
    return [gq.gaussian_enlargement(int(n), BITS) for n in d]


def _drawn(d: int, c: float | None) -> float:
    """Sum of E||Q(Clip(g))||^2 over that of ||g||^2, of Gaussian draws."""
    g = np.random.default_rng(d).standard_normal((max(DRAWS // d, 8), d))
    clipped = g if c is None else gq.clip(g, c)
    return float(gq.second_moment(clipped, BITS).sum() / (g**2).sum())


def _layers(c: float | None) -> list[list[float]]:
    """Pairs of d and the mean over batches and steps, of each tensor of weights of the network."""
    rows = sorted(style.rows(PAPER, "gradients"), key=lambda row: row["d"])
    return [
        [d, float(np.mean([r["clip"][str(c)]["enlargement"][str(BITS)] for r in of_layer]))]
        for d, of_layer in itertools.groupby(rows, key=lambda row: row["d"])
    ]


def _loss(by_seed: dict) -> list[list[float]]:
    """Epochs, and the training loss of batches within each, a mean over seeds."""
    losses = {}
    for row in by_seed.values():
        ends = [step for step, _ in row["curve"]]
        for step, loss in row["train_loss"]:
            losses.setdefault(int(np.searchsorted(ends, step)) + 1, []).append(loss)
    return [list(losses), [float(np.mean(values)) for values in losses.values()]]


def draw(d: dict, axes) -> None:
    """Norms, accuracies, losses."""
    norms, ends, losses = axes
    _norms(norms, d)
    for row, name in enumerate(CLIPS):
        percents = list(d["percent"][name].values())
        if percents:
            ends.plot([row], [np.mean(percents)], "_", color=COLOR[name], markersize=14)
            ends.plot([row] * len(percents), percents, "o", color=COLOR[name], alpha=0.6)
    reference = list(d["percent"]["float32 gradients"].values())
    if reference:
        ends.axhline(np.mean(reference), color="#000000", linewidth=0.8)
        ends.axhspan(min(reference), max(reference), color="#000000", alpha=0.1, linewidth=0)
    ends.set_xticks(range(len(CLIPS)), CLIPS)
    ends.set(xlim=(-0.5, 3.5), ylabel="final test accuracy (%)")
    sweeps.note(ends, d["missing"], x=1, y=0)
    for name, curve in d["loss"].items():
        losses.plot(*curve, "o-", color=COLOR.get(name, "#000000"), label=name)
    losses.set(xlabel="epoch", ylabel="training loss, mean of the epoch", yscale="log")
    losses.set(ylim=(0.3, 1.5))
    losses.set_yticks((0.3, 0.5, 1), ("0.3", "0.5", "1"))
    losses.tick_params(which="minor", labelleft=False)
    losses.legend()


def _norms(ax, d: dict) -> None:
    grey = {**style.LINE["published"], "linewidth": 0.8, "label": None}
    ax.plot(d["d"], d["printed"], **{**grey, "label": "printed, Prop. 1, 2"})
    ax.plot(d["d"], d["sharp"], ":", color="#000000", linewidth=0.8, label="sharp, any gradient")
    for name, color in COLOR.items():
        ax.plot(d["d"], d["gaussian"][name], color=color, linewidth=0.9, label=name)
        ax.plot(d["drawn_at"], d["drawn"][name], ".", color=color, markersize=2.5)
        ax.plot(*zip(*d["layers"][name], strict=True), "s", color=color, markersize=4,
                markerfacecolor="none")  # fmt: skip
    for name, value in d["printed_clipped"].items():
        ax.plot(d["d"][[0, -1]], [value] * 2, **{**grey, "color": COLOR[name]})
    ax.set(xscale="log", yscale="log", ylim=(0.12, 600), xlabel="entries of the gradient, d")
    ax.set_ylabel("$E\\|Q(\\mathrm{Clip}(g))\\|^2 / \\|g\\|^2$, SQ2")
    ax.legend(loc="upper left", fontsize=5.5, handlelength=1.6, labelspacing=0.25)


if __name__ == "__main__":
    style.main(__name__)
