"""Configurations as JSON and back, and the fields in which two of them differ."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any


def to_json(value: Any) -> Any:
    """Nested frozen dataclasses as plain JSON values; each carries its type under "type"."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        fields = {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": f"{kind.__module__}.{kind.__qualname__}", **fields}
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"cannot write {value!r} ({type(value).__name__}) into a configuration")


def from_json(value: Any) -> Any:
    """The inverse of `to_json`; lists come back as tuples.

    Raises:
      ValueError: a type that this version of qtrain does not have, or other fields in it.
    """
    if isinstance(value, list):
        return tuple(from_json(item) for item in value)
    if not isinstance(value, dict):
        return value
    module, _, name = value["type"].rpartition(".")
    if module.partition(".")[0] != "qtrain":  # a file must not choose what else is imported
        raise ValueError(f"{value['type']!r} is no qtrain type")
    try:
        kind = getattr(importlib.import_module(module), name)
        return kind(**{k: from_json(v) for k, v in value.items() if k != "type"})
    except (ImportError, AttributeError, TypeError) as error:
        raise ValueError(f"this version of qtrain cannot read {value['type']}: {error}") from None


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """One line "field: old -> new" for each leaf in which two JSON values differ."""
    if isinstance(old, dict) and isinstance(new, dict) and old.get("type") == new.get("type"):
        pairs = [(k, old.get(k), new.get(k)) for k in dict.fromkeys([*old, *new])]
        prefix = f"{path}." if path else ""
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = list(zip(range(len(old)), old, new, strict=True))
        prefix = f"{path}."
    else:
        return [] if old == new else [f"{path}: {_brief(old)} -> {_brief(new)}"]
    return [line for k, a, b in pairs for line in differences(a, b, f"{prefix}{k}")]


def _brief(value: Any) -> str:
    if isinstance(value, dict) and "type" in value:
        fields = ", ".join(f"{k}={_brief(v)}" for k, v in value.items() if k != "type")
        return f"{value['type'].rpartition('.')[2]}({fields})"
    if isinstance(value, list):
        return f"[{', '.join(map(_brief, value))}]"
    return repr(value)
