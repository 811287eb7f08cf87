"""The published criterion: ln v(n) = n (1 - VRR) against the length n, for 5 to 13 mantissa bits.

A width is suitable while v(n) < 50 (thin line); dots are the knees, the longest suitable sums.
Products of two (1,5,2) numbers, m_p = 5; plain sums on the left, chunks of 64 on the right, n
counting all products in both [sakr2019accumulation, Fig. 5(a), (b)]. One more bit carries a sum
2.6 times as far on average.
"""

import numpy as np

from paper_figs import style
from theory.vrr import LOG_LIMIT, knee, log_variance_lost

PAPER = "sakr2019accumulation"
WIDTH = "text"
PANELS = 2
TALL = 1.15
BITS = range(5, 14)


def data(quick: bool) -> dict:
    """Exponents ln v(n) and knees by chunk and mantissa bits."""
    lengths = [round(2.0 ** (k / 4)) for k in range(16, 89, 4 if quick else 1)]
    found = {"n": lengths}
    for name, chunk in (("plain", None), ("chunk 64", 64)):
        found[name] = {m: [log_variance_lost(m, n=n, chunk=chunk) for n in lengths] for m in BITS}
        found[f"knees {name}"] = [knee(m, chunk=chunk) for m in BITS]
    return found


def draw(d: dict, axes) -> None:
    """One line per width, on logarithmic axes."""
    colors = style.shades(BITS)
    for ax, name in zip(axes, ("plain", "chunk 64"), strict=True):
        for m, longest in zip(BITS, d[f"knees {name}"], strict=True):
            values = np.maximum(d[name][m], 1e-9)  # exactly 0 for short sums: below the axis
            ax.plot(d["n"], values, color=colors[m], label=f"m = {m}")
            ax.plot([longest], [LOG_LIMIT], "o", color=colors[m], markeredgecolor="#000000",
                    markeredgewidth=0.4, zorder=3)  # fmt: skip
        ax.axhline(LOG_LIMIT, **{**style.LINE["theory"], "label": None}, zorder=0)
        ax.text(18, LOG_LIMIT * 1.3, "v = 50", fontsize=7)
        ax.set(xscale="log", yscale="log", ylim=(1e-2, 1e5), xlim=(16, 2**22))
        ax.set(xlabel=f"products, {name}", ylabel="ln v(n)")
    axes[1].legend(loc="center left", bbox_to_anchor=(1, 0.5))


if __name__ == "__main__":
    style.main(__name__)
