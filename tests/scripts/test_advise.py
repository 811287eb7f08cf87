"""scripts/advise.py: the table for models and for any JAX function, and one line per mistake."""

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from scripts import advise

ROOT = Path(__file__).resolve().parents[2]


def rows(out: str) -> dict[tuple[str, str], list[str]]:
    """The table's cells by layer and GEMM."""
    found, layer = {}, ""
    for line in out.splitlines():
        match = re.match(r"(.*?) +(forward|input grad|weight grad) +([\d,]+ .*)", line)
        if match:
            layer = match[1] or layer
            found[layer, match[2]] = match[3].split()
    return found


def test_model(capsys, tmp_path):
    """Lengths of the small CNN, and bits that agree with the file written beside."""
    file = tmp_path / "advice.json"
    advise.main(advise.Options(model="small_cnn", out=file))
    table = rows(capsys.readouterr().out)
    assert table["conv1", "weight grad"] == ["100,352", "12", "8", "8", "5"]
    assert table["hidden", "forward"][0] == "1,568"
    assert ("conv1", "input grad") not in table  # nobody needs the gradient of the image
    written = {(r["layer"], r["gemm"]): r for r in json.loads(file.read_text())}
    assert written["conv1", "weight_grad"]["exact"] == 8
    assert len(written) == len(table) == 11


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module with functions that know nothing of qtrain."""
    text = """
        import jax, jax.numpy as jnp
        def loss(w, x):
            def layer(x, w):
                return jnp.tanh(x @ w), None
            return jnp.sum(jax.lax.scan(layer, x, w)[0])
        def branching(w, x):
            return jnp.sum(x @ w) if w[0, 0] > 0 else 0.0
        def no_product(w, x):
            return jnp.sum(w) + jnp.sum(x)
        def arguments():
            shape = jax.ShapeDtypeStruct
            return shape((24, 512, 512), jnp.float32), shape((4096, 512), jnp.float32)
        pair = (jnp.ones((8, 8)), jnp.ones((4, 8)))
    """
    (tmp_path / "my_module.py").write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_module", raising=False)


def test_function(module, capsys):
    """A scan over 24 layers: its GEMMs run 24 times each."""
    advise.main(advise.Options(fn="my_module:loss", args="my_module:arguments"))
    out = capsys.readouterr().out
    cells = {key[1]: value for key, value in rows(out).items()}
    assert cells["forward"][:2] == ["512", "24"]
    assert cells["weight grad"][:2] == ["4,096", "24"]
    assert "my_module.py:5" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to advise on: give --model resnet18, or --fn"),
        ({"model": "resnet19"}, "unknown model 'resnet19': did you mean resnet"),
        ({"model": "mlp", "recipe": "wang2018fp8"}, "wang2018fp8 says nothing about"),
        ({"model": "mlp", "chunk": 0}, "chunk must be at least 1, not 0"),
        ({"model": "resnet18", "measure": True}, "--measure needs images"),
        ({"fn": "my_module:loss"}, "--fn needs --args"),
        ({"fn": "my_module", "args": "my_module:pair"}, "--fn is MODULE:NAME"),
        ({"fn": "nowhere:loss", "args": "my_module:pair"}, "cannot import nowhere"),
        ({"fn": "my_module:los", "args": "my_module:pair"}, "my_module has no los"),
        ({"fn": "my_module:branching", "args": "my_module:pair"}, "cannot trace branching: Python"),
        ({"fn": "my_module:no_product", "args": "my_module:pair"}, "no_product has no GEMM"),
    ],
)
def test_mistakes(module, options, message):
    with pytest.raises(ValueError, match=message):
        advise.main(advise.Options(**options))


def test_command_line(tmp_path):
    """An error is one line on stderr, with a status that is not zero."""
    run = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "advise.py"), "--model", "resnet19"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert run.returncode == 1
    assert run.stderr.startswith("error: unknown model")
    assert run.stderr.count("\n") == 1
