"""Importing costs nothing that was not asked for, and a wrong name says what there is."""

import subprocess
import sys

import pytest

import qtrain


@pytest.mark.parametrize("module", ["qtrain", "qtrain.formats", "qtrain.papers", "qtrain.citation"])
def test_no_jax(module):
    code = f"import sys, {module}; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_public_names():
    for name in qtrain.__all__:
        assert getattr(qtrain, name) is not None


def test_unknown_name():
    with pytest.raises(AttributeError, match=r"no attribute .dots.; it has .*dot"):
        _ = qtrain.dots
