"""A run from its first to its last step: what it writes, how it stops, how it goes on."""

import dataclasses
import json
import shutil
import signal
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from train import tiny

from qtrain.recipes.base import LossScale
from qtrain.train import loop, metrics
from qtrain.train.loop import NotFinite, Settings, _Run, fit


def rows(folder, *kinds):
    return [r for r in metrics.read(folder / metrics.NAME) if r["kind"] in kinds]


def lines(folder):
    """The rows that must not depend on the clock, as they are on disk."""
    text = (folder / metrics.NAME).read_text().splitlines()
    return [line for line in text if json.loads(line)["kind"] in ("train", "eval")]


def weights(folder):
    """Bytes of every file of the last checkpoint's arrays, by orbax's own reader."""
    import orbax.checkpoint as ocp

    last = max((folder / "checkpoints").iterdir(), key=lambda p: int(p.name))
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
        state = reader.restore(
            last.absolute(), args=ocp.args.Composite(state=ocp.args.StandardRestore())
        ).state
    return [np.asarray(x) for x in jax.tree.leaves(state)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run of 12 steps."""
    folder = tmp_path_factory.mktemp("whole")
    return fit(tiny.fp8(), tiny.dataset(), Settings(folder=folder, quiet=True))


def interrupt_at(monkeypatch, step):
    """Sends SIGINT in the middle of that step."""
    advance = _Run.advance

    def interrupted(run):
        if run.step == step - 1:
            signal.raise_signal(signal.SIGINT)
        advance(run)

    monkeypatch.setattr(_Run, "advance", interrupted)


def test_record(whole):
    """The metrics file: a header, a row per step, an evaluation per epoch, times apart."""
    assert (whole.step, whole.steps, whole.interrupted) == (12, 12, False)
    header = next(metrics.read(whole.folder / metrics.NAME))
    assert header["config"]["recipe"]["key"] == "wang2018fp8"
    assert {"commit", "versions", "device", "time"} <= header.keys()
    assert [r["step"] for r in rows(whole.folder, "train")] == list(range(1, 13))
    evaluations = rows(whole.folder, "eval")
    assert [r["step"] for r in evaluations] == [6, 12]
    assert evaluations[-1]["accuracy"] == whole.accuracy
    assert whole.step_seconds > 0


def test_learns(whole):
    """Two epochs are enough to see the loss fall on lines that a linear model can tell apart."""
    losses = [r["loss"] for r in rows(whole.folder, "train")]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


def test_same_seed_same_bits(whole, tmp_path):
    """Kills: key = fold(..., state.step) -> an unseeded key in train/step.py."""
    fit(tiny.fp8(), tiny.dataset(), Settings(folder=tmp_path, quiet=True))
    assert lines(tmp_path) == lines(whole.folder)


def test_other_seed_other_bits(whole, tmp_path):
    fit(tiny.fp8(), tiny.dataset(), Settings(folder=tmp_path, seed=1, steps=2, quiet=True))
    assert lines(tmp_path)[0] != lines(whole.folder)[0]


@pytest.mark.parametrize(
    "step", [4, pytest.param(6, marks=pytest.mark.slow)], ids=lambda s: f"after-{s}"
)
def test_interrupt_and_resume(whole, tmp_path, monkeypatch, step):
    """Ctrl-C in an epoch or at its end, then --resume: same metrics, same state, bit for bit.

    Kills: loop.py: `self.step, self.state = found` -> `self.step, _ = found`.
    """
    settings = Settings(folder=tmp_path, quiet=True)
    with monkeypatch.context() as patch:
        interrupt_at(patch, step)
        stopped = fit(tiny.fp8(), tiny.dataset(), settings)
    assert (stopped.interrupted, stopped.step) == (True, step)
    resumed = fit(tiny.fp8(), tiny.dataset(), dataclasses.replace(settings, resume=True))
    assert lines(tmp_path) == lines(whole.folder)
    for a, b in zip(weights(tmp_path), weights(whole.folder), strict=True):
        np.testing.assert_array_equal(a, b)
    assert resumed.accuracy == whole.accuracy


def test_an_interrupt_in_the_last_step_reaches_the_caller(tmp_path, monkeypatch):
    """The run is done and saved, but train.py must not go on with the baseline.

    Kills: loop.py: `if interrupt.requested and run.step == run.steps` -> `if False`.
    """
    interrupt_at(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        fit(tiny.float32(), tiny.dataset(), Settings(folder=tmp_path, steps=2, quiet=True))
    assert (tmp_path / "checkpoints" / "2" / "seal.json").exists()
    assert [r["step"] for r in rows(tmp_path, "eval")] == [2]


def test_resume_after_the_end(whole, tmp_path, monkeypatch):
    """Nothing is compiled, trained or added, but accuracy and time per step are reported.

    Kills: loop.py: `self._watch.resume(` left out; a step compiled that is not due.
    """
    monkeypatch.setattr(_Run, "compile", lambda run: pytest.fail("compiled"))
    settings = Settings(folder=whole.folder, resume=True, quiet=True)
    before = lines(whole.folder)
    again = fit(tiny.fp8(), tiny.dataset(), settings)
    assert again.accuracy == whole.accuracy
    assert (again.step_seconds, again.skipped) == (whole.step_seconds, whole.skipped)
    assert again.compile_seconds is None
    assert lines(whole.folder) == before


def test_resume_with_other_settings(whole):
    with pytest.raises(ValueError, match=r"seed: 0 -> 3"):
        fit(
            tiny.fp8(),
            tiny.dataset(),
            Settings(folder=whole.folder, seed=3, resume=True, quiet=True),
        )


@pytest.mark.parametrize("lost", [None, "", "tail"], ids=["missing", "empty", "tail"])
def test_resume_without_the_metrics(whole, tmp_path, capsys, lost):
    """A record that is gone is refused; one whose end is gone is trained again from where it is.

    Kills: loop.py: `recorded=recorded` left out, which leaves a gap.
    """
    folder = tmp_path / "run"
    shutil.copytree(whole.folder, folder)
    record = folder / metrics.NAME
    text = record.read_text().splitlines(keepends=True)
    settings = Settings(folder=folder, resume=True)
    if lost == "tail":
        record.write_text("".join(text[:10]))  # to step 7; checkpoints of steps 6 and 12
        fit(tiny.fp8(), tiny.dataset(), settings)
        assert "12 refused: the metrics of the run end at step 7" in capsys.readouterr().out
        assert lines(folder) == lines(whole.folder)
        return
    record.unlink() if lost is None else record.write_text(lost)
    with pytest.raises(ValueError, match=r"cannot resume: .*metrics\.jsonl is (missing|empty)"):
        fit(tiny.fp8(), tiny.dataset(), settings)


def test_resume_of_nothing_starts_anew(tmp_path, capsys):
    fit(tiny.float32(), tiny.dataset(), Settings(folder=tmp_path, steps=1, resume=True))
    assert "no checkpoint was saved yet" in capsys.readouterr().out


def test_a_loss_that_is_not_finite_stops(tmp_path):
    with pytest.raises(NotFinite, match=r"^step \d+ of float32: .* not finite .*--optimizer\.lr"):
        fit(tiny.diverging(), tiny.dataset(), Settings(folder=tmp_path, quiet=True))
    stop = rows(tmp_path, "stop")[0]
    assert stop["place"] in ("outputs of the model", "loss", "gradients", "weights")


def test_a_test_loss_that_is_not_finite_stops(tmp_path, monkeypatch):
    """Weights and training losses are finite, a test image is not classified.

    Kills: loop.py: `_stop(self.step, "test loss"` raises without writing a row.
    """
    monkeypatch.setattr(loop, "evaluate", lambda *_: (float("nan"), 0.0))
    with pytest.raises(NotFinite, match=r"^step 2 of float32: test loss not finite \(nan\); try a"):
        fit(tiny.float32(), tiny.dataset(), Settings(folder=tmp_path, steps=2, quiet=True))
    assert [(r["step"], r["place"]) for r in rows(tmp_path, "stop")] == [(2, "test loss")]


def test_a_hopeless_loss_scale_stops(tmp_path):
    recipe = tiny.fp8(epochs=20, loss_scale=LossScale(init=3e38))
    with pytest.raises(
        NotFinite, match=r"gradients not finite in 50 steps in a row at loss scale 3e\+38"
    ):
        fit(recipe, tiny.dataset(), Settings(folder=tmp_path, quiet=True))
    assert [r["place"] for r in rows(tmp_path, "stop")] == ["gradients"]


def test_a_dynamic_loss_scale_recovers(tmp_path):
    """It halves until the gradients fit, and says how many steps it skipped."""
    recipe = tiny.fp8(epochs=20, update=None, loss_scale=LossScale(init=2.0**40, dynamic=True))
    result = fit(recipe, tiny.dataset(), Settings(folder=tmp_path, quiet=True))
    steps = rows(tmp_path, "train")
    assert 0 < result.skipped < 40
    assert steps[-1]["loss_scale"] == 2.0 ** (40 - result.skipped)
    assert steps[result.skipped]["loss"] != steps[-1]["loss"]


@pytest.mark.parametrize("processes", [1, 2])
def test_processes_sync_at_the_same_steps(monkeypatch, processes):
    """Their clocks differ: one that met a broken step alone would leave the other waiting.

    Kills: loop.py: `if jax.process_count() > 1` -> `if False` in `_sync_due`.
    """
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    late, early = SimpleNamespace(running=lambda: 9.0), SimpleNamespace(running=lambda: 0.0)
    for watch in (late, early):
        runs = [SimpleNamespace(step=step, _watch=watch) for step in range(1, 25)]
        due = [run.step for run in runs if _Run._sync_due(run)]
        if processes == 1:
            assert due == (list(range(1, 25)) if watch is late else [])
        else:
            assert due == [8, 16, 24]


def test_batch_larger_than_the_data(tmp_path):
    with pytest.raises(
        ValueError, match="batch size 100 is more than the 96 training images of tiny"
    ):
        fit(tiny.fp8(batch_size=100), tiny.dataset(), Settings(folder=tmp_path, quiet=True))


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write results to .*file/run.*choose another --out"):
        fit(tiny.fp8(), tiny.dataset(), Settings(folder=tmp_path / "file" / "run", quiet=True))


def test_images_of_one_evaluation_batch_are_padded(tmp_path):
    """20 test images in batches of 500: the 480 padded ones must not count.

    Kills: `& real` -> `` in train/step.py.
    """
    result = fit(tiny.float32(), tiny.dataset(), Settings(folder=tmp_path, steps=1, quiet=True))
    assert 0 <= result.accuracy <= 1
    assert (result.accuracy * 20) == round(result.accuracy * 20)
