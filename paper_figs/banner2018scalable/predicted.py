"""The angle theory against the tensors of `cosine`: measured and predicted cosines, 2 to 8 bits.

A point per tensor and width; the quantizer spans minimum to maximum and rounds to nearest. Left:
from the number of elements alone, Gaussian; tensors of the backward pass lie orders of magnitude of
1 - cosine below, since their extremes reach farther. Middle: Gaussian between the extremes that the
tensor has. Right: generalized Gaussian of the tensor's kurtosis, between its extremes. That misses
the cosine of layer errors by 0.05 in the root mean square, 0.16 at most, where size alone misses by
0.30 and 0.73, and Gaussian elements between the extremes by 0.22 and 0.72. Weights, outputs and
weight gradients are near the line. Activations lie above it: images take 256 values, and ReLU's
zeros are a level of the grid, its lowest, so that they are kept.
Rows: python -m paper_figs.banner2018scalable._tensors
"""

from paper_figs import style
from paper_figs.banner2018scalable.cosine import BACKWARD, COLOR, FORWARD, TICKS, nines
from theory import angle, element_law

PAPER = "banner2018scalable"
WIDTH = "text"
PANELS = 3
TALL = 1.6
INPUTS = ("tensors",)
BITS = tuple(range(2, 9))
KNOWN = {
    "size": "size, Gaussian",
    "extremes": "size and extremes, Gaussian",
    "kurtosis": "size, extremes and kurtosis",
}
MARKER = {"weight": "s", "activation": "^", "output": "v", "error": "o", "gradient": "x"}


def data(quick: bool) -> dict:
    """Cosines, measured and from each of the KNOWN, by tensor and bits."""
    bits = BITS[:3] if quick else BITS
    tensors = []
    for row in style.rows(PAPER, "tensors"):
        measured = dict(zip(row["bits"], row["cosine"], strict=True))
        tensors.append({
            "layer": row["layer"], "role": row["role"], "bits": bits,
            "measured": [measured[b] for b in bits], "predicted": predicted(row, bits),
        })  # fmt: skip
    return {"tensors": tensors}


def predicted(row: dict, bits: tuple[int, ...]) -> dict[str, list[float]]:
    """Cosines by KNOWN and bits, for a tensor of which a row has size, extremes and kurtosis."""
    known = row["n"], row["low"], row["high"]
    law = element_law.generalized_gaussian(row["kurtosis"])
    return {
        "size": [angle.uniform(b, row["n"]) for b in bits],
        "extremes": [angle.given_extremes(b, *known) for b in bits],
        "kurtosis": [angle.given_extremes(b, *known, law) for b in bits],
    }


def draw(d: dict, axes) -> None:
    """A panel for each of the KNOWN; equality is the line."""
    for ax, (known, title) in zip(axes, KNOWN.items(), strict=True):
        for t in d["tensors"]:
            points = nines(t["predicted"][known]), nines(t["measured"])
            ax.plot(*points, **_look(t["role"]), markersize=2.5)
        ax.plot((0, 6), (0, 6), **{**style.LINE["theory"], "label": None}, zorder=0)
        ticks = nines(TICKS[1:]), [f"{t:g}" for t in TICKS[1:]]  # 0 and 0.5 would overlap
        ax.set_yticks(*ticks)
        ax.set_xticks(*ticks, rotation=45, ha="right")
        ax.set(xlim=(-0.1, 5.6), ylim=(-0.1, 5.6), xlabel=f"predicted from\n{title}")
    for role in (*FORWARD, *BACKWARD):
        axes[0].plot([], [], **_look(role), markersize=3, label=f"{role}s")
    axes[0].legend(loc="upper left", fontsize=5.5, handlelength=1)
    axes[0].set_ylabel("measured cosine")


def _look(role: str) -> dict:
    return {
        "color": COLOR["forward" if role in FORWARD else "backward"], "marker": MARKER[role],
        "linestyle": "none", "markerfacecolor": "none", "markeredgewidth": 0.7,
    }  # fmt: skip


if __name__ == "__main__":
    style.main(__name__)
