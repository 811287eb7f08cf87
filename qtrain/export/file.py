"""Exported models as safetensors files, which say what they hold and prove it.

A tensor called NAME is stored as NAME where it is plain, else as NAME:codes with NAME:levels, or
NAME:scale and NAME:offset. The one entry of the metadata, "qtrain", is a manifest in JSON: what
model this is, each tensor's form, and the SHA-256 of all of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qtrain.export.codes import Coded, decode

VERSION = 1
KEY = "qtrain"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Export:
    """What a file holds.

    about    JSON values: what model this is; of `export.export`, its `Origin`
    tensors  by path in the model
    """

    about: dict[str, Any]
    tensors: Mapping[str, Coded]

    @property
    def nbytes(self) -> int:
        """Size of the tensors; the file has a header besides."""
        return sum(coded.nbytes for coded in self.tensors.values())

    def arrays(self) -> dict[str, np.ndarray]:
        """The tensors as they were before they were coded."""
        return {name: decode(coded) for name, coded in self.tensors.items()}


def write(path: Path, export: Export) -> int:
    """Writes a file, whole or not at all; returns its size, of which `header_size` is no tensor.

    Raises:
      ValueError: the package safetensors is missing.
      OSError: the file cannot be written.
    """
    stored = _stored(export.tensors)
    manifest = {"version": VERSION, "about": export.about, "tensors": _forms(export.tensors)}
    manifest["sha256"] = _digest(manifest, stored)
    content = _safetensors().numpy.save(stored, {KEY: json.dumps(manifest, sort_keys=True)})
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror}; choose another --out") from None
    return len(content)


def header_size(path: Path) -> int:
    """Bytes of a file before its tensors."""
    with path.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def read(path: Path) -> Export:
    """What `write` was given.

    Raises:
      ValueError: the file is damaged, not from qtrain, or of another version; or the package
        safetensors is missing.
      FileNotFoundError: there is none.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    safetensors = _safetensors()
    try:
        with safetensors.safe_open(str(path), framework="numpy") as file:
            text = (file.metadata() or {}).get(KEY)
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        manifest = None if text is None else json.loads(text)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged, or no safetensors file: {error}") from None
    if not isinstance(manifest, dict) or "version" not in manifest:
        raise ValueError(f"{path} was not written by qtrain: it has no manifest")
    if manifest["version"] != VERSION:
        raise ValueError(
            f"{path} is of version {manifest['version']}; this qtrain reads version {VERSION}:"
            " export the run again"
        )
    digest = manifest.pop("sha256", None)
    if digest != _digest(manifest, stored):
        raise ValueError(f"{path} is damaged: its SHA-256 is not the one it was written with")
    return Export(about=manifest["about"], tensors=_tensors(manifest["tensors"], stored))


def _stored(tensors: Mapping[str, Coded]) -> dict[str, np.ndarray]:
    """Arrays by the names that they have in the file."""
    return {
        name if part == "values" else f"{name}:{part}": np.asarray(array, order="C")
        for name, coded in tensors.items()
        for part, array in coded.arrays.items()
    }


def _forms(tensors: Mapping[str, Coded]) -> dict[str, Any]:
    fields = [f.name for f in dataclasses.fields(Coded) if f.name != "arrays"]
    return {name: {f: getattr(coded, f) for f in fields} for name, coded in tensors.items()}


def _tensors(forms: dict[str, Any], stored: dict[str, np.ndarray]) -> dict[str, Coded]:
    found = {}
    for name, form in forms.items():
        parts = {k.partition(":")[2] or "values": v for k, v in stored.items()
                 if k.partition(":")[0] == name}  # fmt: skip
        found[name] = Coded(**form | {"shape": tuple(form["shape"]), "arrays": parts})
    return found


def _digest(manifest: dict[str, Any], stored: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of the manifest, and of each array's name, type, shape and bytes."""
    total = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode())
    for name, array in sorted(stored.items()):
        total.update(f"{name} {array.dtype} {array.shape}\n".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ModuleNotFoundError:
        raise ValueError(
            "exported files need a package that is missing: pip install safetensors"
        ) from None
    return safetensors
