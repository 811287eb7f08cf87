"""Figures: the same bytes each time, what they claim, and an error where results are missing."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from paper_figs import short_run, style, sweeps
from paper_figs.banner2018scalable import (
    _tensors,
    accuracy,
    bits,
    cosine,
    histograms,
    predicted,
    range_norm,
)
from paper_figs.sakr2019accumulation import convergence, knee, vn, widths
from paper_figs.wang2018fp8 import ablations, chunk_error, fig3b, gap
from qtrain.recipes import banner2018scalable, wang2018fp8
from qtrain.recipes.base import baseline
from qtrain.recipes.config import from_json
from qtrain.train import metrics
from qtrain.train.data import load
from qtrain.train.state import create
from scripts import figures
from theory import angle

ROOT = Path(__file__).resolve().parents[2]


DRAWN = [ablations, gap, convergence, knee, vn]
DRAWN += [accuracy, bits, cosine, histograms, predicted, range_norm]


@pytest.mark.parametrize("module", DRAWN, ids=lambda m: m.__name__)
def test_same_bytes(module, tmp_path, monkeypatch):
    """PDF, PNG and the sidecar, drawn twice. Kills: style.py: a creation date is written.

    From a copy of the results and one commit: a sweep or a commit may come between the two.
    """
    shutil.copytree(style.RESULTS / module.PAPER, tmp_path / "results" / module.PAPER)
    monkeypatch.setattr(style, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(metrics, "commit", lambda: "0123")
    folders = [style.make(module, True, tmp_path / name).parent for name in ("a", "b")]
    names = sorted(p.name for p in folders[0].iterdir())
    assert {Path(n).suffix for n in names} == {".json", ".pdf", ".png"}
    for name in names:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name


@pytest.mark.slow  # 20 seconds
def test_fig3b_sticks_at_exactly_4096():
    """Half an ulp at 4096 is 4, above every addend, 1 + sqrt 3: each of the sums that arrive
    there stays; chunks of 64 follow the true sum within half an ulp of every level.

    The last bound: a chunk's sum is below 64 (1 + sqrt 3) < 256 and a chunk's error below 64
    half-ulps of 2^-3; the outer sum of n / 64 chunks errs by at most half an ulp, 2^(e - 10), each.
    """
    d = fig3b.data(quick=True)
    assert d["length"][-1] == 16384
    assert d["nearest"][-1] == 4096
    exact = np.array(d["float32"])
    n = np.array(d["length"])
    ulp = 2.0 ** (np.floor(np.log2(exact)) - 9)
    assert (np.abs(np.array(d["chunked"]) - exact) <= n / 64 * (64 * 0.0625 + ulp)).all()


@pytest.mark.slow
def test_chunk_error_is_a_valley():
    """Chunks of 1 and of n = 4096 are one long sum either way: worse than chunks of 64."""
    d = chunk_error.data(quick=True)
    error = dict(zip(d["chunk"]["4096"], d["error"]["4096"], strict=True))
    assert error[64] < min(error[1], error[4096])


def test_traced_lengths_give_the_confirmed_widths():
    """ResNet-18, forward, plain, beside what was read of [sakr2019accumulation, Table 1]: blocks
    1, 3 and 4 agree, block 2 has a bit more there, conv 0 four. Kills: a group's first sum.
    """
    longest = list(widths.lengths("resnet18")["forward"].values())
    assert longest == [147, 576, 1152, 2304, 4608]
    published = [widths.mantissa_bits(n, **widths.FORMULA) for n in longest]
    paper = [plain for plain, _ in widths.SOURCED["resnet18", "forward"]]
    assert [a - b for a, b in zip(paper, published, strict=True)] == [4, 0, 1, 0, 0]


def test_forward_tensors_keep_their_direction_and_errors_do_not():
    """Every weight, activation and normalized output of the measured run lies above the bound of
    the largest, which is the lowest; errors of the convolutions lie below it at 8 bits
    [banner2018scalable, M-bit theorem, poster]. Kills: cosine.py: the bound of the smallest.
    """
    d = cosine.data(quick=True)
    bound = dict(zip(d["bits"], d["bound"], strict=True))
    layers = set(_tensors.LAYERS)
    for role in ("weight", "activation", "error", "gradient"):
        assert {t["layer"] for t in d["tensors"] if t["role"] == role} == layers
    for t in d["tensors"]:
        measured = dict(zip(d["bits"], t["cosine"], strict=True))
        if t["role"] in cosine.FORWARD:
            assert all(measured[m] >= bound[m] for m in bound), t["layer"]
        if t["role"] == "error" and t["layer"].startswith("conv"):
            assert measured[8] < bound[8], t["layer"]


def test_predictions_are_those_of_the_tensor():
    """From a row's few numbers as from the tensor itself. Kills: predicted.py: -low for high.
    1e-6: the row's sums are of 5000 float32 values in float64, the
    law's shape is found to 1e-12.
    """
    x = np.random.default_rng(0).laplace(size=5000).astype(np.float32) ** 3 + np.float32(0.1)
    found = predicted.predicted(_tensors.measured(x, "gradient"), (2, 4))
    want = [angle.predicted(x, bits) for bits in (2, 4)]
    np.testing.assert_allclose(found["kurtosis"], want, rtol=1e-6)
    assert found["size"] == [angle.uniform(bits, 5000) for bits in (2, 4)]


def test_knowing_more_of_a_tensor_predicts_its_cosine_better():
    """Root mean square misses of the measured run, on both sides, and the errors' as the caption
    states them. Kills: predicted.py: the Gaussian law in the third panel.
    """
    d = predicted.data(quick=False)
    missed = {
        role: {
            known: np.concatenate([
                np.subtract(t["measured"], t["predicted"][known])
                for t in d["tensors"] if t["role"] == role
            ])
            for known in predicted.KNOWN
        }
        for role in (*predicted.FORWARD, *predicted.BACKWARD)
    }  # fmt: skip
    rms = {role: {k: np.sqrt((m**2).mean()) for k, m in of.items()} for role, of in missed.items()}
    for role, of in rms.items():
        assert of["kurtosis"] < of["extremes"] < of["size"], role
    assert [round(x, 2) for x in rms["error"].values()] == [0.30, 0.22, 0.05]
    assert [round(abs(m).max(), 2) for m in missed["error"].values()] == [0.73, 0.72, 0.16]


def test_calibration_is_that_of_the_variants_drawn():
    """Kills: range_norm.py: the code's C without its 16 chunks (0.971 at 4096, not 0.917)."""
    for constant, variant in range_norm.CONSTANTS.items():
        options = banner2018scalable.ABLATIONS[variant]
        assert (options.constant, options.chunks) == (constant, range_norm.CHUNKS[constant])
    d = range_norm.data(quick=False)
    code = dict(zip(d["n"].tolist(), d["calibration"]["code"], strict=True))
    assert round(code[4096], 3) == 0.917  # [computed]
    assert code[32768] < 0.96 < code[65536]  # within 4 % from there on


