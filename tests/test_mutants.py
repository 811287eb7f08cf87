"""Each property kills the bug that it names: `pytest -m slow tests/test_mutants.py`.

A mutant is one changed place in one file. The tree is copied, changed, and the named tests run
there; they must fail. A place that the code no longer has is an error here, so the table cannot
go stale.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mutants_of_numbers import NUMBERS, Mutant
from mutants_of_scalable import SCALABLE
from mutants_of_theory import THEORY
from mutants_of_zoo import ZOO
from mutants_over_time import OVER_TIME

ROOT = Path(__file__).resolve().parents[1]
COPIED = (
    "qtrain", "theory", "tests", "scripts", "paper_figs", "pyproject.toml", "README.md",
    "references.bib", "Makefile",
)  # fmt: skip


MUTANTS = NUMBERS | {
    **SCALABLE,
    **THEORY,
    **ZOO,
    **OVER_TIME,
    "axpy rounds twice": Mutant(
        "qtrain/optim/axpy.py",
        'add(y, p, target, "nearest")',
        "cast(y + p, target)",
        "tests/optim -k exact_addition",
    ),
    "momentum on the gradient": Mutant(
        "qtrain/optim/sgd.py",
        'axpy(momentum, v, g, target, key_of("momentum"))',
        'axpy(momentum, g, v, target, key_of("momentum"))',
        "tests/optim -k three_rounded",
    ),
    "Adam forgets the decay": Mutant(
        "qtrain/optim/adam.py",
        " + decay * w",
        "",
        "tests/optim -k adam_is_three",
    ),
    "the schedule stands still": Mutant(
        "qtrain/optim/axpy.py",
        "learning_rate(count) if callable",
        "learning_rate(0 * count) if callable",
        "tests/optim -k adam_is_three",
    ),
    "updates miss their grid": Mutant(
        "qtrain/optim/axpy.py",
        "return round_params(optax.apply_updates(params, updates), fmt)",
        "return optax.apply_updates(params, updates)",
        "tests/optim -k land_exactly",
    ),
    "loss scale left in": Mutant(
        "qtrain/optim/loss_scale.py",
        "g / state.scale",
        "g",
        "tests/optim -k taken_out",
    ),
    "a skipped step changes the state": Mutant(
        "qtrain/optim/loss_scale.py",
        "jnp.where(finite, new, old)",
        "new",
        "tests/optim -k taken_out",
    ),
    "one key for all layers": Mutant(
        "qtrain/nn/hooks.py",
        "fold(step_key, name)",
        "step_key",
        "tests/nn -k keys_differ",
    ),
    "rules match prefixes": Mutant(
        "qtrain/nn/rules.py",
        "match = next((r for r in rules if re.fullmatch(r.path, path)), None)",
        "match = next((r for r in rules if re.match(r.path, path)), None)",
        "tests/nn",
    ),
    "last match wins": Mutant(
        "qtrain/recipes/base.py",
        "in getattr(self, place) or ():\n            if at.matches",
        "in reversed(getattr(self, place) or ()):\n            if at.matches",
        "tests/recipes -k first_match",
    ),
    "data unproved": Mutant(
        "qtrain/train/data.py",
        "if digest(arrays) != EMBEDDED_PIN:",
        "if False:",
        "tests/train/test_data.py -k embedded_file",
    ),
    "order ignores the epoch": Mutant(
        "qtrain/train/data.py",
        "key=[seed, epoch]",
        "key=[seed, 0]",
        "tests/train/test_data.py -k permutation",
    ),
    "the date in a figure": Mutant(
        "paper_figs/style.py",
        'metadata={"CreationDate": None}',
        'metadata={"Title": str(time.time_ns())}',
        "tests/scripts/test_figures.py -k same_bytes",
    ),
    "the sweep repeats what is there": Mutant(
        "scripts/sweep.py",
        "done.get((recipe, settings.seed))",
        "None",
        "tests/scripts/test_sweep.py -k hides_no",
    ),
}


def run_tests(tree: Path, arguments: str) -> subprocess.CompletedProcess:
    """Pytest in a copy of the tree, which comes before any installed qtrain."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    words, _, chosen = arguments.partition(" -k ")
    return subprocess.run(
        [*command, *words.split(), *(["-k", chosen] if chosen else [])],
        cwd=tree, env={**os.environ, "PYTHONPATH": str(tree)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_place_exists_once(mutant):
    """Quick, so that whoever changes the code hears of the mutant at once."""
    assert (ROOT / mutant.file).read_text(encoding="utf-8").count(mutant.old) == 1


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_mutant_dies(mutant, tmp_path):
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    file = tmp_path / mutant.file
    source = file.read_text(encoding="utf-8")
    file.write_text(source.replace(mutant.old, mutant.new), encoding="utf-8")
    run = run_tests(tmp_path, mutant.tests)
    assert run.returncode == 1, (
        f"survived, or did not run:\n{run.stdout[-2000:]}{run.stderr[-500:]}"
    )
    assert " failed" in run.stdout
