"""Test accuracy by bits: stage by stage, at once, with fixed weights, and of weights alone.

Small CNN on fashion-mnist-8k, weights and activations of equal bits but for "weights alone". Direct
runs go from float32 to their bits at once, for as many epochs as the stages of the others have in
all; float32 has as many as the longest. Right: gaps to float32, paired by seed, and in grey those
of ResNet-18 on ImageNet (top-1): the paper's, as recalled, and those that an independent port's
readme reports.
Rows: python scripts/sweep.py jung2019qil
"""

import numpy as np

from paper_figs import style, sweeps

PAPER = "jung2019qil"
WIDTH = "text"
PANELS = 2
TALL = 1.3
INPUTS = ("ablations",)
BITS = (2, 3, 4)
SERIES = {  # name of the variant at b bits, for those that were run
    "progressive": {b: f"{b}" for b in BITS},
    "direct": {2: "direct 2", 3: "direct 3", 4: "4"},
    "quantizers alone": {2: "quantizers 2", 4: "quantizers 4"},
    "weights alone": {b: f"weights {b}" for b in BITS},
    "ends too": {2: "ends 2"},
    "γ = 1": {2: "gamma 1, 2"},
}
LOOK = {
    "progressive": {"color": "#0072B2", "linestyle": "-", "marker": "o"},
    "direct": {"color": "#D55E00", "linestyle": "--", "marker": "s"},
    "quantizers alone": {"color": "#009E73", "linestyle": "-.", "marker": "^"},
    "weights alone": {"color": "#E69F00", "linestyle": ":", "marker": "v"},
    "ends too": {"color": "#CC79A7", "linestyle": "none", "marker": "D"},
    "γ = 1": {"color": "#56B4E9", "linestyle": "none", "marker": "P"},
}
IMAGENET = {  # top-1 of ResNet-18: float32, and by bits of weights and activations
    "paper (recalled)": (70.2, {5: 70.4, 4: 70.1, 3: 69.2, 2: 65.7}),
    "port's readme": (70.21, {5: 70.25, 4: 70.22, 3: 69.10, 2: 64.94}),
}


def data(quick: bool) -> dict:
    """Percent by series, bits and seed; those of float32; gaps, ours paired by seed."""
    del quick
    names = {name for by_bits in SERIES.values() for name in by_bits.values()}
    found = sweeps.runs(PAPER, [*sorted(names), "float32"])
    percent = {name: sweeps.percent(by_seed) for name, by_seed in found.items()}
    reference = percent["float32"]
    ours = {s: {b: percent[name] for b, name in by_bits.items()} for s, by_bits in SERIES.items()}
    return {
        "ours": ours,
        "float32": reference,
        "gaps": {
            series: {b: [reference[s] - a for s, a in by_seed.items() if s in reference]
                     for b, by_seed in by_bits.items()}
            for series, by_bits in ours.items()
        },
        "published": {
            source: {b: wide - narrow for b, narrow in by_bits.items()}
            for source, (wide, by_bits) in IMAGENET.items()
        },
        "missing": sweeps.missing(found),
    }  # fmt: skip


def draw(d: dict, axes) -> None:
    """Accuracy on the left, gaps to float32 beside published ones on the right."""
    left, right = axes
    for series, by_bits in d["ours"].items():
        _points(left, {b: list(v.values()) for b, v in by_bits.items()}, series)
    if d["float32"]:
        left.axhline(np.mean(list(d["float32"].values())), **style.LINE["float32"], zorder=0)
    for series in ("progressive", "direct"):
        _points(right, d["gaps"][series], series)
    for (source, by_bits), marker in zip(d["published"].items(), "x+", strict=True):
        right.plot(list(by_bits), list(by_bits.values()),
                   **{**style.LINE["paper"], "label": source, "marker": marker})  # fmt: skip
    right.axhline(0, **{**style.LINE["theory"], "label": None}, zorder=0)
    left.set(xlabel="bits", ylabel="final test accuracy (%)", xticks=BITS)
    right.set(xlabel="bits", ylabel="gap to float32 (points)", xticks=(*BITS, 5))
    left.legend(fontsize=5.5)
    right.legend()
    sweeps.note(left, d["missing"], x=0, y=0)


def _points(ax, by_bits: dict[int, list[float]], series: str) -> None:
    """Means over seeds, joined, and each seed."""
    done = {b: values for b, values in by_bits.items() if values}
    look = LOOK[series]
    ax.plot(list(done), [np.mean(v) for v in done.values()], **look, label=series)
    for b, values in done.items():
        ax.plot([b] * len(values), values, ".", color=look["color"], alpha=0.4, markersize=3)


if __name__ == "__main__":
    style.main(__name__)
