"""Where training breaks: final test accuracy against mantissa bits, and against what sums keep.

fashion-mnist-8k, FP8 operands, plain sums rounded to nearest. Left: the small CNN with one width
in all sums, or in one GEMM's sums alone; points single seeds, lines their means, thin line float32
sums. Right: points lost to the mean of float32 sums (dotted: half a point), against the lowest
exact retention among the forward sums that were narrowed; filled the small CNN, open the network
held out, an MLP. The retention takes all products as non-zero and independent.
Rows: python scripts/sweep.py sakr2019accumulation, and for the MLP with --model mlp and --out
paper_figs/results/sakr2019accumulation/heldout.jsonl, --only the float32 sums and the exact ones.
"""

import functools
import re

import numpy as np

from paper_figs import style
from theory import retention
from theory.requirement import mantissa_bits

PAPER = "sakr2019accumulation"
WIDTH = "text"
PANELS = 2
TALL = 1.15
INPUTS = ("ablations", "heldout")  # the second may be missing
NAME = re.compile(r"mantissa (\d+)(?: in (\w+))?|exact( -\d)?")
GEMMS = {  # colour, marker, label; "" is all three
    "": ("#000000", "o", "all three GEMMs"),
    "forward": ("#D55E00", "s", "forward alone"),
    "input_grad": ("#009E73", "^", "input gradient alone"),
    "weight_grad": ("#0072B2", "v", "weight gradient alone"),
}
KINDS = {  # what is narrowed, in the right panel: colour, marker, label
    "": ("#000000", "o", "all GEMMs, one width"),
    "forward": ("#D55E00", "s", "forward alone"),
    "exact": ("#CC79A7", "D", "all, predicted widths 0 to −3"),
}


def data(quick: bool) -> dict:
    """By network: percent by kind, bits and seed; the float32 sums; the lowest retentions."""
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
            kind, bits = (name[2] or "", int(name[1])) if name[1] else ("exact", int(name[3] or 0))
            runs = network["bits"].setdefault(kind, {}).setdefault(bits, {})
            runs[row["seed"]] = 100 * row["accuracy"]
    for model, network in found.items():
        sums = _forward_sums(model)
        network["kept"] = {
            kind: {m: _lowest(sums, kind, m) for m in network["bits"].get(kind, {})}
            for kind in KINDS
        }
    return found


def _forward_sums(model: str) -> list[int]:
    """Lengths of a network's forward sums, its last layer apart, whose sums are not narrowed."""
    from flax import nnx

    from qtrain import models
    from qtrain.recipes.layers import layers

    shape = (28, 28, 1)
    create = functools.partial(models.create, model, num_classes=10, in_shape=shape)
    built = nnx.eval_shape(lambda: create(rngs=nnx.Rngs(0)))
    return sorted({layer.forward for layer in layers(built, (128, *shape))[:-1]})


def _lowest(sums: list[int], kind: str, bits: int) -> float:
    """The lowest exact retention; `bits` is the width, or for "exact" what is added to it."""
    if kind != "exact":
        return retention(bits, max(sums))  # to nearest, retention falls with the length
    return min(retention(max(mantissa_bits(n) + bits, 1), n) for n in sums)


def draw(d: dict, axes) -> None:
    """Accuracy against bits on the left, loss against retention on the right."""
    _bits(d["small_cnn"], axes[0])
    ax = axes[1]
    for (_, network), fill in zip(d.items(), ("full", "none"), strict=False):
        reference = np.mean(list(network["float32"].values()))
        for kind, (color, marker, label) in KINDS.items():
            look = {"marker": marker, "color": color, "fillstyle": fill, "linestyle": "none"}
            for bits, runs in network["bits"].get(kind, {}).items():
                lost = reference - np.array(list(runs.values()))
                ax.plot([network["kept"][kind][bits]] * len(lost), lost, **look)
            if fill == "full":
                ax.plot([], [], **look, label=label)
    if len(d) > 1:
        ax.plot([], [], "D", color="#CC79A7", fillstyle="none", label="open: MLP, held out")
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
