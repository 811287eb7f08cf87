"""The sweep: a row per run, none twice, and again after a change of configuration."""

import dataclasses
import fcntl
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from qtrain.recipes.base import budget
from qtrain.recipes.config import to_json
from qtrain.train import loop
from scripts import sweep

ROOT = Path(__file__).resolve().parents[2]
QUICK = {"recipe": "wang2018fp8", "only": ("float32",), "seeds": (0,), "model": ("mlp",),
         "epochs": 1}  # fmt: skip


def rows(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_finished_rows_are_not_repeated(tmp_path, capsys):
    """Kills: sweep.py: `done.get((recipe, settings.seed))` -> `None`."""
    out, starts = tmp_path / "rows.jsonl", tmp_path / "starts"
    sweep.main(sweep.Options(**QUICK, out=out, starts=starts))
    first = rows(out)
    assert len(first) == 1
    assert first[0]["variant"] == "float32"
    assert 0.5 < first[0]["accuracy"] < 1
    sweep.main(sweep.Options(**QUICK, out=out, starts=starts))
    assert rows(out) == first
    assert "already in rows.jsonl)" in capsys.readouterr().out
    sweep.main(sweep.Options(**{**QUICK, "epochs": 2}, out=out, starts=starts))
    assert len(rows(out)) == 2


@pytest.fixture
def trained(monkeypatch) -> list:
    """In place of training: which recipe and seed would be, a row a piece."""
    found = []

    def row(name, recipe, dataset, settings):
        del dataset
        found.append((recipe, settings.seed))
        return {"variant": name, "seed": settings.seed, "accuracy": 0.5,
                "recipe": to_json(recipe)}  # fmt: skip

    monkeypatch.setattr(sweep, "_train", row)
    return found


def run(tmp_path, **changes):
    """A sweep into one file; the same for all calls of a test."""
    chosen = {**QUICK, "starts": tmp_path / "starts", "out": tmp_path / "rows.jsonl", **changes}
    sweep.main(sweep.Options(**chosen))


def test_a_later_row_hides_no_earlier_one(tmp_path, trained):
    """Another model or number of epochs, and back: by what ran, whatever the name.

    Kills: sweep.py: `done[from_json(row["recipe"]), row["seed"]] = row` ->
    `done = {(from_json(row["recipe"]), row["seed"]): row}`, the last row alone.
    """
    for model in ("mlp",), ("small_cnn",), ("mlp",), ("mlp", "small_cnn"):
        run(tmp_path, model=model)
    for epochs in 1, 2, 1:
        run(tmp_path, epochs=epochs)
    ran = [(recipe.model, recipe.epochs) for recipe, _ in trained]
    assert ran == [("mlp", 1), ("small_cnn", 1), ("mlp", 2)]


def test_a_row_under_another_name_is_the_same_run(tmp_path, trained, capsys):
    """Kills: sweep.py: `f" as {old['variant']}"` -> `""`."""
    run(tmp_path, model=("mlp", "small_cnn"))
    run(tmp_path, model=("mlp",))
    assert len(trained) == 2
    assert "float32, seed 0: 50.00 % (already in rows.jsonl as mlp: float32)" in (
        capsys.readouterr().out
    )


def test_a_seed_given_twice_runs_once(tmp_path, trained):
    """Kills: sweep.py: `dict.fromkeys(options.seeds)` -> `options.seeds`."""
    run(tmp_path, seeds=(1, 0, 1))
    assert [seed for _, seed in trained] == [1, 0]


def test_a_seed_that_no_run_can_have_is_named_before_training(tmp_path, trained):
    """Kills: sweep.py: the seeds are checked by the run that has them."""
    with pytest.raises(ValueError, match=r"seed must be at least 0 .*, not -1"):
        run(tmp_path, seeds=(0, -1))
    assert trained == []


def test_float32_has_the_epochs_of_the_runs_before_as_well():
    """Kills: sweep.py: `_baselines(found)` of variants that are not yet `changed`."""
    found = sweep.variants(sweep.Options(recipe="lee2018iterative", epochs=2))
    first = next(iter(found.values()))
    assert first.start is not None
    assert found["float32"].epochs == budget(first) == first.start.epochs + 2
    assert found["float32"].start is None


def test_what_does_not_fit_is_left_out(tmp_path, trained, capsys):
    """The model has one width, no normalization to replace, or shorter sums than a chunk.

    Kills: sweep.py: `_check(recipe, datasets[recipe.data])` left out.
    """
    run(tmp_path, recipe="guo2018survey", only=("twn 2/32", "wrpn 4/4"))
    assert [recipe.weight is not None for recipe, _ in trained] == [True]
    assert "wrpn 4/4 left out: mlp has no width 2: small_cnn, " in capsys.readouterr().out
    run(tmp_path, recipe="lee2018iterative", only=(), data="fashion-mnist-8k", seeds=(1,),
        model=("char_lstm", "mlp"))  # fmt: skip
    assert {recipe.model for recipe, _ in trained} == {"mlp"}
    assert "char_lstm: float32 left out: " in capsys.readouterr().out
    with pytest.raises(ValueError, match="no variant is left: choose another --model"):
        run(tmp_path, recipe="banner2018scalable", only=("full",))
    assert "full left out: Mlp has no batch normalization" in capsys.readouterr().out


def test_the_run_before_must_fit_as_well(tmp_path, trained, capsys, monkeypatch):
    """Kills: sweep.py: `_check(recipe.start, dataset)` left out."""
    module = sweep.recipes.get("jung2019qil")
    usual = module.recipe

    def wide_start(options):
        one = usual(options)
        return dataclasses.replace(one, start=dataclasses.replace(one.start, widen=2))

    monkeypatch.setattr(module, "recipe", wide_start)
    name = next(iter(module.ABLATIONS))
    with pytest.raises(ValueError, match="no variant is left"):
        run(tmp_path, recipe="jung2019qil", only=(name,))
    assert f"{name} left out: mlp has no width 2" in capsys.readouterr().out


def test_two_sweeps_on_one_file(tmp_path, trained):
    """The second one stops at once; on another file it runs.

    Kills: sweep.py: `with locked(out, busy):` -> `if True:`.
    """
    with (tmp_path / "rows.jsonl").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match=r"another sweep writes to .*rows\.jsonl: wait for it"):
            run(tmp_path)
        assert trained == []
        run(tmp_path, out=tmp_path / "other.jsonl")
    run(tmp_path)
    assert len(trained) == 2


