"""The record of a run: one JSON object per line, the first says what ran and where.

    {"kind": "run", "config": ..., "commit": ..., "versions": ..., "device": ..., "time": ...}
    {"kind": "train", "step": 1, "loss": ..., "accuracy": ..., ...}
    {"kind": "eval", "step": 62, "loss": ..., "accuracy": ...}
    {"kind": "time", "step": 62, "seconds": ..., "steps": ...}    of the steps since the row before
    {"kind": "stop", "step": 70, "place": ..., "loss": ...}       where a number was not finite

Only the first row and the rows of kind "time" depend on the clock: without them, a run that was
killed and resumed has the same bytes as one that was not.
"""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import json
import math
import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

NAME = "metrics.jsonl"
REMEDY = "put the run's own file back, or choose another --out to start anew"


class Writer:
    """Appends rows; `flush` puts them on disk. With a `path` of None it writes nothing."""

    def __init__(self, path: Path | None, *, keep_to: int | None, header: dict[str, Any]):
        """Opens the file; `keep_to` keeps the rows up to that step, None starts a new file."""
        if path is None:
            self._file = None
            return
        if keep_to is None or not path.exists():
            self._file = path.open("w", encoding="utf-8")
            self.write(kind="run", step=0, **header)
        else:
            _truncate(path, keep_to)
            self._file = path.open("a", encoding="utf-8")
            self.write(kind="resume", step=keep_to, **header)
        self.flush()

    def write(self, **row: Any) -> None:
        """Adds one row; a number that is not finite becomes null, since JSON has none."""
        if self._file is not None:
            broken = [k for k, v in row.items() if isinstance(v, float) and not math.isfinite(v)]
            row |= dict.fromkeys(broken)
            self._file.write(json.dumps(row, allow_nan=False) + "\n")

    def flush(self) -> None:
        """Returns when the rows are safe from a crash of this process and of the machine."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flushes and closes."""
        if self._file is not None:
            self.flush()
            self._file.close()


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a metrics file; a last line that a crash cut off is left out.

    Raises:
      ValueError: another line is no row; names it.
    """
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith("\n"):
                return
            try:
                row = json.loads(line)
                _ = row["kind"], row["step"]
            except (ValueError, TypeError, KeyError):
                raise ValueError(
                    f"line {number} of {path} is no row of metrics; {REMEDY}"
                ) from None
            yield row


def recorded(path: Path, *, epoch: int, steps: int) -> int:
    """The last step up to which the file has every row of training and evaluation.

    Evaluations are due every `epoch` steps and after step `steps`.

    Raises:
      ValueError: there is no such file, it has no first row, or a line of it is no row.
    """
    if not path.exists():
        raise ValueError(f"cannot resume: {path} is missing; {REMEDY}")
    done = {(row["kind"], row["step"]) for row in read(path)}
    if ("run", 0) not in done:
        raise ValueError(f"cannot resume: {path} is empty or has no first row; {REMEDY}")
    step = 0
    while ("train", step + 1) in done:
        step += 1
        if (step % epoch == 0 or step == steps) and ("eval", step) not in done:
            return step - 1
    return step


def _truncate(path: Path, step: int) -> None:
    """Drops the rows after `step`; the new file replaces the old one in one move."""
    kept = [row for row in read(path) if row["step"] <= step]
    fresh = path.with_suffix(".partial")
    fresh.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    fresh.replace(path)


def provenance(config: dict[str, Any]) -> dict[str, Any]:
    """What a result needs to be repeated: config, commit, versions, device, time."""
    names = ("qtrain", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "ml_dtypes")
    device = jax.devices()[0]
    return {
        "config": config,
        "commit": commit(),
        "versions": {"python": platform.python_version(), **{n: _version(n) for n in names}},
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
            "processes": jax.process_count(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        },
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


_CHANGES = ("status", "--porcelain", "-uno", "--", ":/", ":(top,exclude)paper_figs/results")


@functools.cache  # of the code that runs, not of what is committed while it does
def commit() -> str | None:
    """The source's git commit when first asked, with "+" if other files than measurements differ
    from it; None outside a checkout.
    """
    here = Path(__file__).parent

    def git(*words: str) -> str:
        command = ["git", "-C", str(here), *words]
        return subprocess.check_output(command, text=True, timeout=10, stderr=subprocess.DEVNULL)

    try:
        head, changed = git("rev-parse", "HEAD"), git(*_CHANGES)
    except (OSError, subprocess.SubprocessError):
        return None
    return head.strip() + ("+" if changed.strip() else "")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
