"""Derives, evaluates and compares: one file per topic, never JAX."""

from theory.scaling import retention
from theory.vrr import vrr  # the function hides its module: import that one's names from it

__all__ = ["retention", "vrr"]
