"""Writes a trained model as packed codes and scales, reloads it, and proves that it is the same.

    python scripts/export.py runs/hou2019analysis/001             # writes model.safetensors there
    python scripts/export.py runs/hou2019analysis/001 --out FILE
    python scripts/export.py --check FILE                         # accuracy of an exported model

Each weight goes through its quantizer once and is stored in the fewest bits that give the same
float32 values; the reloaded model's outputs for all test inputs are compared bit for bit.
`qtrain.export.load(FILE)` is the model.
"""

from __future__ import annotations

import sys

from qtrain.train.host import keep_freed_pages

keep_freed_pages()  # before JAX allocates anything

import dataclasses  # noqa: E402
import math  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import tyro  # noqa: E402

NAME = "model.safetensors"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Which run, or which file."""

    folder: tyro.conf.Positional[Path | None] = None
    """Folder of a run, as train.py names it; one with a float32 baseline beside it will do."""
    out: Path | None = None
    """File to write; default: model.safetensors in the folder of the run."""
    check: Path | None = None
    """Evaluate this file instead."""
    data_dir: Path | None = None
    """Folder of the data sets that do not come with qtrain; default $QTRAIN_DATA."""


def main(options: Options) -> None:
    """Exports a run, or evaluates a file.

    Raises:
      ValueError: there is nothing to export, the file is damaged, or its outputs are others than
        those of the run.
      OSError: a file cannot be read or written.
    """
    if (options.folder is None) == (options.check is None):
        raise ValueError("give either the folder of a run, or --check FILE")
    if options.check is not None:
        if options.out is not None:
            raise ValueError(f"--out {options.out} does nothing for --check: leave it out")
        _check(options.check, options.data_dir)
    else:
        _export(options)


def _check(path: Path, data_dir: Path | None) -> None:
    from qtrain.export import model, read, run
    from qtrain.train.data import load

    found = read(path)
    origin = model.origin_of(found)
    dataset = load(origin.recipe.data, data_dir)
    show(found, path)
    outputs = run.logits(model.restore(found, str(path)), origin, dataset)
    print(f"test accuracy: {100 * run.accuracy(outputs, dataset):.2f} %")


def _export(options: Options) -> None:
    from qtrain.export import export, model, read, run, write
    from qtrain.nn.deploy import deploy
    from qtrain.recipes.config import from_json
    from qtrain.train.data import load

    assert options.folder is not None
    folder, config = run.find(options.folder)
    dataset = load(from_json(config["recipe"]).data, options.data_dir)
    warn = lambda text: print(text, file=sys.stderr)  # noqa: E731
    trained, origin, step = run.trained(folder, config, dataset, warn)
    if step < config["steps"]:
        warn(f"{folder} has not ended: this is step {step} of {config['steps']}")
    path = options.out or folder / NAME
    beside = path.with_name(f"{path.name}.unchecked")  # what is at `path` stays until this is good
    try:
        write(beside, export(deploy(trained), origin))
        found = read(beside)
        want = run.logits(trained, origin, dataset)
        outputs = run.logits(model.restore(found, str(path)), origin, dataset)
        if count := run.differing(want, outputs):
            raise ValueError(
                f"{count} of {want.size} outputs of the export differ: it was not kept"
            )
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    show(found, path)
    print(f"reloaded: the same {want.size:,} outputs for the test set, bit for bit")
    print(f"test accuracy: {100 * run.accuracy(outputs, dataset):.2f} %")


def show(found: Any, path: Path) -> None:
    """A table of the tensors and their sizes, and the size of the file."""
    from rich.console import Console
    from rich.table import Table

    from qtrain.export.file import header_size

    table = Table(title=str(path), title_justify="left")
    for name in ("tensor", "shape", "form", "bits", "bytes", "of float32"):
        table.add_column(name, justify="left" if name in ("tensor", "form") else "right")
    wide = 0
    for name, coded in found.tensors.items():
        full = 4 * math.prod(coded.shape)
        wide += full
        shape = " x ".join(map(str, coded.shape)) or "1"
        form = coded.form + (" per channel" if coded.groups > 1 else "")
        table.add_row(name, shape, form, str(coded.bits), f"{coded.nbytes:,}",
                      f"1/{full / coded.nbytes:.1f}")  # fmt: skip
    table.add_row("all", "", "", "", f"{found.nbytes:,}", f"1/{wide / found.nbytes:.1f}")
    Console(highlight=False, width=1000).print(table)
    header, size = header_size(path), path.stat().st_size
    print(f"{path}: {size:,} bytes, {found.nbytes:,} of tensors and {header:,} of header")


if __name__ == "__main__":
    try:
        main(tyro.cli(Options, description=__doc__))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
