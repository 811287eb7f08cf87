"""Ordinary flax.nnx models; nothing in here knows about quantization."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from flax import nnx

from qtrain.models.alexnet import AlexNet
from qtrain.models.char_lstm import CharLstm
from qtrain.models.mlp import Mlp
from qtrain.models.resnet import CifarResNet, ResNet18
from qtrain.models.small_cnn import SmallCnn, SmallCnnBn

MODELS: dict[str, Callable[..., nnx.Module]] = {
    "mlp": Mlp,
    "small_cnn": SmallCnn,
    "small_cnn_bn": SmallCnnBn,
    "resnet20": lambda **settings: CifarResNet(depth=20, **settings),
    "resnet32": lambda **settings: CifarResNet(depth=32, **settings),
    "resnet18": ResNet18,
    "alexnet": AlexNet,
    "char_lstm": CharLstm,
}
CHANGED = {  # the models that have
    "width": ("small_cnn", "small_cnn_bn", "resnet20", "resnet32"),
    "signed": ("small_cnn_bn", "resnet20", "resnet32"),
}

__all__ = [
    "CHANGED",
    "MODELS",
    "AlexNet",
    "CharLstm",
    "CifarResNet",
    "Mlp",
    "ResNet18",
    "SmallCnn",
    "SmallCnnBn",
    "create",
]


def create(
    name: str,
    *,
    num_classes: int,
    in_shape: tuple[int, ...],
    rngs: nnx.Rngs,
    width: int = 1,
    signed: bool = False,
) -> nnx.Module:
    """A model by name, for images of `in_shape` (height, width, channels), or for windows of text
    of `in_shape` (characters,).

    `width` multiplies the channels of its hidden layers. `signed` puts hard tanh in place of ReLU,
    and pools before the normalization: the sign of what the next layer sees then tells something.

    Raises:
      ValueError: no such model, names the nearest ones; or it does not read such inputs, or has
        only one width or nonlinearity.
    """
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=3, cutoff=0.4) or list(MODELS)
        raise ValueError(f"unknown model {name!r}: did you mean {' or '.join(near)}?")
    if len(in_shape) == 1 and name != "char_lstm":
        raise ValueError(f"{name} does not read text: --model char_lstm does")
    changes = {**({"width": width} if width > 1 else {}), **({"signed": True} if signed else {})}
    for change, value in changes.items():
        if name not in CHANGED[change]:
            raise ValueError(f"{name} has no {change} {value}: {', '.join(CHANGED[change])} have")
    return MODELS[name](num_classes=num_classes, in_shape=in_shape, rngs=rngs, **changes)
