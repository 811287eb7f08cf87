"""Rules: path regex -> what the layer's GEMMs do."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import TypeVar

from flax import nnx

from qtrain.nn.hooks import HOOKS, hook
from qtrain.ops import DotConfig

Model = TypeVar("Model", bound=nnx.Module)


@dataclasses.dataclass(frozen=True)
class Rule:
    """Layers whose path matches `path` in full do their GEMMs by `config`.

    A path joins attribute names and list indices with "/": "stage1/0/conv1".
    """

    path: str
    config: DotConfig

    def __post_init__(self) -> None:
        try:
            re.compile(self.path)
        except re.error as error:
            raise ValueError(f"rule {self.path!r} is no regular expression: {error}") from None


def quantize_model(model: Model, rules: Sequence[Rule]) -> Model:
    """Gives each layer with a hook the first rule that matches its path, in place.

    Works on every nnx layer that has a `dot_general` or `conv_general_dilated` attribute
    (Linear, LinearGeneral, Conv, and what is made of them). A layer that was quantized
    before gets the new config; a layer that no rule matches stays as it is.

    Raises:
      ValueError: a rule matches no layer; names it and the paths that exist.
    """
    layers = _layers(model)
    for rule in rules:
        if not any(re.fullmatch(rule.path, path) for path in layers):
            raise ValueError(
                f"rule {rule.path!r} matches no layer; the layers are {', '.join(layers)}"
            )
    for path, (module, name) in layers.items():
        match = next((r for r in rules if re.fullmatch(r.path, path)), None)
        if match is not None:
            kernel = getattr(module, "kernel")  # noqa: B009 -- mypy: not every module has one
            setattr(module, name, hook(name, match.config, kernel.get_value()))
    return model


def paths(model: nnx.Module) -> tuple[str, ...]:
    """Paths of the layers that `quantize_model` can change."""
    return tuple(_layers(model))


def _layers(model: nnx.Module) -> dict[str, tuple[nnx.Module, str]]:
    found = {}
    for path, module in nnx.iter_modules(model):
        name = next((hook for hook in HOOKS if hasattr(module, hook)), None)
        if name is not None:
            found["/".join(map(str, path))] = (module, name)
    return dict(sorted(found.items()))
