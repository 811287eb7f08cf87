"""What a narrow sum keeps of E[S^2], by rounding: exact theory, published formula, measurement.

Plain sums of n standard normal products rounded to 5 mantissa bits. Solid: the exact theory of
each rounding. Dashed: the published VRR with m_p = 5 [sakr2019accumulation, Thm. 1], which knows no
rounding; it is the same in all panels and is nearest to align, the adder without guard bits.
Points: 4096 sums by `qtrain.dot`, bars two standard errors. The products' grid matters where sums
are truncated: at 8 bits toward zero, unrounded products would keep a quarter less.
Rows: python -m paper_figs.sakr2019accumulation._measure
"""

from paper_figs import style
from theory import retention, vrr
from theory.addition import ROUNDINGS
from theory.products import rounded_gaussian

PAPER = "sakr2019accumulation"
WIDTH = "text"
PANELS = 4
TALL = 1.9
INPUTS = ("retention",)
BITS = (4, 6, 8)


def data(quick: bool) -> dict:
    """Retention by rounding and mantissa bits."""
    lengths = [2**k for k in range(4, 17, 5 if quick else 1)]
    products = rounded_gaussian("e4m5")  # its subnormals stand for what lies below 2^-6
    measured: dict[str, dict] = {rounding: {m: [] for m in BITS} for rounding in ROUNDINGS}
    for row in style.rows(PAPER, "retention"):
        if row["chunk"] is None and row["m"] in BITS:
            point = [row["n"], row["retention"], 2 * row["se"]]
            measured[row["rounding"]][row["m"]].append(point)
    fine = [2**k for k in range(4, 17)]
    return {
        "n": lengths,
        "exact": {
            rounding: {m: [retention(m, n, rounding, products) for n in lengths] for m in BITS}
            for rounding in ROUNDINGS
        },
        "fine": fine,
        "published": {m: [vrr(m, n=n) for n in fine] for m in BITS},
        "measured": measured,
    }


def draw(d: dict, axes) -> None:
    """One panel per rounding; above 1 a sum has gained variance, which only stochastic does."""
    colors = style.shades(BITS)
    for ax, (rounding, exact) in zip(axes, d["exact"].items(), strict=True):
        for m in BITS:
            ax.plot(d["fine"], d["published"][m], "--", color=colors[m], linewidth=0.7)
            ax.plot(d["n"], exact[m], color=colors[m], label=f"m = {m}")
            if points := d["measured"][rounding][m]:
                n, value, error = zip(*points, strict=True)
                ax.errorbar(n, value, error, fmt="o", color=colors[m], markersize=2.5,
                            elinewidth=0.8)  # fmt: skip
        ax.set(xscale="log", xlabel="products n", xticks=(1e2, 1e4))
        ax.set_title(style.LINE[rounding]["label"])
        ax.set_ylim(0, 3.6 if rounding == "stochastic" else 1.1)
        if rounding != "stochastic":
            ax.set_yticks((0, 0.5, 1))
    axes[0].set_ylabel("E[s²] / E[S²]")
    legend = axes[list(d["exact"]).index("stochastic")]
    legend.plot([], [], "--", color="#000000", linewidth=0.7, label="published")
    legend.plot([], [], "o", color="#000000", markersize=2.5, label="measured")
    legend.legend(loc="upper left", handlelength=1.5)


if __name__ == "__main__":
    style.main(__name__)
