"""How a number lands on a grid: rounding, scales, estimators, random bits."""

from qtrain.quantize.affine import Affine
from qtrain.quantize.bits import fold, random_words
from qtrain.quantize.cast import cast
from qtrain.quantize.quantizer import Cast
from qtrain.quantize.scale import Scale

__all__ = ["Affine", "Cast", "Scale", "cast", "fold", "random_words"]
