"""Checkpoints by orbax, sealed by a hash of every file, so that a damaged one is never used.

    <folder>/<step>/state/...    every array of the run: weights, optimizer, data cursor, key
    <folder>/<step>/meta/...     the configuration, for comparison on resume
    <folder>/<step>/seal.json    SHA-256 of the configuration and of each file above

A checkpoint is written and sealed under the name <step>.partial and then renamed, so that a kill
leaves a whole one or none. What other runs or programs put into the folder is never deleted.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from qtrain.recipes.config import differences

SEAL = "seal.json"
PARTIAL = ".partial"  # end of the name of a folder that is being written or removed


class Checkpoints:
    """The checkpoints of one run; the newest `keep` of them stay on disk."""

    def __init__(self, folder: Path, config: dict[str, Any], *, keep: int = 2):
        """`config` is the run's configuration as JSON values."""
        self.folder = folder.absolute()
        self._config = config
        self._digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
        self._keep = keep
        self._items = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
        if jax.process_index() == 0:
            for left in self.folder.glob(f"[0-9]*{PARTIAL}*"):  # by a run that was killed
                shutil.rmtree(left)

    def save(self, step: int, state: Any) -> Path:
        """Writes `state` (a pytree of arrays); returns when it is complete on disk."""
        path, partial = self._path(step), self.folder / f"{step}{PARTIAL}"
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            meta=ocp.args.JsonSave({"step": step, "config": self._config}),
        )
        self._items.save(partial, args=args, force=True)
        if jax.process_index() == 0:
            seal = {"config": self._digest, "files": _hashes(partial)}
            (partial / SEAL).write_text(json.dumps(seal, indent=1), encoding="utf-8")
            if path.exists():
                self._clear(path)
            partial.rename(path)
            mine = [old for old in self.steps() if old <= step and self._is_mine(old)]
            for old in mine[self._keep :]:
                _remove(self._path(old))
        return path

    def restore(
        self, template: Any, warn: Callable[[str], None], *, recorded: int | None = None
    ) -> tuple[int, Any] | None:
        """The newest good checkpoint's step and state, or None if the folder holds none.

        `template` gives shapes, dtypes and shardings. `recorded` is the last step of which the
        run has metrics: a later checkpoint would leave a gap in them. Each checkpoint that is
        passed over is named by a call of `warn`.

        Raises:
          ValueError: every checkpoint is bad, or of another configuration (all fields named).
        """
        steps = self.steps()
        faults = []
        others: dict[Path, str] = {}  # of another configuration -> the fields that differ
        for step in steps:
            path = self._path(step)
            fault = _fault(path)
            if fault is None and recorded is not None and step > recorded:
                fault = f"the metrics of the run end at step {recorded}"
            if fault is not None:
                faults.append(f"{path}: {fault}")
                warn(f"checkpoint {path} refused: {fault}")
                continue
            stored = self._items.restore(path, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))
            if changed := differences(stored.meta["config"], self._config):
                others[path] = "; ".join(changed)
                continue
            for other, fields in others.items():
                warn(f"checkpoint {other} refused: it is of another configuration: {fields}")
            abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, template)
            args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
            return step, self._items.restore(path, args=args).state
        for other, fields in others.items():
            raise ValueError(
                f"cannot resume {other} with another configuration: {fields}."
                " Repeat the settings of the run, or choose another --out to start anew"
            )
        if steps:
            raise ValueError(
                f"no usable checkpoint ({'; '.join(faults)}); choose another --out to start anew"
            )
        return None

    def _path(self, step: int) -> Path:
        return self.folder / str(step)

    def steps(self) -> list[int]:
        """Steps with a folder of their own, good or not, newest first."""
        if not self.folder.is_dir():
            return []
        names = (p.name for p in self.folder.iterdir() if p.is_dir())
        return sorted((int(n) for n in names if re.fullmatch(r"0|[1-9][0-9]*", n)), reverse=True)

    def _is_mine(self, step: int) -> bool:
        """Whether the seal names this run's configuration; the files are not read."""
        seal = _seal(self._path(step))
        return isinstance(seal, dict) and seal["config"] == self._digest

    def _clear(self, path: Path) -> None:
        """Makes room for a checkpoint: removes ours of the same step, moves a stranger aside."""
        if path.is_dir() and self._is_mine(int(path.name)):
            _remove(path)
            return
        names = (path.with_name(f"{path.name}.refused{n or ''}") for n in itertools.count())
        path.rename(next(name for name in names if not name.exists()))


def _remove(path: Path) -> None:
    """A kill meanwhile leaves what the next run takes for unfinished, not for a checkpoint."""
    doomed = path.with_name(f"{path.name}.old{PARTIAL}")
    path.rename(doomed)
    shutil.rmtree(doomed)


def _hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below `folder` except the seal."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / SEAL)
    out = {}
    for path in files:
        with path.open("rb") as file:
            out[path.relative_to(folder).as_posix()] = hashlib.file_digest(
                file, "sha256"
            ).hexdigest()
    return out


def _seal(folder: Path) -> dict[str, Any] | str:
    """The seal of a checkpoint, or what is wrong with it."""
    try:
        seal = json.loads((folder / SEAL).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"it has no {SEAL}, so it is incomplete or not from qtrain"
    except (OSError, ValueError) as error:
        return f"its {SEAL} cannot be read ({error})"
    if not isinstance(seal, dict) or not seal.get("files") or "config" not in seal:
        return f"its {SEAL} is not a list of hashes"
    return seal


def _fault(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    seal = _seal(folder)
    if isinstance(seal, str):
        return seal
    found = _hashes(folder)
    for name, digest in seal["files"].items():
        if name not in found:
            return f"its file {name} is missing"
        if found[name] != digest:
            return f"its file {name} is truncated or altered"
    return None
