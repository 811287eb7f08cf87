"""Trained models as files: packed codes and scales, and the model that they give back."""

from qtrain.export.codes import Coded, decode, encode
from qtrain.export.file import Export, read, write
from qtrain.export.model import Origin, export, load

__all__ = ["Coded", "Export", "Origin", "decode", "encode", "export", "load", "read", "write"]
