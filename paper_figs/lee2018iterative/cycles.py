"""Quantization loss by cycle, and test loss and accuracy before and after each distortion.

Small CNN on fashion-mnist-8k, one seed: 6 epochs in float32 end at cycle 0; then a distortion after
each of 12 more. Left: mean (before - after)^2 over all weights, as a share of the first [the claim
of lee2018iterative: it falls]. With rates that fall by a cosine it must: what moves less is moved
back less.
Middle, right: saw-teeth; each cycle's upper end (accuracy) is the full-precision weights that
training left, its lower end the same weights quantized. Dotted: float32 before the first.
One bit gains over the cycles, but stays far from float32; two and three bits end near it. Not drawn
yet: four bits, two greedy ones, which lose over the cycles (70.8 % at the end, in the sweep's rows:
a second pass moves them, and shrinks the second scale by 1 - m^2 [derived]), and one bit at a
constant rate.
Rows: python -m paper_figs.lee2018iterative._record
"""

from paper_figs import style
from paper_figs.lee2018iterative import _record

PAPER = "lee2018iterative"
WIDTH = "text"
PANELS = 3
TALL = 1.5
INPUTS = ("cycles",)


def data(quick: bool) -> dict:
    """By run: cycles, quantization losses as shares of the first, saw-teeth of both measures."""
    found: dict[str, list[dict]] = {}
    for row in style.rows(PAPER, "cycles"):
        found.setdefault(row["run"], []).append(row)
    return {
        "runs": {
            run: {
                "cycle": [row["cycle"] for row in rows],
                "moved": [row["moved"] / rows[0]["moved"] for row in rows],
                "accuracy": teeth(rows, "accuracy", 100),
                "loss": teeth(rows, "loss", 1),
            }
            for run, rows in found.items()
        }
    }


def teeth(rows: list[dict], measure: str, unit: float) -> list[list[float]]:
    """Cycles and values: before and after, one after the other, at each."""
    points = [(row["cycle"], unit * row[when][measure]) for row in rows
              for when in ("before", "after")]  # fmt: skip
    return [list(side) for side in zip(*points, strict=True)]


def draw(d: dict, axes) -> None:
    """Quantization loss, accuracy, loss."""
    moved, accuracy, loss = axes
    apart = {_record.STEADY: ("#D55E00", "--"), _record.GREEDY: ("#CC79A7", ":")}
    colors = style.shades([run for run in d["runs"] if run not in apart])
    for run, found in d["runs"].items():
        color, line = apart[run] if run in apart else (colors[run], "-")
        look = {"color": color, "linewidth": 0.8, "linestyle": line, "label": run}
        moved.plot(found["cycle"], found["moved"], **look)
        accuracy.plot(*found["accuracy"], **look)
        loss.plot(*found["loss"], **look)
    for ax, measure in ((accuracy, "accuracy"), (loss, "loss")):
        first = next(iter(d["runs"].values()))[measure][1][0]
        ax.axhline(first, color="#888888", linestyle=":", linewidth=0.7)
    moved.set(xlabel="cycle", ylabel="quantization loss / the first", yscale="log")
    accuracy.set(xlabel="cycle", ylabel="test accuracy (%)")
    loss.set(xlabel="cycle", ylabel="test loss")
    moved.legend(loc="lower left")


if __name__ == "__main__":
    style.main(__name__)
