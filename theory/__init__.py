"""Derives, evaluates and compares: one file per topic, never JAX."""
