"""Ctrl-C before the first step of scripts/train.py: one line with the command that goes on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from qtrain.train import loop
from scripts import train

ROOT = Path(__file__).resolve().parents[2]

INTERRUPTED_IMPORT = """
import os, signal, sys

class Finder:
    def find_spec(name, path=None, target=None):
        if name == os.environ["INTERRUPT_AT"]:
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Finder)
"""


@pytest.mark.parametrize("module", ["tyro", "jax", "orbax"])
def test_ctrl_c_while_importing(tmp_path, module):
    """One line and status 130, no traceback: nothing was written, the same command starts again.

    Kills: train.py: `leave_on_interrupt(` left out.
    """
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTED_IMPORT)
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), "float32", "--steps", "1"]
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    run = subprocess.run(
        [*command, "--out", str(tmp_path / "a b")],
        env={**os.environ, "PYTHONPATH": path, "INTERRUPT_AT": module},
        capture_output=True, text=True,
    )  # fmt: skip
    again = f"stopped; go on with: python scripts/train.py float32 --steps 1 --out '{tmp_path}/a b'"
    assert (run.returncode, run.stdout, run.stderr) == (130, "", f"\n{again}\n")


@pytest.mark.parametrize("place", ["create", "Checkpoints"])
def test_ctrl_c_while_tracing(tmp_path, monkeypatch, capsys, place):
    """Before there is a folder the same command starts again, afterwards it goes on in there.

    Kills: train.py: `if not folder.is_dir():` left out of `_again`.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loop, place, _interrupted)
    assert train.main(["float32", "--model", "mlp"]) == 130
    rest = "" if place == "create" else " --out runs/float32/001 --resume"
    again = f"stopped; go on with: python scripts/train.py float32 --model mlp{rest}"
    assert capsys.readouterr().err == f"\n{again}\n"


def _interrupted(*_, **__):
    raise KeyboardInterrupt
