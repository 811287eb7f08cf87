"""Figures of lee2018iterative: the same bytes each time, their rows are those of the run, and the
paper's claim on a problem small enough for a test.
"""

import dataclasses
import json

import jax
import numpy as np
import pytest
from scipy.stats import spearmanr
from train import tiny

from paper_figs import style, sweeps
from paper_figs.lee2018iterative import _record, cycles, histograms, period, storage
from qtrain.recipes import lee2018iterative as lee
from qtrain.recipes.base import Adam
from qtrain.train import metrics
from theory import stored_bits

PERIOD, CYCLES = 6, 8  # 96 images in batches of 16: a cycle is an epoch


def recipe(**options):
    """The retraining of an MLP on tiny images, at a constant rate."""
    chosen = lee.recipe(lee.Options(period=PERIOD, **options))
    small = {"model": "mlp", "batch_size": 16, "optimizer": Adam(lr=3e-3, schedule="constant")}
    start = dataclasses.replace(chosen.start, epochs=8, **small)
    return dataclasses.replace(chosen, start=start, epochs=CYCLES, **small)


@pytest.fixture(scope="module")
def rows() -> dict[int, list[dict]]:
    """Of one and two bits."""
    data = tiny.dataset()
    start = _record.last(recipe().start, data, 0)
    return {bits: _record.cycles(recipe(bits=bits), data, 0, start) for bits in (1, 2)}


@pytest.mark.parametrize("bits", [1, 2])
def test_quantization_loss_falls_over_cycles(rows, bits):
    """The claim of the paper [lee2018iterative, abstract], at a constant rate: rank correlation
    with the cycle below 0, the last three below the first. With one bit, whose first distortion
    hurts, the loss after one falls too.

    Kills: zoo/iterative.py: `step % self.period == 0` -> `step < 0`, with which weights never come
    nearer to their codes.
    """
    found = rows[bits]
    moved = [row["moved"] for row in found]
    assert len(found) == CYCLES + 1
    assert spearmanr(range(len(moved)), moved).statistic < 0
    assert np.median(moved[-3:]) < moved[0] / 2
    after = [row["after"]["loss"] for row in found]
    assert bits > 1 or np.median(after[-3:]) < after[0] / 2


def test_rows_are_those_of_the_run(rows):
    """The last weights before and after are those that training evaluates, and the state's own
    quantization loss is the row's. Kills: _record.py: a distortion before the step that makes it.
    """
    data = tiny.dataset()
    run = recipe()
    start = _record.last(run.start, data, 0)
    program, state, step = _record.short_run.begin(run, data, 0, start)
    for i in range(PERIOD + 1):
        state, _ = step(state, *_record.short_run.batch(run, data, 0, i))
    kept = {name: float(found.loss) for name, found in state.optimizer.kept.items()}
    row = rows[1][1]
    assert (row["cycle"], row["step"]) == (1, PERIOD)
    for name, loss in kept.items():
        layer = row["layers"][name.removesuffix("/kernel")]
        assert layer["moved"] == pytest.approx(loss, rel=1e-4)
        assert sum(layer["counts"]) <= layer["n"]
    assert row["moved"] == pytest.approx(
        sum(layer["n"] * layer["moved"] for layer in row["layers"].values())
        / sum(layer["n"] for layer in row["layers"].values())
    )
    assert jax.tree.leaves(program.moves.constraints)


def test_committed_cycles():
    """Of the small CNN: weights move less from the first cycle to the last. With one bit, what is
    shipped is better than the trained weights quantized at once.
    """
    found = cycles.data(quick=True)["runs"]
    assert "1 bit" in found
    for run, values in found.items():
        assert len(values["moved"]) == 13
        assert spearmanr(values["cycle"], values["moved"]).statistic < 0, run
        assert np.median(values["moved"][-3:]) < 1
        after = values["accuracy"][1][1::2]
        if run == "1 bit":
            assert after[-1] > after[0]


def written(folder, rows) -> None:
    """Rows of `_record` and of a sweep, some seeds missing, as those scripts write them."""
    folder.mkdir(parents=True)
    runs = zip(("1 bit", "2 bits", _record.STEADY), (1, 2, 1), strict=True)
    lines = [{"run": run, **_renamed(row)} for run, bits in runs for row in rows[bits]]
    (folder / "cycles.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    sweep = [
        {"variant": name, "seed": seed, "accuracy": 0.8 + 0.01 * seed + 0.001 * i, "curve": []}
        for i, name in enumerate([*lee.ABLATIONS, "float32"]) for seed in sweeps.SEEDS[: 1 + i % 3]
    ]  # fmt: skip
    (folder / "ablations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sweep))


def _renamed(row: dict) -> dict:
    """The MLP's first layer stands for the one that is drawn."""
    return row | {"layers": {histograms.LAYER: row["layers"]["hidden1"]}}


@pytest.mark.parametrize("module", [cycles, histograms, period, storage], ids=lambda m: m.__name__)
def test_same_bytes(module, rows, tmp_path, monkeypatch):
    """PDF, PNG and the sidecar, drawn twice."""
    written(tmp_path / "results" / module.PAPER, rows)
    monkeypatch.setattr(style, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(metrics, "commit", lambda: "0123")  # one may come between the two
    folders = [style.make(module, True, tmp_path / name).parent for name in ("a", "b")]
    names = sorted(p.name for p in folders[0].iterdir())
    assert {name.rpartition(".")[2] for name in names} == {"json", "pdf", "png"}
    for name in names:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name


def test_saw_teeth():
    """Kills: cycles.py: `("before", "after")` -> `("after", "before")`."""
    rows = [{"cycle": c, "before": {"loss": 1.0}, "after": {"loss": 2.0 + c}} for c in (0, 1)]
    assert cycles.teeth(rows, "loss", 1) == [[0, 0, 1, 1], [1.0, 2.0, 1.0, 3.0]]


def test_periods_are_those_of_the_variants():
    """Kills: period.py: a name of another variant."""
    for n, name in period.PERIODS.items():
        assert lee.ABLATIONS[name].period == (0 if n == 744 else n)
    assert all(lee.ABLATIONS[name].prune == p for p, name in storage.PRUNED.items())


def test_stored_bits_are_those_of_the_model():
    """Of all layers together: codes of all weights, 32 bits for each output channel and code.

    Kills: storage.py: `n / shape[-1]` -> `shape[-1]`.
    """
    shapes = storage.kernels()
    n = sum(np.prod(shape) for shape in shapes)
    channels = sum(shape[-1] for shape in shapes)
    assert n > 1e5
    for bits in (1, 4):
        assert storage.stored(shapes, bits) == pytest.approx(bits * (n + 32 * channels) / n)
    pruned = storage.stored(shapes, 1, 0.9)
    assert pruned == pytest.approx(1 + 0.1 + 32 * channels / n)
    assert pruned > storage.stored(shapes, 1)  # with a mask, pruning one bit stores more
    assert storage.stored(shapes, 1, 0.9, "entropy") == pytest.approx(
        stored_bits.entropy(0.9) + 0.1 + 32 * channels / n
    )
