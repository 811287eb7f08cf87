"""The metrics file: what a resume keeps, and what the first row says."""

import json

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
