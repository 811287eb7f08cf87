"""Weight gradients with narrow sums in the weight-gradient GEMMs, relative to float32 sums.

Mean square of each layer's weight gradient, for one batch of 128 images of fashion-mnist-8k through
ResNet-20 at initialization, all else float32 [sakr2019accumulation, Fig. 3]. Left: the width that
the exact theory predicts for each layer, and fewer bits. Right: the same width in all layers. Thin
dashed lines: exact retention, to nearest, of n x (measured non-zero ratio) normal products. The
abnormal drop starts where that collapses, but is smaller; and some sums grow: the products of a
real layer are neither normal nor independent.
Rows: python -m paper_figs.sakr2019accumulation._gradients
"""

import numpy as np

from paper_figs import style
from theory import retention

PAPER = "sakr2019accumulation"
WIDTH = "text"
PANELS = 2
TALL = 1.25
INPUTS = ("gradients",)


def data(quick: bool) -> dict:
    """By setting and layer: mean square relative to float32 sums, and the exact retention."""
    rows = style.rows(PAPER, "gradients")
    reference = {r["layer"]: r["mean_square"] for r in rows if r["setting"] == "float32"}
    settings: dict[str, dict] = {}
    for row in rows:
        if row["bits"] is not None:
            setting = settings.setdefault(row["setting"], {"ratio": [], "theory": [], "bits": []})
            setting["ratio"].append(row["mean_square"] / reference[row["layer"]])
            setting["theory"].append(_kept(row["bits"], row["length"] * row["nonzero"]))
            setting["bits"].append(row["bits"])
    return {"layers": list(reference), "settings": settings}


def _kept(m: int, n: float) -> float:
    """The retention between the two nearest lengths 2^k: it is smooth in log n."""
    low = np.floor(np.log2(n))
    ends = [retention(m, 2.0 ** (low + i)) for i in (0, 1)]
    return float(np.interp(np.log2(n), (low, low + 1), ends))


def draw(d: dict, axes) -> None:
    """One line per setting; the layers in the order of the network."""
    for ax, start in zip(axes, ("exact", "mantissa"), strict=True):
        chosen = {k: v for k, v in d["settings"].items() if k.startswith(start)}
        colors = style.shades(chosen)
        for name, setting in chosen.items():
            low, high = min(setting["bits"]), max(setting["bits"])
            widths = f"{low}" if low == high else f"{low}–{high}"
            label = f"{name}, m = {widths}" if start == "exact" else f"m = {widths}"
            ax.plot(setting["ratio"], "o-", color=colors[name], label=label, linewidth=0.9,
                    markersize=2.5)  # fmt: skip
            ax.plot(setting["theory"], "--", color=colors[name], linewidth=0.7)
        ax.axhline(1, **{**style.LINE["theory"], "label": None}, zorder=0)
        for edge in (0.5, 6.5, 12.5):  # stem, three stages
            ax.axvline(edge, color="#cccccc", linewidth=0.5, zorder=0)
        ax.set(yscale="log", ylim=(5e-4, 4), xlabel="layer: stem and three stages of ResNet-20")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.legend(loc="lower left", ncols=2)
    axes[0].set_ylabel("mean square of the weight gradient\nrelative to float32 sums")


if __name__ == "__main__":
    style.main(__name__)