def test_what_a_kill_left_is_removed(tmp_path, trained):
    """The folder of this sweep's run, and of no other; the file is locked by then.

    Kills: sweep.py: `shutil.rmtree(folder)` of `_running` left out; or all of `sweep-*` removed.
    """
    mine, others = (sweep._running(tmp_path / "starts", tmp_path / name)
                    for name in ("rows.jsonl", "other.jsonl"))  # fmt: skip
    for folder in mine, others:
        folder.mkdir(exist_ok=True)
        (folder / "metrics.jsonl").write_text("half")
    run(tmp_path)
    assert others.exists()
    assert not mine.exists()


def test_runs_are_below_the_starts(tmp_path, monkeypatch):
    """Kills: sweep.py: runs in a temporary folder, where nobody finds what a kill left."""
    folders = set()
    advance = loop._Run.advance

    def noted(one):
        folders.add(one.settings.folder)
        advance(one)

    monkeypatch.setattr(loop._Run, "advance", noted)
    run(tmp_path)
    assert [folder.parent for folder in folders] == [tmp_path / "starts"]
    assert list((tmp_path / "starts").iterdir()) == []


def test_a_folder_of_starts_that_cannot_be(tmp_path, trained):
    """Kills: sweep.py: `made(starts / ...)` -> `starts / ...`."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write .*file.*; choose another folder of starts"):
        run(tmp_path, starts=tmp_path / "file" / "starts")
    assert trained == []


def test_a_row_of_another_version_is_another_run(tmp_path, trained, capsys):
    """It is named and stays.

    Kills: sweep.py: `except (ValueError, ...)` of `_done` left out.
    """
    run(tmp_path)
    out = tmp_path / "rows.jsonl"
    row = rows(out)[0]
    row["recipe"]["gone"] = 1
    lines = [json.dumps(r) for r in (row, row | {"recipe": {}}, row | {"recipe": 3, "seed": []})]
    out.write_text("".join(line + "\n" for line in lines))
    run(tmp_path)
    assert len(trained) == 2
    assert len(rows(out)) == 4
    assert "line 1 of " in (said := capsys.readouterr().out)
    assert "rows.jsonl counts as another run: this version of qtrain cannot read" in said


def test_unknown_model():
    with pytest.raises(ValueError, match="no model mpl: choose from mlp, small_cnn"):
        sweep.variants(sweep.Options(**{**QUICK, "model": ("mpl",)}))


def test_a_row_cut_off_by_a_kill_is_run_again(tmp_path, trained):
    """The broken last line is dropped, finished rows stay."""
    out = tmp_path / "rows.jsonl"
    run(tmp_path)
    whole = out.read_text()
    out.write_text(whole + whole[: len(whole) // 2])
    run(tmp_path, seeds=(0, 1))
    assert [(r["variant"], r["seed"]) for r in rows(out)] == [("float32", 0), ("float32", 1)]


def test_an_interrupted_run_leaves_no_row(tmp_path, monkeypatch):
    """Ctrl-C in the second epoch, where one evaluation is done: no result, and no further run.

    Kills: sweep.py: `if result.interrupted:` left out.
    """
    advance = loop._Run.advance

    def interrupted(one):
        if one.step == one.epoch:
            signal.raise_signal(signal.SIGINT)
        advance(one)

    monkeypatch.setattr(loop._Run, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, epochs=2, seeds=(0, 1))
    assert rows(tmp_path / "rows.jsonl") == []


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
        run(tmp_path)
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
    assert list((tmp_path / "starts").glob("sweep-*")) == []
    found = [(row["variant"], row["seed"]) for row in rows(tmp_path / "guo2018survey.jsonl")]
    assert sorted(found) == [(n, s) for n in ("ttq 2/32", "twn 2/32") for s in (0, 1)]


def test_several_models_and_a_folder(tmp_path, trained, capsys):
    """Kills: sweep.py: `changed(recipe, **changes, **model)` -> `changed(recipe, **changes)`."""
    chosen = sweep.variants(sweep.Options(**{**QUICK, "model": ("mlp", "small_cnn")}))
    assert {name: r.model for name, r in chosen.items()} == {
        "mlp: float32": "mlp", "small_cnn: float32": "small_cnn"
    }  # fmt: skip
    run(tmp_path, out=tmp_path / "results")
    assert len(rows(tmp_path / "results" / "wang2018fp8.jsonl")) == 1
    said = capsys.readouterr().out
    assert "[1 of 1, about 0 min left]" in said
    assert said.splitlines()[-2].startswith("float32  ")
