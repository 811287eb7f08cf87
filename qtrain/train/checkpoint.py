"""Checkpoints by orbax, sealed by a hash of every file, so that a damaged one is never used.

    <folder>/<step>/state/...    every array of the run: weights, optimizer, data cursor, key
    <folder>/<step>/meta/...     the configuration, for comparison on resume
    <folder>/<step>/seal.json    SHA-256 of each file above, written last

A process killed while saving leaves a folder without a seal; `restore` says so and takes the
previous checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from qtrain.recipes.config import differences

SEAL = "seal.json"


class Checkpoints:
    """The checkpoints of one run; the newest `keep` of them stay on disk."""

    def __init__(self, folder: Path, config: dict[str, Any], *, keep: int = 2):
        """`config` is the run's configuration as JSON values."""
        self.folder = folder.absolute()
        self._config = config
        self._keep = keep
        self._items = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
        if jax.process_index() == 0:
            for left in self.folder.glob("*.orbax-checkpoint-tmp*"):  # a save that was killed
                shutil.rmtree(left)

    def save(self, step: int, state: Any) -> Path:
        """Writes `state` (a pytree of arrays); returns when it is complete on disk."""
        path = self.folder / str(step)
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            meta=ocp.args.JsonSave({"step": step, "config": self._config}),
        )
        self._items.save(path, args=args, force=True)
        if jax.process_index() == 0:
            partial = path / f"{SEAL}.partial"
            partial.write_text(json.dumps(_hashes(path), indent=1), encoding="utf-8")
            partial.replace(path / SEAL)
            for old in self._steps()[self._keep :]:
                shutil.rmtree(self.folder / str(old))
        return path

    def restore(self, template: Any, warn: Callable[[str], None]) -> tuple[int, Any] | None:
        """The newest good checkpoint's step and state, or None if the folder holds none.

        `template` gives shapes, dtypes and shardings. Each bad checkpoint on the way is named
        by a call of `warn`.

        Raises:
          ValueError: the configuration differs (all fields named), or every checkpoint is bad.
        """
        steps = self._steps()
        for step in steps:
            path = self.folder / str(step)
            if (fault := _fault(path)) is not None:
                warn(f"checkpoint {path} refused: {fault}")
                continue
            stored = self._items.restore(path, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))
            if changed := differences(stored.meta["config"], self._config):
                raise ValueError(
                    f"cannot resume {path} with another configuration: {'; '.join(changed)}."
                    " Repeat the settings of the run, or leave out --resume to start anew"
                )
            abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, template)
            args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
            return step, self._items.restore(path, args=args).state
        if steps:
            raise ValueError(
                f"no usable checkpoint in {self.folder}; leave out --resume to start anew"
            )
        return None

    def _steps(self) -> list[int]:
        """Steps with a folder of their own, newest first."""
        if not self.folder.is_dir():
            return []
        return sorted(
            (int(p.name) for p in self.folder.iterdir() if p.name.isdigit()), reverse=True
        )


def _hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below `folder` except the seal."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(SEAL))
    out = {}
    for path in files:
        with path.open("rb") as file:
            out[path.relative_to(folder).as_posix()] = hashlib.file_digest(
                file, "sha256"
            ).hexdigest()
    return out


def _fault(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        sealed = json.loads((folder / SEAL).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"it has no {SEAL}, so it is incomplete or not from qtrain"
    except (OSError, ValueError) as error:
        return f"its {SEAL} cannot be read ({error})"
    found = _hashes(folder)
    if not isinstance(sealed, dict) or not sealed:
        return f"its {SEAL} is not a list of hashes"
    for name, digest in sealed.items():
        if name not in found:
            return f"its file {name} is missing"
        if found[name] != digest:
            return f"its file {name} is truncated or altered"
    return None
