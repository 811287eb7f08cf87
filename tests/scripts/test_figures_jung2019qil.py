"""Figures of jung2019qil: the same bytes each time, and what they show."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from paper_figs import style
from paper_figs.jung2019qil import _record, bits, intervals, transformer
from qtrain.recipes import jung2019qil
from qtrain.train import metrics
from qtrain.zoo.qil import IntervalWeight

ROWS = {
    "ablations": [
        {"variant": name, "seed": 0, "accuracy": 0.8 + 0.01 * i, "curve": [[62, 0.8]]}
        for i, name in enumerate([*jung2019qil.ABLATIONS, "float32"])
    ],
    "intervals": [
        {"bits": bits, "layer": layer, "role": role, "step": [step, step + 8],
         "low": [0.0, 0.1], "high": [0.5, 0.6], "gamma": [1.0, 1.0], "pruned": [0.1, 0.2],
         "clipped": [0.01, 0.02], "counts": [3, 2, 1], "largest": 0.9}
        for bits, step in ((4, 248), (3, 256)) for layer in _record.LAYERS
        for role in ("weight", "activation")
    ] + [
        {"bits": 32, "layer": layer, "role": "weight", "step": [], "counts": [3, 2, 1],
         "largest": 0.9}
        for layer in _record.LAYERS
    ],
}  # fmt: skip


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A folder of small result files, so that figures do not wait for a sweep."""
    folder = tmp_path / "results" / "jung2019qil"
    folder.mkdir(parents=True)
    for name, rows in ROWS.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(style, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(metrics, "commit", lambda: "0123")


@pytest.mark.parametrize("module", [bits, intervals, transformer], ids=lambda m: m.__name__)
@pytest.mark.usefixtures("results")
def test_same_bytes(module, tmp_path):
    """PDF, PNG and the sidecar, drawn twice."""
    folders = [style.make(module, True, tmp_path / name).parent for name in ("a", "b")]
    names = sorted(p.name for p in folders[0].iterdir())
    assert [n.rpartition(".")[2] for n in names] == ["json", "pdf", "png"]
    for name in names:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name


@pytest.mark.usefixtures("results")
def test_every_series_is_of_variants_that_the_sweep_makes():
    """And at the bits that they end with; gaps are paired by seed.

    Kills: bits.py: `2: "direct 2", 3: "direct 3"` exchanged; `reference[s] - a` -> `a`.
    """
    for by_bits in bits.SERIES.values():
        for b, name in by_bits.items():
            recipe = jung2019qil.recipe(jung2019qil.ABLATIONS[name])
            assert recipe.weight[-1].setting.bits == b
    d = bits.data(quick=True)
    assert d["float32"] == {0: pytest.approx(80 + len(jung2019qil.ABLATIONS))}
    assert d["gaps"]["progressive"][2] == [pytest.approx(len(jung2019qil.ABLATIONS))]
    assert d["published"]["port's readme"][2] == pytest.approx(5.27)
    assert d["missing"].startswith("missing:\n2: seed 1, 2")


def test_dots_are_the_thresholds_of_the_curves():
    """Kills: transformer.py: `thresholds(C, D, q, g)` -> `thresholds(C, D, q)`."""
    d = transformer.data(quick=False)
    step = d["x"][1] - d["x"][0]
    for gamma, found in d["weights"].items():
        jumps = [d["x"][np.argmax(found["discretized"] > 0)], d["x"][np.argmax(
            found["discretized"] == 1)]]  # fmt: skip
        assert np.abs(np.subtract(jumps, d["thresholds"][gamma])).max() <= 1.01 * step


def test_the_chain_is_recorded_from_its_beginning():
    """Kills: _record.py: the list reversed."""
    found = _record.chain(jung2019qil.recipe())
    assert [stage.key for stage in found] == ["float32"] + 3 * ["jung2019qil"]
    assert [s.weight[-1].setting.bits for s in found[1:]] == [4, 3, 2]


def test_what_is_recorded_of_an_interval():
    """Kills: _record.py: `size == 0` -> `size > 0`; `jnp.abs(kernel) > high` -> `kernel > high`."""
    kernel = jnp.array([[-2.0, -1.0, -0.1, 0.0, 0.1, 0.8, 1.0, 2.0]])
    module = IntervalWeight(bits=2).module(kernel)
    module.c[...], module.d[...] = jnp.float32(0.75), jnp.float32(0.5)
    found = _record.interval(module, kernel)
    assert found == {"low": 0.25, "high": 1.25, "gamma": 1.0, "pruned": 0.375, "clipped": 0.25}
    assert _record.histogram(np.array([0.0, 1.0, 2.0]))["counts"][-1] == 1
