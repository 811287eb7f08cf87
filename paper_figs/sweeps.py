"""The rows that `python scripts/sweep.py RECIPE` wrote, as the figures of a paper take them."""

from __future__ import annotations

from collections.abc import Iterable

from paper_figs import style

SEEDS = (0, 1, 2)


def runs(
    paper: str, variants: Iterable[str], name: str = "ablations"
) -> dict[str, dict[int, dict]]:
    """Rows of the paper's file of that name by variant, in the order given, and seed.

    Raises:
      FileNotFoundError: there is no such file yet.
    """
    found: dict[str, dict[int, dict]] = {variant: {} for variant in variants}
    for row in style.rows(paper, name):
        if row["variant"] in found:
            found[row["variant"]][row["seed"]] = row  # the newest, where a run was repeated
    return {variant: dict(sorted(by_seed.items())) for variant, by_seed in found.items()}


def missing(found: dict[str, dict[int, dict]]) -> str:
    """Which of the three seeds are not there, a line a variant, of four at most; "" if none is."""
    gone = {name: [s for s in SEEDS if s not in by_seed] for name, by_seed in found.items()}
    lines = [f"{name}: seed {', '.join(map(str, seeds))}" for name, seeds in gone.items() if seeds]
    more = [f"and of {len(lines) - 3} more"] if len(lines) > 4 else []
    return "\n".join(["missing:", *lines[: 3 if more else 4], *more]) if lines else ""


def percent(by_seed: dict[int, dict]) -> dict[int, float]:
    """Final test accuracy by seed, of the runs that have one: some stop at a NaN."""
    return {s: 100 * row["accuracy"] for s, row in by_seed.items() if row["accuracy"] is not None}


def stopped(by_seed: dict[int, dict]) -> list[int]:
    """Seeds whose run stopped before its end, at a number that was not finite."""
    return [seed for seed, row in by_seed.items() if row["accuracy"] is None]


def note(ax, text: str, x: float, y: float) -> None:
    """Small grey text in the corner of the axes that is nearest to (x, y), in fractions of them."""
    ax.text(x, y, text, transform=ax.transAxes, ha="right" if x > 0.5 else "left",
            va="top" if y > 0.5 else "bottom", color="#888888", fontsize=5)  # fmt: skip
