"""Whole runs of workers that exchange gradients: resumed, and in two processes."""

import dataclasses
import json
import os
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import processes
import pytest
from train import tiny
from train.test_loop import interrupt_at

from qtrain.recipes import hou2019analysis as hou
from qtrain.train import mesh as meshes
from qtrain.train import metrics
from qtrain.train.data import load
from qtrain.train.loop import Settings, fit
from qtrain.train.state import create

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_stopped_and_resumed(tmp_path, monkeypatch):
    """Wide weights come back with the rest: the same metrics and bits as without a stop.

    Kills: train/state.py: `StoredState` kept out of the checkpoint (`wide` started anew from the
    narrow weights).
    """
    options = hou.Options(gradients="sq2", clip=3.0)
    chosen = dataclasses.replace(hou.recipe(options), model="mlp", batch_size=16, epochs=2)
    whole = fit(chosen, tiny.dataset(), Settings(folder=tmp_path / "whole", quiet=True))
    with monkeypatch.context() as patch:
        interrupt_at(patch, 4)
        settings = Settings(folder=tmp_path / "stopped", quiet=True)
        assert fit(chosen, tiny.dataset(), settings).step == 4
    resumed = fit(chosen, tiny.dataset(), dataclasses.replace(settings, resume=True))
    assert resumed.loss == whole.loss
    _same_run(tmp_path / "whole", tmp_path / "stopped", chosen, tiny.dataset())


def _same_run(one: Path, two: Path, chosen, data) -> None:
    """Equal metrics, and every bit of the last checkpoint."""
    kept = [
        [line for line in (folder / metrics.NAME).read_text().splitlines() if _timeless(line)]
        for folder in (one, two)
    ]
    assert kept[0] == kept[1]
    assert len(kept[0]) > 2
    template = create(chosen, data, seed=0, steps=1, mesh=meshes.create(1, chosen.batch_size))[1]
    for a, b in zip(_arrays(one, template), _arrays(two, template), strict=True):
        assert a.tobytes() == b.tobytes()


def _timeless(line: str) -> bool:
    return json.loads(line)["kind"] in ("train", "eval")


def _arrays(folder: Path, template) -> list[np.ndarray]:
    """The last checkpoint's, by orbax's own reader, on one device."""
    last = max((folder / "checkpoints").iterdir(), key=lambda p: int(p.name))
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
        restore = ocp.args.Composite(state=ocp.args.StandardRestore(template))
        found = reader.restore(last.absolute(), args=restore).state
    return [np.asarray(x) for x in jax.tree.leaves(found)]


@pytest.mark.slow  # scripts/test_train.py has two processes by default
def test_two_processes_are_one_with_two_devices(tmp_path):
    """gloo on loopback carries the same words as memory: the same metrics and weights, all bits."""
    environment = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    argv = [
        sys.executable, str(ROOT / "scripts" / "train.py"), "hou2019analysis", "--model", "mlp",
        "--steps", "3", "--no-baseline", "--mesh", "data=2",
    ]  # fmt: skip
    with processes.running([[*argv, "--out", str(tmp_path / "one")]], environment) as started:
        assert processes.statuses(started) == [0]
    with processes.coordinator() as address:
        both = [*argv, "--out", str(tmp_path / "two"), "--processes", "2", "--coordinator", address]
        runs = [[*both, "--process-id", str(i)] for i in (0, 1)]
        with processes.running(runs, environment) as started:
            assert processes.statuses(started) == [0, 0]
    folders = (tmp_path / name / "hou2019analysis" for name in ("one", "two"))
    chosen = dataclasses.replace(hou.recipe(), model="mlp")
    _same_run(*folders, chosen, load(chosen.data))
