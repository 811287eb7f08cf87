"""Where training breaks: final test accuracy against mantissa bits, and against what sums keep.

fashion-mnist-8k, FP8 operands, plain sums rounded to nearest. Left: the small CNN with one width
in all sums, or in one GEMM's sums alone; points single seeds, lines their means, thin line float32
sums. Right: the same accuracies as points lost to float32 sums, against the lowest exact retention
among the forward sums that were narrowed (that of the longest); for the network held out, an MLP,
too where it has been run. The retention takes all products as non-zero and independent.
Rows: python scripts/sweep.py sakr2019accumulation
"""

import functools
import re

import numpy as np

from paper_figs import style
from theory import retention

PAPER = "sakr2019accumulation"
WIDTH = "text"
PANELS = 2
TALL = 1.15
INPUTS = ("ablations", "heldout")  # the second may be missing
NAME = re.compile(r"mantissa (\d+)(?: in (\w+))?")
GEMMS = {  # colour, marker, label; "" is all three
    "": ("#000000", "o", "all three GEMMs"),
    "forward": ("#D55E00", "s", "forward alone"),
    "input_grad": ("#009E73", "^", "input gradient alone"),
    "weight_grad": ("#0072B2", "v", "weight gradient alone"),
}


def data(quick: bool) -> dict:
    """By network: percent by GEMM, width and seed; the float32 sums; retention by width."""
    rows = style.rows(PAPER, "ablations")
    if (style.RESULTS / PAPER / "heldout.jsonl").exists():
        rows += style.rows(PAPER, "heldout")
    found: dict = {}
    for row in rows:
        if row["accuracy"] is None:
            continue
        network = found.setdefault(row["recipe"]["model"], {"float32": {}, "bits": {}})
        if row["variant"] == "float32 sums":
            network["float32"][row["seed"]] = 100 * row["accuracy"]
        elif name := NAME.fullmatch(row["variant"]):
            by_width = network["bits"].setdefault(name[2] or "", {})
            by_width.setdefault(int(name[1]), {})[row["seed"]] = 100 * row["accuracy"]
    for model, network in found.items():
        longest = _longest(model)
        widths = {m for gemm in ("", "forward") for m in network["bits"].get(gemm, {})}
        network["longest"] = longest
        network["retention"] = {m: retention(m, longest) for m in sorted(widths)}
    return found


def _longest(model: str) -> int:
    """The longest forward sum of a network, its last layer apart, whose sums are not narrowed."""
    from flax import nnx

    from qtrain import models
    from qtrain.recipes.layers import layers

    shape = (28, 28, 1)
    create = functools.partial(models.create, model, num_classes=10, in_shape=shape)
    built = nnx.eval_shape(lambda: create(rngs=nnx.Rngs(0)))
    return max(layer.forward for layer in layers(built, (128, *shape))[:-1])


def draw(d: dict, axes) -> None:
    """Accuracy against bits on the left, loss against retention on the right."""
    _bits(d["small_cnn"], axes[0])
    ax = axes[1]
    for (model, network), fill in zip(d.items(), ("full", "none"), strict=False):
        reference = np.mean(list(network["float32"].values()))
        for gemm in ("", "forward"):
            color, marker, label = GEMMS[gemm]
            look = {"marker": marker, "color": color, "fillstyle": fill, "linestyle": "none"}
            for m, runs in network["bits"].get(gemm, {}).items():
                lost = reference - np.array(list(runs.values()))
                ax.plot([network["retention"][m]] * len(lost), lost, **look)
            if gemm in network["bits"]:
                ax.plot([], [], **look, label=f"{model}, {label}")
    ax.axhline(0, **{**style.LINE["theory"], "label": None}, zorder=0)
    ax.axhline(0.5, color="#888888", linestyle=":", linewidth=0.8, zorder=0)
    ax.set(xlabel="lowest retention E[s²] / E[S²] of a forward sum", xlim=(0, 1.03))
    ax.set_ylabel("lost to float32 sums (points)")
    ax.legend(loc="upper right")


def _bits(network: dict, ax) -> None:
    for gemm, (color, marker, label) in GEMMS.items():
        widths = dict(sorted(network["bits"].get(gemm, {}).items()))
        means = [np.mean(list(runs.values())) for runs in widths.values()]
        ax.plot(list(widths), means, marker + "-", color=color, label=label, linewidth=0.8)
        for m, runs in widths.items():
            ax.plot([m] * len(runs), list(runs.values()), ".", color=color, alpha=0.5, markersize=3)
    reference = np.mean(list(network["float32"].values()))
    ax.axhline(reference, **{**style.LINE["theory"], "label": None}, zorder=0)
    ax.set(xlabel="mantissa bits of the sums", ylabel="final test accuracy (%)")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(loc="lower right")


if __name__ == "__main__":
    style.main(__name__)
