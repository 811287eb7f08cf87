"""What a person sees at the end of a run: a table, and where everything is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from qtrain.recipes import describe
from qtrain.recipes.base import Recipe
from qtrain.train import metrics
from qtrain.train.data import Dataset
from qtrain.train.loop import Result
from qtrain.train.text import Text

WIDTH = 1000  # characters: tables keep their own width, and no cell is wrapped or cut


def show(recipe: Recipe, dataset: Dataset | Text, results: Sequence[Result], folder: Path) -> None:
    """Prints formats by place, accuracies, gap and times of the recipe and its baseline."""
    console = Console(highlight=False, width=WIDTH)
    formats = Table(title=f"{recipe.key}: number formats by place", title_justify="left")
    formats.add_column("place")
    formats.add_column("format")
    for place, text in describe.places(recipe).items():
        formats.add_row(place.replace("_", " "), text)
    console.print(formats)
    console.print(outcome(recipe, dataset, results))
    if len(results) == 2:
        ours, reference = results
        gap = _percent(reference) - _percent(ours)
        console.print(f"gap to float32: {gap:+.2f} points (positive: float32 is better)")
        if ours.step_seconds and reference.step_seconds:
            ratio = ours.step_seconds / reference.step_seconds
            console.print(f"emulation costs {ratio:.1f} times the float32 step on this machine")
    if results[0].sent:
        sent, whole = results[0].sent, 4 * results[0].params
        console.print(
            f"each worker tells the others {sent:,.0f} bytes a step, 1/{whole / sent:.2f} of its"
            f" gradients in float32 ({whole:,}); of N workers, each receives N - 1 times that"
        )
    for result in results:
        console.print(
            f"{result.key}: metrics {result.folder / metrics.NAME},"
            f" checkpoint {result.folder / 'checkpoints' / str(result.step)}",
            soft_wrap=True,
        )


def outcome(recipe: Recipe, dataset: Dataset | Text, results: Sequence[Result]) -> Table:
    """One row per run; for text, its loss also in bits per character."""
    names = ["run", "test accuracy", "test loss", "ms per step", "compilation", "skipped"]
    if isinstance(dataset, Text):
        names.insert(3, "bits per character")
    table = Table(
        title=f"{recipe.model} on {dataset.name}, {results[0].steps} steps", title_justify="left"
    )
    for name in names:
        table.add_column(name, justify="left" if name == "run" else "right")
    for r in results:
        speed = "" if r.step_seconds is None else f"{1e3 * r.step_seconds:.1f}"
        compiled = "" if r.compile_seconds is None else f"{r.compile_seconds:.1f} s"
        bits = [f"{_bits(r):.4f}"] if isinstance(dataset, Text) else []
        table.add_row(
            r.key, f"{_percent(r):.2f} %", f"{r.loss:.4f}", *bits, speed, compiled, str(r.skipped),
        )  # fmt: skip
    return table


def _percent(result: Result) -> float:
    """Test accuracy in percent; NaN before the first evaluation."""
    return float("nan") if result.accuracy is None else 100 * result.accuracy


def _bits(result: Result) -> float:
    """Test loss in bits; NaN before the first evaluation."""
    return float("nan") if result.loss is None else result.loss / math.log(2)
