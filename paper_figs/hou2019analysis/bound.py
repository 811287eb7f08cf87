"""How far the bounds lie above the measured average regret, and three runs that lie above them.

Convex laboratory: linear regression, T = 1000, inputs so large that G_inf >= 1 and v rising, as the
printed proofs need; RMSProp and SGD at .03 / sqrt t. Each panel changes one number of d = 64, LAQ3,
SQ2, no clip. No bound is ever below the regret, and none is near: printed ones are 1500 to 18500
times as large, corrected ones 350 to 2950, of SGD 20 to 820. "Sums": before norms become constants
[hou2019analysis, Thm. 1, first display]: 96 to 270, 36 to 106, 13 to 38. With many bits, half of
the corrected bound and most of the others is the floor L D sqrt(D^2 + ...): it does not fall with
weight bits, as the regret does, and is gone only without quantization (fp). Gradient bits and clip
change neither side much here. Crosses: runs within assumptions A1-A3 whose regret is above the
printed bound (grey, in the shaded part), since sqrt(t v) falls (0.13), G_inf < 1 (0.07) or the
origin is outside S (0.71). The corrected form (blue) repairs the last two; where v falls only its
sums hold.
Rows: python -m paper_figs.hou2019analysis._lab bound
"""

from paper_figs import style
from theory import regret_witness
from theory.convex_lab import Lab

PAPER = "hou2019analysis"
WIDTH = "text"
PANELS = 4
TALL = 2.1
INPUTS = ("bound",)
SWEEPS = {
    "d": ("weights, d", (1, 4, 16, 64, 256)),
    "weights": ("weight bits", (1, 2, 3, 4, 6, 8, None)),
    "gradients": ("gradient bits", (2, 3, 4, 6, 8, None)),
    "clip": ("clip, c", (0.5, 1, 2, 3, 4, 6, None)),
}
COLOR = {"RMSProp, printed": "#888888", "RMSProp, corrected": "#0072B2", "SGD": "#D55E00"}
LINES = {
    ("rmsprop", "printed"): "RMSProp, printed",
    ("rmsprop", "corrected"): "RMSProp, corrected",
    ("sgd", "corrected"): "SGD",
}
WITNESSES = {
    "v falls": (1, regret_witness.falling_second_moment),
    "small gradients": (1, regret_witness.small_gradients),
    "far from origin": (4, regret_witness.far_from_origin),
}


def data(quick: bool) -> dict:
    """Bound over regret by sweep, line and value; of the witnesses, by form."""
    ratios: dict[str, dict[str, list]] = {sweep: {} for sweep in SWEEPS}
    for row in style.rows(PAPER, "bound"):
        lab = Lab(**row["lab"])
        for form, terms in row["bounds"].items():
            name = LINES[lab.optimizer, form.removesuffix(" sums")]
            line = name + (", sums" if form.endswith(" sums") else "")
            point = [getattr(lab, row["sweep"]), sum(terms) / row["regret"]]
            ratios[row["sweep"]].setdefault(line, []).append(point)
    witnesses = {}
    for name, (d, witness) in WITNESSES.items():
        found = witness()
        forms = {"RMSProp, printed": found.printed, "RMSProp, corrected": found.corrected}
        witnesses[name] = [d, {k: at.total / found.regret for k, at in forms.items()}]
    return {"ratios": ratios, "witnesses": witnesses}


def draw(d: dict, axes) -> None:
    """A panel per sweep; the witnesses in the first."""
    for ax, (sweep, (label, values)) in zip(axes, SWEEPS.items(), strict=True):
        for line, points in d["ratios"][sweep].items():
            dash = {"linestyle": ":" if line.endswith(", sums") else "-", "marker": "."}
            color = COLOR[line.removesuffix(", sums")]
            ax.plot([values.index(x) for x, _ in points], [y for _, y in points], **dash,
                    color=color, label=line)  # fmt: skip
        ax.axhspan(1e-3, 1, color="#000000", alpha=0.07, linewidth=0)
        none = "no" if sweep == "clip" else "fp"
        ax.set_xticks(range(len(values)), [none if v is None else f"{v:g}" for v in values])
        ax.set(yscale="log", ylim=(0.03, 1e5), xlabel=label)
        if sweep != "d":
            ax.tick_params(labelleft=False)
    axes[0].set_ylabel("bound / average regret")
    for place, (name, (dimension, found)) in enumerate(d["witnesses"].items()):
        x = SWEEPS["d"][1].index(dimension) + 0.25 * (place == 1)
        for line, ratio in found.items():
            axes[0].plot([x], [ratio], "x", color=COLOR[line], markersize=5)
        axes[0].annotate(name, (x, found["RMSProp, printed"]), xytext=(4, -2),
                         textcoords="offset points", fontsize=5.5, va="center")  # fmt: skip
    handles, names = axes[0].get_legend_handles_labels()
    axes[0].figure.legend(handles, names, loc="outside upper center", ncol=6, fontsize=6,
                          handlelength=1.8, columnspacing=1.2)  # fmt: skip


if __name__ == "__main__":
    style.main(__name__)
