"""Squared error of the zoo's weight quantizers against bits, for weights of three laws.

Unit variance, 65536 weights spread evenly over the law, quantized as one group. Grey line: what no
code of so many bits for a weight can beat (Shannon's lower bound). Crosses: constants sampled from
N(0, 1), good to 0.003. Dashed with rings: after the factor of least error, of two methods whose own
scale means nothing to a normalized layer. Lloyd-Max, k-means that ran until it stood, is least; its
25 iterations in `kmeans` leave 30 % more at 4 bits on normal weights. LQ-Nets, whose basis ran
until it stood, and alternating codes are as good at 1 and 2 bits; at 4 bits their sums of four
numbers leave 20 to 51 % more on the peaked laws. On uniform weights greedy and balanced codes are
optimal too; on Laplace weights, of long tails, balanced ones leave 11 times as much at 4 bits. LAB,
LAT and LAQ with even curvature and the best of 32 evenly spaced grids agree to half a percent; all
have one value less than their bits allow, which costs most at 2 bits. The M bases of ABC-Net make
only M + 1 values: 5 leave more than Lloyd-Max at 3 bits. INQ's powers start near the largest
weight, where at 2 and 3 bits most weights are too small for any of them.
Rows: python -m paper_figs.guo2018survey._mse
"""

import math

import numpy as np

from paper_figs import style

PAPER = "guo2018survey"
WIDTH = "text"
PANELS = 3
TALL = 2.3
INPUTS = ("mse",)
LAWS = {"normal": "N(0, 1)", "laplace": "Laplace", "uniform": "uniform"}
# 2^(2 h) / (2 pi e), h the entropy of the law: times 4^-bits, Shannon's lower bound [derived]
SHANNON = {"normal": 1.0, "laplace": math.e / math.pi, "uniform": 6 / (math.pi * math.e)}
SCALED = ("dorefa", "dorefa small", "balanced")  # after the factor of least error
LOOK = {
    "lloyd": ("#000000", "o-", "Lloyd-Max"),
    "kmeans": ("#000000", "o:", "k-means, 25 iterations"),
    "lq_nets": ("#56B4E9", "s-", "LQ-Nets"),
    "alternating": ("#0072B2", "v-", "alternating codes"),
    "refined": ("#0072B2", "v--", "refined codes"),
    "greedy": ("#0072B2", "v:", "greedy codes"),
    "laq": ("#D55E00", "o-", "LAB, LAT, LAQ"),
    "uniform": ("#E69F00", "o:", "evenly spaced"),
    "twn": ("#D55E00", "D", "TWN"),
    "abc_net": ("#009E73", "^-", "ABC-Net, M = bits"),
    "inq": ("#CC79A7", "o-", "INQ"),
    "balanced": ("#7A3E9D", "o--", "balanced, rescaled"),
    "dorefa": ("#888888", "o--", "DoReFa, rescaled"),
    "dorefa small": ("#888888", "s--", "the same, deviation 0.05"),
}
# Sampled from N(0, 1), before this figure was: by bits from 1 on, good to 0.003.
CONSTANTS = {
    "greedy": {1: 0.364, 2: 0.131, 3: 0.059, 4: 0.033},
    "refined": {1: 0.364, 2: 0.125, 3: 0.051, 4: 0.025},
    "alternating": {1: 0.364, 2: 0.118, 3: 0.037, 4: 0.0115},
    "lloyd": {1: 0.363, 2: 0.1175, 3: 0.0345, 4: 0.0095},
    "abc_net": {1: 0.364, 3: 0.118, 5: 0.078},
    "twn": {2: 0.1922},
    "laq": {2: 0.1908},
}


def data(quick: bool) -> dict:
    """By law and quantizer: bits and errors, as they are and rescaled."""
    found: dict[str, dict] = {law: {} for law in LAWS}
    for row in style.rows(PAPER, "mse"):
        line = found[row["law"]].setdefault(row["quantizer"], {"bits": [], "mse": [], "scaled": []})
        for name in line:
            line[name].append(row[name])
    return {"errors": found, "constants": CONSTANTS, "shannon": SHANNON}


def draw(d: dict, axes) -> None:
    """A panel a law."""
    for ax, (law, title) in zip(axes, LAWS.items(), strict=True):
        bits = np.linspace(1, 5, 50)
        ax.plot(bits, d["shannon"][law] * 4.0**-bits, color="#BBBBBB", linewidth=0.8, zorder=0,
                label="Shannon's lower bound")  # fmt: skip
        for name, (color, form, label) in LOOK.items():
            line = d["errors"][law][name]
            ring = {"markerfacecolor": "none"} if name in SCALED else {}
            ax.plot(line["bits"], line["scaled" if name in SCALED else "mse"], form, color=color,
                    label=label, linewidth=0.9, markersize=3, **ring)  # fmt: skip
        ax.set(yscale="log", xlabel="bits", title=title, xticks=range(1, 6), ylim=(0.002, 1.3))
    points = [(b, e) for by_bits in d["constants"].values() for b, e in by_bits.items()]
    axes[0].plot(*zip(*points, strict=True), "kx", markersize=4.5, markeredgewidth=0.6, zorder=4)
    axes[0].plot([], [], "kx", markersize=4.5, markeredgewidth=0.6, label="constants, sampled")
    axes[0].set_ylabel("mean squared error / variance")
    axes[0].figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center",
                          ncol=4, fontsize=6)  # fmt: skip


if __name__ == "__main__":
    style.main(__name__)
