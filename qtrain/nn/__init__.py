"""Quantizing ordinary flax.nnx models by rules on their paths."""

from qtrain.nn.hooks import RoundingKey, set_keys
from qtrain.nn.learned import Learned, calibrate
from qtrain.nn.norm import RangeBatchNorm, RangeNorm, replace_batch_norms
from qtrain.nn.rules import Rule, paths, quantize_model
from qtrain.nn.scopes import with_scopes
from qtrain.nn.tracked import Tracked

__all__ = [
    "Learned",
    "RangeBatchNorm",
    "RangeNorm",
    "RoundingKey",
    "Rule",
    "Tracked",
    "calibrate",
    "paths",
    "quantize_model",
    "replace_batch_norms",
    "set_keys",
    "with_scopes",
]