def test_measured_tensors_are_those_of_the_gemms():
    """At initialization: the output of a dense layer is activation x weight, its weight's gradient
    activation x error. A float32 sum of n products errs by n 2^-24 / (1 - n 2^-24) of the sum of
    their magnitudes at most, whatever its order. Kills: _tensors.py: out + 2 added.
    """
    recipe = baseline(banner2018scalable.recipe())
    data = load(recipe.data)
    program, state = create(recipe, data, seed=0, steps=1)
    batch = short_run.batch(recipe, data, 0, 0)
    found = _tensors.tensors(program, state, *batch)["hidden"]
    found = {role: np.float64(x) for role, x in found.items()}
    for result, a, b in (
        (found["output"], found["activation"], found["weight"]),
        (found["gradient"], found["activation"].T, found["error"]),
    ):
        rounding = a.shape[1] * 2.0**-24
        assert (abs(result - a @ b) <= rounding / (1 - rounding) * (abs(a) @ abs(b))).all()


def test_missing_seeds_are_named_and_stopped_ones_are_not_missing(monkeypatch):
    """Kills: sweeps.py: a run that stopped at a NaN is left out."""
    ran = {"variant": "full", "seed": 1, "accuracy": 0.9, "curve": [[62, 0.9]]}
    stopped = {"variant": "2 bits, no bifurcation", "seed": 0, "accuracy": None, "curve": []}
    monkeypatch.setattr(style, "rows", lambda paper, name: [ran, stopped])
    d = bits.data(quick=True)
    assert d["ours"]["full"][8] == {1: 90.0}
    assert d["stopped"] == {"full": [], "no bifurcation": [2]}
    assert d["missing"].startswith("missing:\n")
    assert d["missing"].splitlines()[-1].startswith("and of ")
    found = {"full": {1: ran}, "narrow": {0: stopped}}
    assert sweeps.missing(found) == "missing:\nfull: seed 0, 2\nnarrow: seed 1, 2"
    assert sweeps.missing({"full": dict.fromkeys(sweeps.SEEDS, ran)}) == ""


