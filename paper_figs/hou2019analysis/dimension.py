"""Loss against d, with gradients in full precision and in two bits: who is slowed down.

Convex laboratory: linear regression, LAB weights, T = 1000, batch 16; float32 gradients (solid) or
SQ2 (dashed). First panels: average loss at the quantized weights, sum f_t / t, at the paper's step,
RMSProp at .03 / sqrt t, and of SGD at the step best for float32 gradients. Third: at T. It grows
with d, as [hou2019analysis, Fig. 3(a)] has it. Last: average regret with SQ2 over that without
(mean of three seeds, half their range), also with float32 weights; dashed: sqrt of Proposition 1,
by which Theorem 2 slows down. The published slow-down, worse for larger d, appears with SGD: 1.8,
2.1 and 5.0 times the regret. At the paper's step RMSProp does not have it: it ends below, 0.8 to
0.9 times. Dividing by sqrt v it turns the larger norm into a shorter step, a gain where the step is
too large, as .03 is; at its best step it loses, 1.1 to 1.9 times (`theory.gradient_slowdown`).
LAB weights hide most of it: their floor, the same for both, is most of the regret, and what is left
is 1.0, 1.1 and 1.3 times with SGD.
Rows: python -m paper_figs.hou2019analysis._lab dimension
"""

import numpy as np

from paper_figs import style
from theory import gradient_quantization as gq
from theory.convex_lab import Lab

PAPER = "hou2019analysis"
WIDTH = "text"
PANELS = 4
TALL = 2.1
INPUTS = ("dimension",)
D = (16, 64, 256)
SETTINGS = {
    "rmsprop": ("RMSProp, .03", "#0072B2"),
    "rmsprop tuned": ("RMSProp, tuned", "#56B4E9"),
    "sgd tuned": ("SGD, tuned", "#D55E00"),
}
SHOWN = ("rmsprop", "sgd tuned")  # whose curves are drawn
DASH = {"fp": "-", "sq2": "--"}
NAME = {"fp": "float32", "sq2": "SQ2"}


def data(quick: bool) -> dict:
    """By setting, weights, gradients and d: losses and regrets a seed; curves; R measured."""
    loss, regret, enlarged, curves = {}, {}, {}, {}
    for row in style.rows(PAPER, "dimension"):
        lab = Lab(**row["lab"])
        gradients = "fp" if lab.gradients is None else "sq2"
        weights = "fp" if lab.weights is None else "lab"
        name = f"{row['setting']}, {weights}, {gradients}"
        loss.setdefault(name, {}).setdefault(lab.d, []).append(row["loss"])
        regret.setdefault(name, {}).setdefault(lab.d, []).append(row["regret"])
        if gradients == "sq2":
            enlarged.setdefault(row["setting"], {}).setdefault(lab.d, []).append(row["enlargement"])
        if "curve" in row:
            curves.setdefault(name, {})[lab.d] = row["curve"][:2]
    return {
        "loss": loss, "curves": curves,
        "ratio": {
            f"{s}, {w}": {d: np.divide(regret[f"{s}, {w}, sq2"][d], regret[f"{s}, {w}, fp"][d])
                          for d in D}
            for s in SETTINGS for w in ("fp", "lab")
        },
        "enlarged": {s: [float(np.mean(by_d[d])) for d in D] for s, by_d in enlarged.items()},
        "printed": [gq.slowdown(gq.proposition1(d, 2)) for d in D],
    }  # fmt: skip


def draw(d: dict, axes) -> None:
    """Curves of two settings, losses over d, ratios of regrets."""
    colors = style.shades(D)
    for ax, setting in zip(axes[:2], SHOWN, strict=True):
        for n in D:
            for gradients, dash in DASH.items():
                t, average = d["curves"][f"{setting}, lab, {gradients}"][n]
                ax.plot(t, average, dash, color=colors[n],
                        label=f"d = {n}" if gradients == "fp" else None)  # fmt: skip
        ax.set(xscale="log", yscale="log", xlabel=f"step, t ({SETTINGS[setting][0]})")
    for gradients, dash in DASH.items():
        axes[0].plot([], [], dash, color="#888888", label=NAME[gradients])
    axes[0].set_ylim(top=90)
    axes[0].legend(fontsize=5.5, loc="upper right")
    axes[0].set_ylabel("average loss")
    losses, ratios = axes[2:]
    for setting, (label, color) in SETTINGS.items():
        for gradients, dash in DASH.items():
            found = d["loss"][f"{setting}, lab, {gradients}"]
            losses.plot(D, [np.mean(found[n]) for n in D], dash, color=color,
                        label=label if gradients == "fp" else None)  # fmt: skip
        for weights, marker in (("lab", "o"), ("fp", "^")):
            found = d["ratio"][f"{setting}, {weights}"]
            ratios.errorbar(D, [np.mean(found[n]) for n in D],
                            [np.ptp(found[n]) / 2 for n in D], color=color, marker=marker,
                            linestyle="-" if weights == "lab" else ":", elinewidth=0.6)  # fmt: skip
    ratios.plot(D, d["printed"], **{**style.LINE["published"], "label": "printed"}, linewidth=0.8)
    ratios.axhline(1, color="#000000", linewidth=0.6)
    losses.set(ylabel="average loss at T = 1000")
    ratios.set(ylabel="regret, SQ2 / float32", ylim=(0.3, 8))
    for ax in (losses, ratios):
        ax.set(xscale="log", yscale="log", xlabel="weights, d")
        ax.set_xticks(D, D)
        ax.tick_params(axis="x", which="minor", labelbottom=False, bottom=False)
    ratios.set_yticks((0.5, 1, 2, 5), ("0.5", "1", "2", "5"))
    ratios.tick_params(axis="y", which="minor", labelleft=False)
    ratios.plot([], [], "o-", color="#888888", label="LAB")
    ratios.plot([], [], "^:", color="#888888", label="float32 weights")
    for ax in (losses, ratios):
        ax.legend(fontsize=5.5)


if __name__ == "__main__":
    style.main(__name__)
