"""Finding weights by their path, and a wrapper's state inside an optimizer's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import optax


def leaf_path(path) -> str:
    """Names of a leaf's path joined by "/", without the slot of an nnx variable's value."""
    if path and path[-1] == jax.tree_util.GetAttrKey("value"):  # elsewhere, a layer's own name
        path = path[:-1]
    return "/".join(str(getattr(p, "key", getattr(p, "name", getattr(p, "idx", p)))) for p in path)


def check_names(wanted: Iterable[str], params: optax.Params) -> None:
    """Raises ValueError for a path that meets no weight: that one would silently stay as it is."""
    names = [leaf_path(path) for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    for name in wanted:
        if name not in names:
            raise ValueError(f"no weight is called {name!r}: there are {', '.join(names)}")


def find(state: optax.OptState, kind: type) -> Any:
    """The one node of a type in an optimizer's state.

    Raises:
      ValueError: there is none, or several.
    """
    is_ours = lambda node: isinstance(node, kind)  # noqa: E731
    found = [node for node in jax.tree.leaves(state, is_leaf=is_ours) if is_ours(node)]
    if len(found) != 1:
        raise ValueError(
            f"one {kind.__name__} is needed in the optimizer's state, not {len(found)}"
        )
    return found[0]
