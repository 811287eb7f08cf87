"""Figures of hou2019analysis: the same bytes each time, and what their docstrings claim."""

from pathlib import Path

import numpy as np
import pytest

from paper_figs import style, sweeps
from paper_figs.hou2019analysis import (
    _lab,
    bound,
    clip,
    dimension,
    floors,
    table,
    workers,
)
from theory import gradient_quantization as gq
from theory.convex_lab import Lab, run

DRAWN = [bound, clip, dimension, floors, table, workers]


@pytest.mark.parametrize("module", DRAWN, ids=lambda m: m.__name__)
def test_same_bytes(module, tmp_path):
    """PDF, PNG and the sidecar, drawn twice."""
    folders = [style.make(module, True, tmp_path / name).parent for name in ("a", "b")]
    names = sorted(p.name for p in folders[0].iterdir())
    assert {Path(n).suffix for n in names} == {".json", ".pdf", ".png"}
    for name in names:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name


def test_bounds_hold_but_for_the_witnesses():
    """Every row is of a run whose assumptions hold, so that no bound is below the regret; each
    printed one of a witness is. Kills: bound.py: the regret over the bound.
    """
    assert all(row["hold"] for row in style.rows(_lab.PAPER, "bound"))
    d = bound.data(quick=True)
    for sweep, (_, values) in bound.SWEEPS.items():
        for line, points in d["ratios"][sweep].items():
            assert min(ratio for _, ratio in points) >= 1, (sweep, line)
            assert {x for x, _ in points} == set(values) - ({1} if sweep == "d" else set())
    assert all(found["RMSProp, printed"] < 1 for _, found in d["witnesses"].values())


def test_a_row_is_the_run_of_its_lab():
    """To the digits that are kept, and 1e-9 for sums in another order. Kills: _lab.py: fields that
    are the default are kept instead of the others.
    """
    rows = style.rows(_lab.PAPER, "bound")
    row = min(rows, key=lambda row: Lab(**row["lab"]).d)
    got = run(Lab(**row["lab"]))
    assert Lab(**_lab._row(got)["lab"]) == got.lab
    assert abs(got.mean_regret / row["regret"] - 1) <= 0.5 * 10.0 ** (1 - _lab.DIGITS) + 1e-9


def test_layers_stay_below_what_any_gradient_can_do():
    """Clipped, the norm is at most `clipped_worst` of ||g||^2, and less than without.

    Kills: clip.py: the layers' bias for their norm; clip 3 for every clip.
    """
    d = clip.data(quick=True)
    free = dict(d["layers"]["no clip"])
    assert all(1 <= free[n] <= gq.sharp_enlargement(n, clip.BITS) for n in free)
    for c in ("c = 1", "c = 2", "c = 3"):
        worst = gq.clipped_worst(clip.BITS, clip.CLIPS[c])
        assert all(value <= min(worst, free[n]) for n, value in d["layers"][c]), c
    for (_, low), (_, middle), (_, high) in zip(
        *(d["layers"][f"c = {c}"] for c in (1, 2, 3)), strict=True
    ):
        assert low < middle < high


def test_sgd_is_slowed_down_and_rmsprop_at_its_step_is_not():
    """Kills: dimension.py: full precision over quantized; the weights' names exchanged."""
    d = dimension.data(quick=True)
    for n in dimension.D:
        assert min(d["ratio"]["sgd tuned, fp"][n]) > 1
        assert np.mean(d["ratio"]["rmsprop, fp"][n]) < np.mean(d["ratio"]["sgd tuned, fp"][n])


def test_finer_weights_are_paired_by_gradients_and_seed():
    """Kills: table.py: seeds not compared, coarser less finer."""
    percents = {f"{w} {g}": {} for w in table.WEIGHTS for g in table.GRADIENTS}
    percents["lab sq2"], percents["laq2 sq2"] = {0: 80.0, 1: 82.0}, {2: 90.0, 1: 83.5}
    percents["laq2 fp"] = {0: 99.0}
    assert table.steps(percents, "lab") == [1.5]


def test_workers_average_their_noise():
    """Disjoint groups of N workers would make it exact; nested ones are equal within 4 standard
    errors. Of a mean over T steps of squares with a coefficient of variation of at most 1 (64
    entries), that is 4 / sqrt T for each. Kills: workers.py: the sum of the gradients.
    """
    steps = 400
    values = np.array(workers.variance(2, steps)) * workers.WORKERS
    assert np.ptp(values) / values.mean() < 2 * 4 / steps**0.5


def test_floor_of_the_bound_does_not_follow_the_bits():
    """From 1 to 8 bits the measured loss falls a hundred times, the printed floor not by half.

    Kills: floors.py: the speed term for the floor.
    """
    found = floors.data(quick=True)["found"]
    for by_quantity in found.values():
        coarse, fine = (
            {q: np.mean(v[bits]) for q, v in by_quantity.items()} for bits in ("1", "8")
        )
        assert fine["w"] < coarse["w"] / 100
        assert coarse["bound, printed"] / 2 < fine["bound, printed"] <= coarse["bound, printed"]
        assert by_quantity["bound, printed"]["fp"] == [0.0] * len(sweeps.SEEDS)
