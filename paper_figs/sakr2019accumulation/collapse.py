"""The scaling law: retention depends on m and n through n / 4^m alone (n / 2^m toward zero).

Plain sums of n standard normal products. Points: the exact chain at m = 3 to 6 bits. Lines: the
limit of many bits, a diffusion (here at 16 bits; from 8 on nothing moves). Right: deviation of the
chain from the limit, times 2^m: it stays bounded, so the law holds to order 2^-m.
"""

import numpy as np

from paper_figs import style
from qtrain.formats import Float
from theory import retention
from theory.addition import ROUNDINGS
from theory.chain import sums
from theory.products import Gaussian

PAPER = "sakr2019accumulation"
WIDTH = "text"
PANELS = 2
TALL = 1.15
LIMIT = 16
MARKERS = dict(zip(range(3, 7), "ov^s", strict=True))


def data(quick: bool) -> dict:
    """Retention by rounding, of the chain and in the limit, against the scaled length."""
    times = 2.0 ** np.arange(-6, 7, 4 if quick else 1)
    found = {}
    for rounding in ROUNDINGS:
        base = _base(rounding)
        # lengths are whole; each deviation is taken at the length that was summed
        chain = []
        for m in range(3, 5) if quick else MARKERS:
            for t in sorted({round(t * base**m) / base**m for t in times} - {0.0}):
                kept, limit = _chain(m, round(t * base**m), rounding), _limit(t, rounding)
                chain.append([m, t, kept, (kept - limit) * 2**m])
        fine = 2.0 ** np.arange(-6, 7, 1 if quick else 0.5)
        found[rounding] = {
            "chain": chain,
            "limit": [[t, _limit(t, rounding)] for t in fine],
        }
    return found


def _base(rounding: str) -> int:
    return 2 if rounding == "toward_zero" else 4


def _chain(m: int, n: int, rounding: str) -> float:
    """The exact retention; a spacing of at least 2^-8 below the products, to have fewer states."""
    fmt = Float(exp=8, man=m)
    return sums(Gaussian(), n, fmt, rounding, floor=2.0**-8, joint=False).retention


def _limit(t: float, rounding: str) -> float:
    return retention(LIMIT, t * _base(rounding) ** LIMIT, rounding)


def draw(d: dict, axes) -> None:
    """Retention on the left, scaled deviation on the right."""
    left, right = axes
    for rounding, part in d.items():
        line = style.LINE[rounding]
        left.plot(*zip(*part["limit"], strict=True), **line)
        for m, t, kept, deviation in part["chain"]:
            look = {"marker": MARKERS[m], "markersize": 2.8, "color": line["color"]}
            left.plot(t, kept, **look)
            right.plot(t, deviation, **look)
    for m in sorted({row[0] for part in d.values() for row in part["chain"]}):
        right.plot([], [], MARKERS[m], markersize=2.8, color="#000000", label=f"m = {m}")
    right.axhline(0, **{**style.LINE["theory"], "label": None}, zorder=0)
    left.set(xscale="log", yscale="log", xlim=(2.0**-7, 2.0**7), ylim=(5e-3, 20))
    left.set(xlabel="n / 4^m, toward zero n / 2^m", ylabel="E[s²] / E[S²]")
    right.set(xscale="log", xlabel="n / 4^m, toward zero n / 2^m", ylabel="deviation × 2^m")
    left.legend(loc="upper left")
    right.legend(loc="lower right", ncols=2)


if __name__ == "__main__":
    style.main(__name__)
