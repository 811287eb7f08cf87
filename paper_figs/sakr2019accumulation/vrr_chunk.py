"""Retention of the variance against the chunk size, for sums of 65536 products.

Dashed: the published VRR with m_p = 5 [sakr2019accumulation, Fig. 5(c)]. Solid: the exact theory
of a sum that rounds to nearest, which keeps more at the same width. Both have a broad plateau
around sqrt(n); chunk 64 lies on it from 8 bits on by the published formula, from 6 by the exact.
"""

from paper_figs import style
from theory import retention, vrr

PAPER = "sakr2019accumulation"
WIDTH = "column"
TALL = 1.3
LENGTH = 65536
BITS = range(5, 10)


def data(quick: bool) -> dict:
    """VRR and exact retention by mantissa bits, each with its chunk sizes."""
    fine = [2**k for k in range(17)]
    coarse = [2**k for k in ((0, 3, 6, 8, 10, 13, 16) if quick else range(17))]
    return {
        "fine": fine,
        "coarse": coarse,
        "vrr": {m: [vrr(m, n=LENGTH, chunk=c) for c in fine] for m in BITS},
        "exact": {
            m: [retention(m, LENGTH, chunk=c) for c in coarse]
            for m in (BITS[::4] if quick else BITS)
        },
    }


def draw(d: dict, ax) -> None:
    """Retention against chunk size, a colour per width."""
    colors = style.shades(BITS)
    for m in BITS:
        ax.plot(d["fine"], d["vrr"][m], "--", color=colors[m], linewidth=0.9)
        ax.plot([], [], color=colors[m], label=f"m = {m}")
    for m, kept in d["exact"].items():
        ax.plot(d["coarse"], kept, ".-", color=colors[m])
    ax.plot([], [], "-", color="#000000", label="exact")
    ax.plot([], [], "--", color="#000000", linewidth=0.9, label="published")
    ax.axvline(64, 0.45, 1, **{**style.LINE["theory"], "label": None}, zorder=0)
    ax.set(xscale="log", xlabel="products per chunk, n = 65536", ylabel="retained variance")
    ax.set_ylim(0, 1.02)
    ax.legend(loc="lower center", ncols=2)


if __name__ == "__main__":
    style.main(__name__)
