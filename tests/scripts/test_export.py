"""The command line of scripts/export.py: a trained run, its file, and one line for each mistake."""

import re

import pytest
from train import tiny

from qtrain.optim import LossAware
from qtrain.recipes.base import Adam, At, Recipe
from qtrain.train.loop import fit
from qtrain.train.settings import Settings
from qtrain.wire import Stochastic
from qtrain.zoo.binary import BinaryConnect
from scripts import export

STORED = Recipe(
    key="hou2019analysis", model="mlp", batch_size=16, epochs=1, optimizer=Adam(lr=3e-3),
    weight=(At(".*", LossAware(bits=3)),), wire=Stochastic(bits=3),
)  # fmt: skip
CONSTRAINED = Recipe(
    key="guo2018survey", model="mlp", batch_size=16, epochs=1, weight=(At(".*", BinaryConnect()),)
)


@pytest.fixture(autouse=True)
def tiny_data(monkeypatch):
    monkeypatch.setattr("qtrain.train.data.load", lambda name, folder: tiny.dataset())


@pytest.mark.parametrize("recipe", [STORED, CONSTRAINED], ids=lambda r: r.key)
def test_a_run_becomes_a_file(recipe, tmp_path, capsys):
    """The accuracy is that of the run; the second time, from the file alone.

    Kills: export/run.py: `jax.jit(program.moves.deploy)(state.params, state.optimizer)` ->
    `jax.tree.map(jnp.abs, state.params)`; export/codes.py: `coded.first` -> `0`.
    """
    result = fit(recipe, tiny.dataset(), Settings(folder=tmp_path / recipe.key, quiet=True))
    (tmp_path / "float32").mkdir()
    (tmp_path / "float32" / "metrics.jsonl").touch()
    capsys.readouterr()
    export.main(export.Options(folder=tmp_path))
    out = capsys.readouterr().out
    path = tmp_path / recipe.key / "model.safetensors"
    accuracy = f"test accuracy: {100 * result.accuracy:.2f} %"
    assert accuracy in out
    assert "reloaded: the same 200 outputs for the test set, bit for bit" in out
    size, tensors, header = (int(n.replace(",", "")) for n in re.search(
        r"safetensors: ([\d,]+) bytes, ([\d,]+) of tensors and ([\d,]+) of header", out
    ).groups())  # fmt: skip
    assert path.stat().st_size == size == tensors + header
    assert re.search(rf"│ all +│.*│ +{tensors:,} │ +1/", out)
    bits = 3 if recipe is STORED else 1
    assert re.search(rf"│ hidden2/kernel │ +256 x 256 │ \w+ +│ +{bits} │", out)
    export.main(export.Options(check=path))
    assert accuracy in capsys.readouterr().out


def test_an_export_that_differs_leaves_the_earlier_file(tmp_path, monkeypatch):
    """Kills: scripts/export.py: `{path.name}.unchecked` -> `{path.name}`;
    `beside.unlink(missing_ok=True)` -> `pass`.
    """
    fit(CONSTRAINED, tiny.dataset(), Settings(folder=tmp_path, steps=1, quiet=True))
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"an earlier one")
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr("qtrain.export.run.differing", lambda a, b: 3)
    with pytest.raises(ValueError, match="3 of 200 outputs of the export differ: it was not kept"):
        export.main(export.Options(folder=tmp_path))
    assert path.read_bytes() == b"an earlier one"
    assert sorted(tmp_path.iterdir()) == before


def test_mistakes(tmp_path):
    for options, message in (
        (export.Options(), "give either the folder of a run, or --check FILE"),
        (export.Options(folder=tmp_path), "holds 0 runs: give the folder of a run"),
        (export.Options(check=tmp_path / "no"), "there is no file"),
        (export.Options(check=tmp_path, out=tmp_path), "does nothing for --check: leave it out"),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            export.main(options)
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").touch()
    with pytest.raises(ValueError, match=r"holds 2 runs: give one of .*/a, .*/b"):
        export.main(export.Options(folder=tmp_path))
    with pytest.raises(ValueError, match="has no first row; put the run's own file back"):
        export.main(export.Options(folder=tmp_path / "a"))


def test_a_run_without_checkpoint(tmp_path):
    fit(CONSTRAINED, tiny.dataset(), Settings(folder=tmp_path, steps=1, quiet=True))
    (tmp_path / "checkpoints").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="has no checkpoint to export"):
        export.main(export.Options(folder=tmp_path))
