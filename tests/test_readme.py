"""What the README shows is true: its example runs, its table and links are current."""

import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from paper_figs import style
from qtrain import papers
from scripts import bench
from theory.requirement import mantissa_bits

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_example_runs(capsys):
    """It prints the stuck and the right sum, and a loss that falls."""
    code = re.search(r"```python\n(.*?)```", README, re.S)[1]
    assert len(code.splitlines()) <= 30
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    out = capsys.readouterr().out.splitlines()
    assert out[-3] == "None [[1024.]]"
    assert out[-2] == "64 [[65536.]]"
    losses = jnp.array([float(x) for x in out[-1].strip("[]").split(",")])
    assert (jnp.diff(losses) < 0).all()


def test_table_is_generated():
    """After a change of papers.py: paste the output of `python -m qtrain.papers` here."""
    assert f"<!-- papers -->\n{papers.table()}\n<!-- /papers -->" in README


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_links_lead_somewhere(path):
    assert (ROOT / path).exists()


def test_accuracies_are_the_measured_ones():
    runs: dict[str, list[float]] = {}
    for row in style.rows("wang2018fp8", "ablations"):
        runs.setdefault(row["variant"], []).append(100 * row["accuracy"])
    for name, values in runs.items():
        shown = name.replace("full", "whole FP8 recipe")
        assert f"| {shown} | {np.mean(values):.2f} % |" in README


def test_8bit_accuracies_are_the_measured_ones():
    runs: dict[str, list[float]] = {}
    for row in style.rows("banner2018scalable", "ablations"):
        runs.setdefault(row["variant"], []).append(row["accuracy"])
    mean = lambda name: f"{100 * np.mean(runs[name]):.2f} %"  # noqa: E731
    assert f"| 8 | {mean('full')} | {mean('no bifurcation')} |" in README
    for bits in (6, 5, 4):
        name = f"{bits} bits"
        assert f"| {bits} | {mean(name)} | {mean(name + ', no bifurcation')} |" in README
    assert f"| 3 | {mean('3 bits')} | NaN |" in README
    assert runs["3 bits, no bifurcation"].count(None) == 2
    assert f"{mean('float32')}; {mean('range norm')}" in README


def test_accuracies_by_weights_and_gradients_are_the_measured_ones():
    runs: dict[str, list[float]] = {}
    for row in style.rows("hou2019analysis", "ablations"):
        runs.setdefault(row["variant"], []).append(row["accuracy"])
    weights = {"float32": "fp", "1 bit": "lab"} | {f"{m} bits": f"laq{m}" for m in (2, 3, 4)}
    for shown, name in weights.items():
        gradients = ("fp", "sq2", "sq2 clip 3", "sq3", "sq4")
        cells = [f"{100 * np.mean(runs[f'{name} {g}']):.2f} %" for g in gradients]
        assert f"| {shown} | {' | '.join(cells)} |" in README


def test_speeds_are_the_measured_ones():
    """After `make bench`: paste the output of `python scripts/bench.py --table` here."""
    assert f"<!-- speed -->\n{bench.table(bench.RESULTS)}\n<!-- /speed -->" in README


def test_commands_exist():
    """Every script the README names is there, and every make target."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for script in set(re.findall(r"scripts/\w+\.py", README)):
        assert (ROOT / script).exists(), script
    for target in set(re.findall(r"make (\w+)  ", README)):
        assert re.search(rf"^{target}:.*## ", makefile, re.M), target


def test_widths_are_those_of_theory():
    """Bits by both theories, plain and in chunks, and the accuracies of the runs with them."""
    found = re.findall(r"^\| ([\d,]+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", README, re.M)
    assert len(found) == 6
    for length, *bits in found:
        n = int(length.replace(",", ""))
        asked = [(t, c) for c in (None, 64) for t in ("published", "exact")]
        assert [int(b) for b in bits] == [mantissa_bits(n, theory=t, chunk=c) for t, c in asked]
    for file, names in SHOWN.items():
        rows = style.rows("sakr2019accumulation", file)
        for name in names:
            mean = np.mean([100 * row["accuracy"] for row in rows if row["variant"] == name])
            assert f"{mean:.2f} %" in README, (file, name)


SHOWN = {
    "ablations": ("float32 sums", "exact", "exact chunk 64", "published", "published -3"),
    "heldout": ("float32 sums", "exact", "exact -1", "exact -2"),
}
