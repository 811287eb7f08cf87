"""The sweep: a row per run, none twice, and again after a change of configuration."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from qtrain.train import loop
from scripts import sweep

ROOT = Path(__file__).resolve().parents[2]
QUICK = {"recipe": "wang2018fp8", "only": ("float32",), "seeds": (0,), "model": ("mlp",),
         "epochs": 1}  # fmt: skip


def rows(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_finished_rows_are_not_repeated(tmp_path, capsys):
    """Kills: sweep.py: rows are compared by name and seed alone."""
    out = tmp_path / "rows.jsonl"
    sweep.main(sweep.Options(**QUICK, out=out))
    first = rows(out)
    assert len(first) == 1
    assert first[0]["variant"] == "float32"
    assert 0.5 < first[0]["accuracy"] < 1
    sweep.main(sweep.Options(**QUICK, out=out))
    assert rows(out) == first
    assert "already in rows.jsonl" in capsys.readouterr().out
    sweep.main(sweep.Options(**{**QUICK, "epochs": 2}, out=out))
    assert len(rows(out)) == 2


def test_a_row_cut_off_by_a_kill_is_run_again(tmp_path):
    """The broken last line is dropped, finished rows stay."""
    out = tmp_path / "rows.jsonl"
    sweep.main(sweep.Options(**QUICK, out=out))
    whole = out.read_text()
    out.write_text(whole + whole[: len(whole) // 2])
    sweep.main(sweep.Options(**{**QUICK, "seeds": (0, 1)}, out=out))
    assert [(r["variant"], r["seed"]) for r in rows(out)] == [("float32", 0), ("float32", 1)]


def test_an_interrupted_run_leaves_no_row(tmp_path, monkeypatch):
    """Ctrl-C in the second epoch, where one evaluation is done: no result, and no further run.

    Kills: sweep.py: `if result.interrupted:` left out.
    """
    out = tmp_path / "rows.jsonl"
    advance = loop._Run.advance

    def interrupted(run):
        if run.step == run.epoch:
            signal.raise_signal(signal.SIGINT)
        advance(run)

    monkeypatch.setattr(loop._Run, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep.main(sweep.Options(**{**QUICK, "epochs": 2, "seeds": (0, 1)}, out=out))
    assert rows(out) == []


def test_unknown_variant():
    with pytest.raises(ValueError, match="no variant chunk9: choose from full, no chunks"):
        sweep.variants(sweep.Options(**{**QUICK, "only": ("chunk9",)}))
    with pytest.raises(ValueError, match="float32 has no ablations"):
        sweep.variants(sweep.Options(**{**QUICK, "recipe": "float32"}))


@pytest.mark.parametrize("line", ["garbage", "[1]", '{"seed": 0}'])
def test_a_line_that_is_no_row_is_named_and_kept(tmp_path, line):
    out = tmp_path / "rows.jsonl"
    out.write_text(f"{line}\n")
    with pytest.raises(ValueError, match=r"line 1 of .*rows\.jsonl is no row of a sweep"):
        sweep.main(sweep.Options(**QUICK, out=out))
    assert out.read_text() == f"{line}\n"


def test_a_place_that_cannot_be_written_is_named_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write .*rows\.jsonl: .*choose another --out"):
        sweep.main(sweep.Options(**QUICK, out=tmp_path / "file" / "rows.jsonl"))


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path):
    """SIGKILL again and again, each time a little later: in the end every run has one row.

    A method that begins with trained weights is among them, so kills meet its start as well.
    """
    command = [
        sys.executable, "scripts/sweep.py", "guo2018survey", "--out", str(tmp_path), "--starts",
        str(tmp_path / "starts"), "--model", "mlp", "--epochs", "1", "--seeds", "0", "1",
        "--only", "twn 2/32", "ttq 2/32",
    ]  # fmt: skip
    for seconds in range(6, 600, 3):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        try:
            process.wait(seconds)
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert process.returncode == 0
    found = [(row["variant"], row["seed"]) for row in rows(tmp_path / "guo2018survey.jsonl")]
    assert sorted(found) == [(n, s) for n in ("ttq 2/32", "twn 2/32") for s in (0, 1)]


def test_several_models_and_a_folder(tmp_path, capsys):
    """Kills: sweep.py: `changed(recipe, **changes, **model)` -> `changed(recipe, **changes)`."""
    chosen = sweep.variants(sweep.Options(**{**QUICK, "model": ("mlp", "small_cnn")}))
    assert {name: r.model for name, r in chosen.items()} == {
        "mlp: float32": "mlp", "small_cnn: float32": "small_cnn"
    }  # fmt: skip
    sweep.main(sweep.Options(**QUICK, out=tmp_path / "results"))
    assert len(rows(tmp_path / "results" / "wang2018fp8.jsonl")) == 1
    said = capsys.readouterr().out
    assert "[1 of 1, about 0 min left]" in said
    assert said.splitlines()[-2].startswith("float32  ")
