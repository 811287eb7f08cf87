"""Cosine between tensors of a real training run and their M-bit forms: forward, backward.

Small CNN, float32, after 2 epochs; a line per tensor. Left: weights, inputs of the GEMMs and of the
normalization, to the nearest of 2^M values from min to max, with the printed bound, the estimate
1 / sqrt(1 + e^2) and the exact mean for Gaussian elements, all for the largest tensor, for which
they are lowest [banner2018scalable, M-bit theorem]. Every forward tensor lies above the bound, and
near the exact curve or above it, being smaller. (The images have 256 values: 8 bits lose nothing.)
Middle: layer errors, of kurtosis 36 to 257, lose their direction, those of the convolutions even at
8 bits more than the bound allows; weight gradients do at 4 bits at most. From min to max, zero
falls between two values, and most errors are about zero, so the cosine hangs on how near the next
value happens to be: more bits can be worse. Right: means over layers of what the recipe rounds, as
it does: errors stochastically, activations within a mean range beyond which they saturate, so that
more than 8 bits gain nothing. Grey: the poster's ResNet-18, read off its plot to 0.005 (its 1.00 is
left out): errors lose as much there.
Rows: python -m paper_figs.banner2018scalable._tensors
"""

import numpy as np

from paper_figs import style
from theory import angle

PAPER = "banner2018scalable"
WIDTH = "text"
PANELS = 3
TALL = 1.75
INPUTS = ("tensors",)
FORWARD, BACKWARD = ("weight", "activation", "output"), ("error", "gradient")
DASH = {"weight": "-", "activation": ":", "output": "--", "error": "-", "gradient": "--"}
COLOR = {"forward": "#0072B2", "backward": "#D55E00"}
TICKS = (0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999)
POSTER = {
    "bits": (2, 4, 6, 7, 8),
    "forward": (0.82, 0.99, 1.0, 1.0, 1.0),
    "backward": (0.20, 0.74, 0.88, 0.95, 0.98),
    "bound": (0.63, 0.83, 0.945, 0.97, 0.985),
}


def data(quick: bool) -> dict:
    """Cosines by tensor and bits, theory for the largest tensor, means over layers."""
    rows = style.rows(PAPER, "tensors")
    bits = rows[0]["bits"]
    n = max(row["n"] for row in rows)
    exact = bits[:3] if quick else bits
    rounded = {
        "forward": [row["recipe"] for row in rows if row["role"] in FORWARD],
        "backward": [row["recipe"] for row in rows if row["role"] == "error"],
    }
    return {
        "bits": bits, "n": n, "poster": POSTER,
        "tensors": [{k: row[k] for k in ("layer", "role", "n", "cosine")} for row in rows],
        "bound": angle.bound(bits, n), "estimate": angle.estimate(bits, n),
        "exact": [angle.uniform(b, n) for b in exact],
        "means": {side: np.mean(cosines, 0) for side, cosines in rounded.items()},
    }  # fmt: skip


def draw(d: dict, axes) -> None:
    """Forward, backward, means."""
    layers = list(dict.fromkeys(t["layer"] for t in d["tensors"]))
    colors = style.shades(layers)
    for ax, roles in zip(axes, (FORWARD, BACKWARD), strict=False):
        for t in d["tensors"]:
            if t["role"] in roles:
                ax.plot(d["bits"], nines(t["cosine"]), DASH[t["role"]], color=colors[t["layer"]],
                        linewidth=0.9)  # fmt: skip
        _theory(ax, d)
        _frame(ax)
        for role in roles:
            ax.plot([], [], DASH[role], color="#888888", label=f"{role}s")
    for layer in layers:
        axes[1].plot([], [], color=colors[layer], label=layer)
    for ax in axes[:2]:
        ax.legend(loc="upper left", fontsize=5.5, handlelength=1.6, labelspacing=0.25)
    axes[0].set_ylabel("cosine")
    _means(axes[2], d)


def _theory(ax, d: dict) -> None:
    look = style.LINE["theory"] | {"zorder": 3}
    for name, dash in (("bound", ":"), ("estimate", "--"), ("exact", "-")):
        ax.plot(d["bits"][: len(d[name])], nines(d[name]),
                **{**look, "linestyle": dash, "label": f"{name}, Gaussian"})  # fmt: skip


def _means(ax, d: dict) -> None:
    for side, color in COLOR.items():
        ax.plot(d["bits"], nines(d["means"][side]), "o-", color=color, label=f"{side}, ours")
    bits = np.array(d["poster"]["bits"])
    for name, marker in (("forward", "+"), ("backward", "x"), ("bound", "_")):
        values = np.array(d["poster"][name])
        shown = values < 1  # 1.00 is as near as the plot can be read
        ax.plot(bits[shown], nines(values[shown]), marker, color="#888888",
                label=f"{name}, poster", markersize=5)  # fmt: skip
    _frame(ax)
    ax.legend(loc="upper left", fontsize=5.5, handlelength=1.6, labelspacing=0.25)


def _frame(ax) -> None:
    """Axes in nines: each tick of the cosine is as far from 1 as the next times ten."""
    ax.set_yticks(nines(TICKS), [f"{t:g}" for t in TICKS])
    ax.set(ylim=(-0.05, 5.6), xlabel="bits, M")
    ax.xaxis.get_major_locator().set_params(integer=True)


def nines(cosine) -> np.ndarray:
    """-log10(1 - cosine): 0.99 is at 2."""
    return -np.log10(np.maximum(1 - np.asarray(cosine), 1e-12))  # above 1 by a rounding


if __name__ == "__main__":
    style.main(__name__)
