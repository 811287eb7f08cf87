"""SGD on weights in fixed point: where it ends, by rounding, step of the grid, and rate.

Least squares in 16 dimensions, batches of 8, 16000 steps from 0, weights <2, FL>; losses above that
of w*, means of the last half and of 8 replicas, bars (mostly too small to see) of one standard
error. Left: rounded to nearest, weights stop where no update reaches half a step: up to FL 6. With
stochastic rounding they go on, to a floor that each bit about halves from FL 5 on, proportional to
the step [gupta2015limited; li2017training, recalled], until the noise of the batches hides it; from
FL 7 on, nearest is the better of the two, as that noise moves its weights too. A wide copy, with
the gradient taken at the rounded weights as in BinaryConnect, has a floor that falls with the
square of the step. Right: on the grid of FL 6 a smaller rate does not lower the floor of stochastic
rounding (it cannot anneal), and stops nearest rounding; the wide copy falls to twice the error of
w* rounded to nearest (dotted), the error of a coin between both neighbours. Dashed: the stationary
variance, derived in `_fixed.predicted`; measured floors are up to 7 % below it and 3 % above.
Rows: python -m paper_figs.guo2018survey._fixed
"""

import numpy as np

from paper_figs import style
from paper_figs.guo2018survey import _fixed

PAPER = _fixed.PAPER
WIDTH = "text"
PANELS = 2
TALL = 1.2
INPUTS = ("floors",)
LOOK = {
    "nearest": {**style.LINE["nearest"], "marker": "s"},
    "stochastic": {**style.LINE["stochastic"], "linestyle": "-", "marker": "o"},
    "master": {"color": "#0072B2", "marker": "^", "label": "wide copy, loss at Q(w)"},
    "free": {"color": "#000000", "marker": ".", "label": "not rounded"},
}


def data(quick: bool) -> dict:
    """By sweep: the values swept over, losses and errors by kind, and predictions."""
    found: dict[str, dict] = {}
    for row in style.rows(PAPER, "floors"):
        sweep = found.setdefault(row["sweep"], {kind: [] for kind in _fixed.KINDS})
        sweep[row["kind"]].append([row["frac"], row["eta"], row["loss"], row["se"]])
    return {
        "found": found,
        "predicted": {
            sweep: [_fixed.predicted(eta, frac) for frac, eta, *_ in of["stochastic"]]
            for sweep, of in found.items()
        },
        "rounded": {
            sweep: [_fixed.D * 4.0**-frac / 24 for frac, *_ in of["stochastic"]]
            for sweep, of in found.items()
        },
    }


def draw(d: dict, axes) -> None:
    """Against FL at one rate; against the rate on one grid."""
    for ax, (sweep, column) in zip(axes, (("bits", 0), ("rate", 1)), strict=True):
        for kind, look in LOOK.items():
            line = np.array(d["found"][sweep][kind])
            ax.errorbar(line[:, column], line[:, 2], line[:, 3], elinewidth=0.6, **look)
            x = line[:, column]
        ax.plot(x, d["predicted"][sweep], "--", color="#000000", linewidth=0.7, zorder=4,
                label="stochastic, predicted")  # fmt: skip
        ax.plot(x, d["rounded"][sweep], ":", color="#888888", label="$w^*$ rounded")
        ax.set(yscale="log", ylabel="loss above that of $w^*$")
    axes[0].set_xticks(_fixed.FRACTION_BITS[::2])
    axes[0].set(xlabel=f"bits after the point, FL (rate {_fixed.RATE:g})", ylim=(1e-4, 10))
    axes[1].set(xscale="log", xlabel=f"rate (FL = {_fixed.FIXED})")
    axes[0].legend(fontsize=6, loc="upper right")


if __name__ == "__main__":
    style.main(__name__)
