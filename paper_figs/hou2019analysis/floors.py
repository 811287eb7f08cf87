"""Error floors: what quantized weights lose in the end, and the floor of the bound.

Convex laboratory: linear regression, gradients in full precision, RMSProp at the step that is best
for float32 weights, 3000 steps; losses above that of w*, means of the last third and of three seeds
(dots). Left: at Q(w_t) they fall nearly as Delta_w^2, until they reach the level without
quantization (thin lines); the printed floor falls by 2 % from 1 to 8 bits and ends 300000 times too
large (corrected: 50000), as L D^2 is a worst case. Its form by sums is 20 to 300 times too large
and follows the first bits. Middle: losses grow with d, as [hou2019analysis, Fig. 3(a)] has it.
Right: corrected floors (dashed) and sums (dotted) over what was measured grow with d as well. Two
things the bound does not tell. At w_t, of which it speaks, the loss is up to 5 times that at
Q(w_t), which training evaluates: the gradient at Q(w) does not feel weights go beyond alpha (at d =
64, seed 0, 24 weights for LAB and 2 for 8 bits, which make 68 and 99 % of ||w - Q(w)||^2). And the
loss at Q(w_t) is 1.6 to 2.5 times that of w* rounded after training (dotted) up to 4 bits: training
at quantized weights finds no better ones here.
Rows: python -m paper_figs.hou2019analysis._lab floors
"""

import itertools

import numpy as np

from paper_figs import style
from theory.convex_lab import Lab

PAPER = "hou2019analysis"
WIDTH = "text"
PANELS = 3
TALL = 1.7
INPUTS = ("floors",)
D, BITS, SHOWN = (16, 64, 256), (1, 2, 3, 4, 5, 6, 8), (1, 2, 3, 4)
QUANTITIES = ("bound, printed", "bound, corrected", "bound, sums", "w", "Q(w)", "rounded")
LOOK = {
    "bound, printed": {"color": "#888888", "linestyle": "--", "label": "floor, printed"},
    "bound, corrected": {"color": "#0072B2", "linestyle": "--", "label": "floor, corrected"},
    "bound, sums": {"color": "#0072B2", "linestyle": ":", "label": "floor, corrected, sums"},
    "w": {"color": "#D55E00", "linestyle": "-", "marker": "o", "label": "at $w_t$"},
    "Q(w)": {"color": "#009E73", "linestyle": "-", "marker": "s", "label": "at $Q(w_t)$"},
    "rounded": {"color": "#000000", "linestyle": ":", "label": "at $Q(w^*)$"},
}


def data(quick: bool) -> dict:
    """By d, quantity and bits: one value a seed, as [None, ...] for weights in full precision."""
    found: dict[int, dict] = {d: {q: {} for q in QUANTITIES} for d in D}
    for row in style.rows(PAPER, "floors"):
        lab = Lab(**row["lab"])
        bounds = row["bounds"]
        for quantity, value in {
            "bound, printed": bounds["printed"][1], "bound, corrected": bounds["corrected"][1],
            "bound, sums": bounds["corrected sums"][1], "w": row["late"],
            "Q(w)": row["late_quantized"], "rounded": row["rounded"],
        }.items():  # fmt: skip
            bits = "fp" if lab.weights is None else str(lab.weights)
            found[lab.d][quantity].setdefault(bits, []).append(value)
    return {"found": found}


def draw(d: dict, axes) -> None:
    """Against bits at the middle d; against d, measured; the slow part of the bound."""
    by_bits, by_d, ratio = axes
    middle = d["found"][D[1]]
    for quantity, look in LOOK.items():
        values = [middle[quantity][str(b)] for b in BITS]
        by_bits.plot(BITS, np.mean(values, 1), **look)
        if "marker" in look:
            for bits, seeds in zip(BITS, values, strict=True):
                by_bits.plot([bits] * len(seeds), seeds, ".", color=look["color"], markersize=2)
            by_bits.axhline(np.mean(middle[quantity]["fp"]), color=look["color"], linewidth=0.5)
    by_bits.set_xticks(BITS)
    by_bits.set(yscale="log", xlabel=f"weight bits (d = {D[1]})", ylabel="loss above that of $w^*$")
    by_bits.figure.legend(loc="outside upper center", ncol=6, fontsize=6)
    _dimension(d["found"], by_d, ratio)


def _dimension(found: dict, by_d, ratio) -> None:
    """Measured losses over d, and the floors over them."""
    colors = style.shades(SHOWN)
    for bits, quantity in itertools.product(SHOWN, ("w", "Q(w)", "rounded")):
        look = {k: v for k, v in LOOK[quantity].items() if k != "label"}
        values = [np.mean(found[n][quantity][str(bits)]) for n in D]
        by_d.plot(D, values, **{**look, "color": colors[bits]})
    for bits in SHOWN:
        by_d.plot([], [], color=colors[bits], label="LAB" if bits == 1 else f"LAQ{bits}")
        for quantity, dash in (("bound, corrected", "--"), ("bound, sums", ":")):
            ratio.plot(D, [np.mean(np.divide(found[n][quantity][str(bits)],
                                             found[n]["w"][str(bits)])) for n in D],
                       dash, marker=".", color=colors[bits])  # fmt: skip
    for ax in (by_d, ratio):
        ax.set(xscale="log", yscale="log", xlabel="weights, d")
        ax.set_xticks(D, D)
        ax.tick_params(which="minor", labelbottom=False, bottom=False)
    by_d.set_ylabel("loss above that of $w^*$")
    by_d.legend(fontsize=5.5)
    ratio.set_ylabel("floor / loss at $w_t$")


if __name__ == "__main__":
    style.main(__name__)
