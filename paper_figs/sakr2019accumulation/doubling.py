"""Mantissa bits that a plain sum of n zero-mean products needs: steps, and slopes from theory.

Left: retention within a tenth of 1, our criterion, and the published formula with its own,
v(n) < 50, m_p = 5. Right: the published criterion, n |1 - retention| < ln 50, on the exact
retention. Beside each rounding: its bits per doubling of n in closed form (`theory.regimes`). The
published formula's 0.72 are those of its knees from 5 to 13 bits.
"""

import math

from paper_figs import style
from theory import regimes, scaling
from theory.addition import ROUNDINGS
from theory.requirement import TOLERANCE
from theory.vrr import knee
from theory.vrr import mantissa_bits as published_bits

PAPER = "sakr2019accumulation"
WIDTH = "text"
PANELS = 2
TALL = 1.15
CRITERIA = ("retention", "published")


def data(quick: bool) -> dict:
    """Required bits by criterion and rounding, and their slopes."""
    found: dict = {"n": [2**k for k in range(4, 31, 13 if quick else 1)]}
    for criterion in CRITERIA:
        found[criterion] = {
            rounding: [_bits(n, rounding, criterion) for n in found["n"]] for rounding in ROUNDINGS
        }
        found[f"slopes {criterion}"] = {
            rounding: str(regimes.bits_per_doubling(rounding, criterion)) for rounding in ROUNDINGS
        }
    found["formula"] = [published_bits(n) for n in found["n"]]
    found["formula slope"] = 8 / math.log2(knee(13) / knee(5))
    return found


def _bits(n: int, rounding, criterion) -> float:
    try:
        return scaling.mantissa_bits(n, rounding, TOLERANCE, criterion=criterion)
    except ValueError:  # more than 50 bits: off the figure
        return math.nan


def draw(d: dict, axes) -> None:
    """One panel per criterion, both with the published formula."""
    for ax, criterion in zip(axes, CRITERIA, strict=True):
        for rounding, bits in d[criterion].items():
            line = style.LINE[rounding]
            label = f"{line['label']}, {d[f'slopes {criterion}'][rounding]}"
            ax.plot(d["n"], bits, **{**line, "label": label}, marker=".")
        line = style.LINE["published"]
        label = f"{line['label']}, {d['formula slope']:.2f}"
        ax.plot(d["n"], d["formula"], **{**line, "label": label}, zorder=0)
        ax.set_xscale("log", base=2)
        ax.set(xticks=[2**k for k in range(4, 31, 4)], xlabel="products n")
        ax.set_ylim(0, 1.4 * ax.get_ylim()[1])  # room for the legend
        ax.legend(loc="upper left", title="rounding, bits per doubling", title_fontsize=7)
    axes[0].set_ylabel("mantissa bits, retention within 0.1")
    axes[1].set_ylabel("mantissa bits, v(n) < 50")


if __name__ == "__main__":
    style.main(__name__)
