"""Runs that begin with the weights of another run."""

import dataclasses
import json
import threading
import time

import jax
import numpy as np
import pytest
from train import tiny

from qtrain.recipes import config
from qtrain.recipes.base import At, baseline, budget, changed, merge
from qtrain.train import folders, loop, metrics, starts
from qtrain.train.loop import Settings, fit
from qtrain.train.state import create

FIRST = tiny.float32(epochs=1)
SECOND = dataclasses.replace(tiny.fp8(epochs=1), start=FIRST)


def leaves(tree):
    return [np.asarray(x) for x in jax.tree.leaves(tree)]


def test_the_first_step_sees_the_last_weights(tmp_path, monkeypatch):
    """Of the run before it: what `create` makes of them, and that `fit` hands them on.

    Kills: train/loop.py: `start=start` -> `start=None` in the call of `create`.
    """
    first = fit(FIRST, tiny.dataset(), Settings(folder=tmp_path / "a", quiet=True))
    _, state = create(
        dataclasses.replace(SECOND, update=None), tiny.dataset(), seed=0, steps=6, start=first.final
    )
    jax.tree.map(np.testing.assert_array_equal, leaves(state.params), leaves(first.final.params))
    given = []

    def recorded(*args, start, **settings):
        given.append(start)
        return create(*args, start=start, **settings)

    monkeypatch.setattr(loop, "create", recorded)
    fit(SECOND, tiny.dataset(), Settings(folder=tmp_path / "b", quiet=True))
    assert given[0] is None
    jax.tree.map(np.testing.assert_array_equal, leaves(given[1].params), leaves(first.final.params))


def test_a_start_is_trained_once(tmp_path, monkeypatch):
    """By itself, it has the same numbers; two runs share it; the second one only reads it.

    Kills: train/starts.py: `resume=True` -> `resume=False`.
    """
    alone = fit(FIRST, tiny.dataset(), Settings(folder=tmp_path / "alone", quiet=True))
    steps = []
    advance = loop._Run.advance

    def counted(run):
        steps.append(run.recipe.key)
        advance(run)

    monkeypatch.setattr(loop._Run, "advance", counted)
    settings = Settings(folder=tmp_path / "one", starts=tmp_path / "starts", quiet=True)
    one = fit(SECOND, tiny.dataset(), settings)
    assert steps == ["float32"] * 6 + [SECOND.key] * 6
    other = fit(SECOND, tiny.dataset(), dataclasses.replace(settings, folder=tmp_path / "two"))
    assert steps[12:] == [SECOND.key] * 6
    jax.tree.map(
        np.testing.assert_array_equal, leaves(one.final.params), leaves(other.final.params)
    )
    (folder,) = (tmp_path / "starts").iterdir()
    evals = [[r["loss"] for r in metrics.read(f / metrics.NAME) if r["kind"] == "train"]
             for f in (folder, tmp_path / "alone")]  # fmt: skip
    assert evals[0] == evals[1]
    assert alone.steps == 6


def test_interrupted_in_its_start(tmp_path, monkeypatch):
    """The result is that of the start, which goes on when the run is resumed.

    Kills: train/loop.py: `if before.interrupted:` left out.
    """
    settings = Settings(folder=tmp_path, quiet=True)
    monkeypatch.setattr(loop._Run, "stops", lambda run, asked: run.step == 3)
    result = fit(SECOND, tiny.dataset(), settings)
    assert (result.key, result.step, result.interrupted) == ("float32", 3, True)
    monkeypatch.undo()
    result = fit(SECOND, tiny.dataset(), dataclasses.replace(settings, resume=True))
    assert (result.key, result.step) == (SECOND.key, 6)


def test_a_start_that_another_run_trains_is_waited_for(tmp_path, capfd):
    """Nothing of it is touched meanwhile, not even what looks unfinished; one line says so.

    Kills: train/starts.py: `held.enter_context(locked(how.folder / "lock", wait))` -> `pass`.
    """
    settings = Settings(folder=tmp_path / "run", starts=tmp_path / "starts")
    with starts.of_start(FIRST, settings) as how:
        partial = how.folder / "checkpoints" / "3.partial"
        partial.mkdir(parents=True)
        results = []
        thread = threading.Thread(
            target=lambda: results.append(fit(SECOND, tiny.dataset(), settings))
        )
        thread.start()
        deadline, said = time.monotonic() + 60, ""
        while "another run" not in said and results == [] and time.monotonic() < deadline:
            said += capfd.readouterr().err
            time.sleep(0.05)
        assert (
            said == f"another run is training its start float32 in {how.folder}: waiting for it\n"
        )
        assert partial.exists()
    thread.join()
    assert results[0].step == 6
    assert not partial.exists()


def test_a_lock_ends_and_is_free_again(tmp_path):
    """Kills: train/folders.py: `busy()` left out; also where the system has no locks."""
    path = tmp_path / "lock"

    def busy():
        raise ValueError("busy")

    with folders.locked(path, busy), pytest.raises(ValueError, match="busy"):
        folders.locked(path, busy).__enter__()
    with folders.locked(path, busy):
        pass


def test_a_system_without_locks(tmp_path, monkeypatch):
    """Kills: train/folders.py: `if fcntl is None:` -> `if False:`."""
    monkeypatch.setattr(folders, "fcntl", None)
    with folders.locked(tmp_path / "lock", lambda: None):
        assert not (tmp_path / "lock").exists()


def test_only_what_was_begun_is_resumed(tmp_path, capsys):
    """A fresh start says nothing of that, the next run that it goes on from its end.

    Kills: train/starts.py: `if begun else how` left out.
    """
    settings = Settings(folder=tmp_path / "one", starts=tmp_path / "starts")
    fit(SECOND, tiny.dataset(), settings)
    assert "resuming" not in capsys.readouterr().out
    fit(SECOND, tiny.dataset(), dataclasses.replace(settings, folder=tmp_path / "two"))
    assert "float32: resuming from step 6" in capsys.readouterr().out


def test_changes_reach_the_runs_before():
    """Kills: recipes/base.py: `{"start": start, **changes}` -> `changes`."""
    other = changed(SECOND, model="small_cnn", epochs=9)
    assert (other.start.model, other.start.epochs, other.epochs) == ("small_cnn", 1, 9)
    assert budget(other) == 10
    assert (baseline(other).epochs, baseline(other).start) == (10, None)
    assert config.from_json(json.loads(json.dumps(config.to_json(other)))) == other


def test_a_second_recipe_cannot_bring_a_start():
    with pytest.raises(ValueError, match="begins with weights of another run: name it first"):
        merge(tiny.fp8(), dataclasses.replace(tiny.float32(), key="other", start=FIRST))


def test_a_start_of_another_model(tmp_path):
    first = fit(FIRST, tiny.dataset(), Settings(folder=tmp_path, quiet=True))
    with pytest.raises(ValueError, match=r"cannot begin with head/kernel of shape \(256, 10\)"):
        create(tiny.float32(model="resnet20"), tiny.dataset(), seed=0, steps=6, start=first.final)


def test_stored_and_constrained_do_not_mix():
    from qtrain.optim import Constraint, LossAware

    weight = (At(".*1", LossAware()), At(".*", Constraint()))
    with pytest.raises(ValueError, match=r"stores .* narrow and constrains .*: a run can do one"):
        create(dataclasses.replace(tiny.float32(), weight=weight), tiny.dataset(), seed=0, steps=6)
