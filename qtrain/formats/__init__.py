"""What numbers exist: formats as a few integers, everything else derived. No JAX in here."""

from qtrain.formats.codebook import Codebook
from qtrain.formats.float import Float
from qtrain.formats.integer import Fixed, Int
from qtrain.formats.names import Format, get, get_float

__all__ = ["Codebook", "Fixed", "Float", "Format", "Int", "get", "get_float"]
