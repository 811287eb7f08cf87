"""The metrics file: what a resume keeps, and what the first row says."""

import json

import pytest

from qtrain.train import metrics


def _write(path, steps, keep_to=None):
    writer = metrics.Writer(path, keep_to=keep_to, header={"config": {}})
    for step in steps:
        writer.write(kind="train", step=step, loss=1 / step)
    writer.close()


def _trained(path):
    return [row for row in metrics.read(path) if row["kind"] == "train"]


def test_resume_drops_rows_after_the_checkpoint(tmp_path):
    whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    _write(whole, range(1, 11))
    _write(parts, range(1, 8))
    _write(parts, range(5, 11), keep_to=4)
    assert _trained(parts) == _trained(whole)


def test_a_line_cut_off_by_a_crash_is_dropped(tmp_path):
    path = tmp_path / "m.jsonl"
    _write(path, range(1, 4))
    path.write_text(path.read_text()[:-5])
    assert [row["step"] for row in _trained(path)] == [1, 2]
    _write(path, range(3, 5), keep_to=2)
    assert [row["step"] for row in _trained(path)] == [1, 2, 3, 4]


def test_a_new_run_replaces_the_file(tmp_path):
    path = tmp_path / "m.jsonl"
    _write(path, range(1, 4))
    _write(path, [9])
    assert [row["step"] for row in _trained(path)] == [9]


def test_first_row_says_what_ran_and_where():
    row = json.loads(json.dumps(metrics.provenance({"seed": 3})))
    assert row["config"] == {"seed": 3}
    assert {"commit", "versions", "device", "time"} <= row.keys()
    assert row["device"]["platform"] == "cpu"
    assert row["versions"]["jax"]


def _run(path, rows):
    with path.open("w") as file:
        for kind, step in rows:
            file.write(json.dumps({"kind": kind, "step": step}) + "\n")
    return metrics.recorded(path, epoch=2, steps=5)


WHOLE = [("run", 0), ("train", 1), ("train", 2), ("eval", 2), ("train", 3), ("train", 4),
         ("eval", 4), ("train", 5), ("eval", 5)]  # fmt: skip


@pytest.mark.parametrize(
    ("lost", "step"),
    [(None, 5), (8, 4), (7, 4), (6, 3), (4, 2), (3, 1), (2, 1), (1, 0)],
    ids=str,
)
def test_recorded_steps_end_where_a_row_is_lost(tmp_path, lost, step):
    """Evaluations after steps 2, 4 and 5. Kills: `or step == steps` left out; `eval` not asked."""
    rows = [row for i, row in enumerate(WHOLE) if i != lost]
    assert _run(tmp_path / "m.jsonl", rows) == step


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            None,
            "cannot resume: .* is missing; put the run's own file back, or choose another --out",
        ),
        ("", "cannot resume: .* is empty or has no first row; "),
        ('{"kind": "run", "step": 0}\ngarbage\n', "line 2 of .* is no row of metrics; "),
        ('{"kind": "run", "step": 0}\n[1]\n', "line 2 of .* is no row of metrics; "),
    ],
)
def test_a_file_that_is_not_the_runs_record(tmp_path, text, message):
    path = tmp_path / "m.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message):
        metrics.recorded(path, epoch=2, steps=5)
