"""Quantizing ordinary flax.nnx models by rules on their paths."""

from qtrain.nn.hooks import RoundingKey, set_keys
from qtrain.nn.rules import Rule, paths, quantize_model
from qtrain.nn.scopes import with_scopes

__all__ = ["RoundingKey", "Rule", "paths", "quantize_model", "set_keys", "with_scopes"]