def test_a_missing_optional_input_is_left_out(monkeypatch, tmp_path):
    """The knee without the network held out. Kills: style.py: every input is hashed."""
    folder = tmp_path / knee.PAPER
    folder.mkdir()
    rows = (style.RESULTS / knee.PAPER / "ablations.jsonl").read_bytes()
    (folder / "ablations.jsonl").write_bytes(rows)
    monkeypatch.setattr(style, "RESULTS", tmp_path)
    monkeypatch.setattr(knee, "_forward_sums", lambda model: [64])
    sidecar = style.make(knee, True, tmp_path / "out").with_suffix(".json")
    assert json.loads(sidecar.read_text())["inputs"].keys() == {"ablations.jsonl"}


def test_missing_results_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(style, "RESULTS", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"ablations\.jsonl is missing"):
        gap.data(quick=True)


@pytest.mark.parametrize("paper", [banner2018scalable, wang2018fp8], ids=lambda m: m.__name__)
def test_committed_ablations_cover_every_variant_and_seed(paper):
    """[issue: each ablation with its own number, three seeds]: from one configuration each."""
    rows = style.rows(paper.__name__.rsplit(".", 1)[-1], "ablations")
    assert {r["variant"] for r in rows} == {*paper.ABLATIONS, "float32"}
    for name, options in paper.ABLATIONS.items():
        found = [r for r in rows if r["variant"] == name]
        assert sorted(r["seed"] for r in found) == [0, 1, 2]
        assert all(from_json(r["recipe"]) == paper.recipe(options) for r in found)


def test_a_paper_without_figures_is_one_clear_line(tmp_path, monkeypatch, capsys):
    """Scripts that only measure are no figures. Kills: figures.py: `[!_]*.py` -> `*.py`."""
    for name in ("here/drawn.py", "there/_measure.py"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    monkeypatch.setattr(style, "FOLDER", tmp_path)
    monkeypatch.setattr(sys, "argv", ["figures.py", "there"])
    assert figures.main() == 2
    assert capsys.readouterr().err == "no figures for there: choose from here\n"


def test_command(tmp_path):
    """An unknown paper is told the known ones; a known one is drawn, from any folder."""
    command = [sys.executable, str(ROOT / "scripts" / "figures.py")]
    where = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(ROOT)}}
    run = subprocess.run([*command, "nobody"], **where, capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr.startswith("no figures for nobody: choose from banner2018scalable, ")
    assert run.stderr.endswith("sakr2019accumulation, wang2018fp8\n")
    single = [sys.executable, str(ROOT / "paper_figs" / "wang2018fp8" / "gap.py"), "--quick"]
    out = ["--out", str(tmp_path)]
    run = subprocess.run([*single, *out], **where, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    sidecar = json.loads((tmp_path / "wang2018fp8" / "gap.json").read_text())
    assert sidecar["inputs"].keys() == {"ablations.jsonl"}
