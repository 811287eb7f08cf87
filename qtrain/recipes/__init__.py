"""Recipes: one module per paper, and how they are found by name."""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

KEYS = (
    "wang2018fp8", "sakr2019accumulation", "banner2018scalable", "hou2019analysis",
    "guo2018survey", "jung2019qil", "lee2018iterative", "float32",
)  # fmt: skip


def get(key: str) -> ModuleType:
    """The module of a recipe: its `Options` and `recipe(options) -> Recipe`.

    Raises:
      ValueError: no such recipe; names the nearest ones.
    """
    if key not in KEYS:
        near = difflib.get_close_matches(key, KEYS, n=3, cutoff=0.4) or KEYS
        raise ValueError(f"unknown recipe {key!r}: did you mean {' or '.join(near)}?")
    return importlib.import_module(f"qtrain.recipes.{key}")


def titles() -> dict[str, str]:
    """One line about each recipe, read from its module without importing it."""
    folder = Path(__file__).parent
    sources = {key: (folder / f"{key}.py").read_text(encoding="utf-8") for key in KEYS}
    docs = {key: ast.get_docstring(ast.parse(source)) or "" for key, source in sources.items()}
    return {key: doc.partition("\n")[0] for key, doc in docs.items()}
