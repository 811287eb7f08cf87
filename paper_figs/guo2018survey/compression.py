"""Trained weights by k-means, products and residuals: what is lost by how much smaller they are.

The two inner layers of the small CNN after three epochs in float32, seed 0, quantized and not
trained again. Codebooks count, at 32 bits a number. Left: squared error; right: test accuracy,
grey: before. k-means of 3 bits, 10.6 times smaller, loses 0.8 points, of 2 bits 7. Products of 1,
2, 4 and 8 weights have a codebook for each place, for mostly 64 output channels: one of 16 pieces
takes 8 bits for each weight, so that they stay below 4 times; by their codes alone (dotted) they
would leave less than half of k-means' error at 4 bits. Residuals of pieces of 4
weights, whose stages have one codebook a layer, are between 0.95 and 1.5 times k-means' error at
the same number of bits up to 4, and lose less at one, 23 points to 36. Hollow: codebooks trained on
for three epochs, means over seeds of the sweep: that brings most of it back, for k-means of 2 bits
and products of 2 and 4 weights.
Rows: python -m paper_figs.guo2018survey._compress
Hollow: python scripts/sweep.py guo2018survey
"""

import numpy as np

from paper_figs import style, sweeps

PAPER = "guo2018survey"
WIDTH = "text"
PANELS = 2
TALL = 1.25
INPUTS = ("compression", "ablations")
LINES = {
    "kmeans": ("k-means", "#000000", "o-"),
    "product 2": ("product, 2 pieces", "#56B4E9", "v-"),
    "product 4": ("product, 4 pieces", "#0072B2", "v--"),
    "product 16": ("product, 16 pieces", "#0072B2", "v-"),
    "residual": ("residual, 16 pieces", "#D55E00", "s-"),
}
TRAINED = {  # what of the sweep begins with which line's weights: bits -> the setting
    "kmeans": ("kmeans", lambda bits: {"bits": bits}),
    "product 16": ("pq", lambda bits: {"bits": 4, "length": 4 // bits}),
}
BITS = {"kmeans": (8, 4, 2), "pq": (4, 2, 1)}


def data(quick: bool) -> dict:
    """By line: rates, errors, percent; the sweep's percent at the rates of the same settings."""
    rows = style.rows(PAPER, "compression")
    found: dict[str, list] = {name: [] for name in LINES}
    for row in rows[1:]:
        found[_line(row)].append(row)
    trained, missing = _trained(found)
    return {
        "lines": {
            name: {key: [row[key] for row in of] for key in ("rate", "error", "code_bits")}
            | {"percent": [100 * row["accuracy"] for row in of]}
            for name, of in found.items()
        },
        "float32": 100 * rows[0]["accuracy"], "trained": trained, "missing": missing,
    }  # fmt: skip


def _line(row: dict) -> str:
    return f"product {2 ** row['bits']}" if row["kind"] == "product" else row["kind"]


def _trained(found: dict[str, list]) -> tuple[dict, str]:
    """By line: (rate, percent by seed) of the sweep's runs; which of them are missing."""
    names = {m: {b: f"{m} {b}/32" for b in BITS[m]} for m, _ in TRAINED.values()}
    wanted = [n for of in names.values() for n in of.values()]
    ran = sweeps.runs(PAPER, wanted)
    points = {
        line: [
            (row["rate"], list(sweeps.percent(ran[names[method][bits]]).values()))
            for bits in BITS[method]
            for row in found[line]
            if about(bits).items() <= row.items()
        ]
        for line, (method, about) in TRAINED.items()
    }
    return points, sweeps.missing(ran)


def draw(d: dict, axes) -> None:
    """Error and accuracy over the rate."""
    error, accuracy = axes
    for name, (label, color, form) in LINES.items():
        line = d["lines"][name]
        for ax, key in ((error, "error"), (accuracy, "percent")):
            ax.plot(line["rate"], line[key], form, color=color, label=label, linewidth=0.9)
    bare = d["lines"]["product 16"]
    error.plot(32 / np.array(bare["code_bits"]), bare["error"], ":", color="#0072B2",
               linewidth=0.8, label="product, 16, codes alone")  # fmt: skip
    for name, points in d["trained"].items():
        for rate, percents in points:
            if percents:
                accuracy.plot(rate, np.mean(percents), form_of(name), color=LINES[name][1],
                              markerfacecolor="none", markersize=5)  # fmt: skip
    accuracy.plot([], [], "o", color="#888888", markerfacecolor="none", markersize=5,
                  label="hollow: trained on, sweep")  # fmt: skip
    accuracy.axhline(d["float32"], color="#888888", linewidth=0.8, zorder=0)
    error.set(yscale="log", ylabel="squared error / sum of squares")
    accuracy.set(ylabel="test accuracy (%)")
    for ax in axes:
        ax.set(xscale="log", xlabel="times smaller, with codebooks")
        ax.set_xticks((1, 2, 4, 8, 16, 32, 64), ("1", "2", "4", "8", "16", "32", "64"))
        ax.minorticks_off()
    error.legend(fontsize=6)
    accuracy.legend(*[x[-1:] for x in accuracy.get_legend_handles_labels()], fontsize=6,
                    loc="lower left")  # fmt: skip
    sweeps.note(accuracy, d["missing"], x=0.03, y=0.25)


def form_of(name: str) -> str:
    """The marker of a line."""
    return LINES[name][2][0]


if __name__ == "__main__":
    style.main(__name__)
