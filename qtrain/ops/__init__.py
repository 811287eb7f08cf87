"""Quantized linear algebra: GEMMs and convolutions with rounded operands and rounded sums."""

from qtrain.ops.config import Accumulator, DotConfig, Quantizer
from qtrain.ops.conv import conv, conv_general_dilated
from qtrain.ops.dot import dot, dot_general

__all__ = [
    "Accumulator",
    "DotConfig",
    "Quantizer",
    "conv",
    "conv_general_dilated",
    "dot",
    "dot_general",
]
