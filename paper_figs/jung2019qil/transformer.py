"""The transformer, and what the discretizer makes of it: weights at 3 bits, activations at 2.

Left: weights of one sign (the other is odd to it), c = 0.6, d = 0.4, by gamma; dots: where a weight
stops being 0, and where it starts to be 1, by algebra. Larger gammas prune more. Crosses: the two
thresholds as a note prints them, at gamma = 1, which lie outside of the interval and in the wrong
order [jung2019qil, eq. (4)]. Right: activations, which have no gamma; 2 bits are 4 levels. The
dashed lines are the ends of the interval.
"""

import jax.numpy as jnp
import numpy as np

from paper_figs import style
from qtrain.zoo.interval import discretize, thresholds, transform

PAPER = "jung2019qil"
WIDTH = "text"
PANELS = 2
C, D = 0.6, 0.4
GAMMAS = (0.5, 1.0, 2.0)
WEIGHT_BITS, ACTIVATION_BITS = 3, 2


def data(quick: bool) -> dict:
    """x, and by gamma the transformed and discretized values and thresholds."""
    x = np.linspace(0, 1.2, 121 if quick else 1201, dtype=np.float32)
    q = 2 ** (WEIGHT_BITS - 1) - 1
    weights = {gamma: _curves(x, q, gamma) for gamma in GAMMAS}
    half = 0.5 * D / q
    return {
        "x": x,
        "ends": (C - D, C + D),
        "weights": weights,
        "thresholds": {g: [float(t) for t in thresholds(C, D, q, g)] for g in GAMMAS},
        "printed": (C + D + half, C - D - half),
        "activations": _curves(x, 2**ACTIVATION_BITS - 1, 1.0),
    }


def _curves(x: np.ndarray, q: int, gamma: float) -> dict:
    smooth = transform(jnp.asarray(x), jnp.float32(C), jnp.float32(D), jnp.float32(gamma))
    return {"transformed": np.asarray(smooth), "discretized": np.asarray(discretize(smooth, q))}


def draw(d: dict, axes) -> None:
    """Weights on the left, activations on the right."""
    weights, activations = axes
    colors = style.shades(GAMMAS)
    for gamma, found in d["weights"].items():
        look = {"color": colors[gamma]}
        weights.plot(d["x"], found["transformed"], **look, label=f"γ = {gamma:g}")
        weights.plot(d["x"], found["discretized"], **look, linewidth=0.7, alpha=0.7)
        weights.plot(d["thresholds"][gamma], (0, 1), "o", **look)
    weights.plot(d["printed"], (0, 1), **{**style.LINE["paper"], "label": "thresholds as printed"})
    found = d["activations"]
    activations.plot(d["x"], found["transformed"], color=colors[1.0], label="transformed")
    activations.plot(d["x"], found["discretized"], color=colors[1.0], linewidth=0.7, alpha=0.7,
                     label="and discretized")  # fmt: skip
    for ax, what in ((weights, "weight, |w|"), (activations, "activation, x")):
        for end in d["ends"]:
            ax.axvline(end, color="#888888", linestyle="--", linewidth=0.7, zorder=0)
        ax.set(xlabel=what, ylabel="quantized", ylim=(-0.05, 1.5))
        ax.legend(loc="upper left", ncols=2)


if __name__ == "__main__":
    style.main(__name__)
