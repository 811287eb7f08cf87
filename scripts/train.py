"""Trains a model by a recipe, beside the same model in float32.

    python scripts/train.py wang2018fp8                          # everything as in the paper
    python scripts/train.py wang2018fp8 --accumulate.chunk 1     # without chunks
    python scripts/train.py wang2018fp8 --update.rounding nearest --epochs 2
    python scripts/train.py wang2018fp8 --optimizer adam --optimizer.lr 2e-3
    python scripts/train.py wang2018fp8 --model resnet20 --data cifar10 --data-dir DIR
    python scripts/train.py float32 --model char_lstm --data sotu-1m --optimizer adam  # text
    python scripts/train.py wang2018fp8 --resume                 # go on where the last run stopped
    python scripts/train.py wang2018fp8 --mesh data=8            # eight devices

Recipes:
"""

from __future__ import annotations

import shlex
import sys

from qtrain.train.host import keep_freed_pages
from qtrain.train.interrupt import leave_on_interrupt, raise_on_interrupt


def _stopped(argv: list[str]) -> str:
    """What Ctrl-C prints outside the loop, which answers by saving."""
    return f"stopped; go on with: {shlex.join(['python', 'scripts/train.py', *argv])}"


if __name__ == "__main__":
    leave_on_interrupt(_stopped(sys.argv[1:]))  # seconds of imports follow
keep_freed_pages()  # before JAX allocates anything

import dataclasses  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Annotated, Any, Literal, get_type_hints  # noqa: E402

import tyro  # noqa: E402

from qtrain import recipes  # noqa: E402

RUNS = Path("runs")
CHANGES = ("model", "data", "epochs", "batch_size")  # fields of a recipe that are flags as well


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """Settings of the optimizer; what is left out is the recipe's."""

    lr: float | None = None
    momentum: float | None = None
    b1: float | None = None
    b2: float | None = None
    eps: float | None = None
    weight_decay: float | None = None
    """momentum: added to the gradient; adam: apart from it, times the learning rate."""
    schedule: str | None = None
    """constant, or cosine: down to zero at the last step."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What is trained, and how the run is carried out."""

    model: str | None = None
    """mlp, small_cnn, small_cnn_bn, resnet20, resnet32, resnet18 or alexnet; char_lstm for text."""
    data: str | None = None
    """fashion-mnist-8k or the text sotu-1m (come with qtrain), fashion-mnist, mnist or cifar10."""
    data_dir: Path | None = None
    """Folder of the data sets that do not come with qtrain; default $QTRAIN_DATA."""
    epochs: int | None = None
    batch_size: int | None = None
    method: Annotated[Literal["momentum", "adam"] | None, tyro.conf.arg(name="optimizer")] = None
    """SGD with momentum, or Adam."""
    optimizer: Optimizer = Optimizer()
    steps: int | None = None
    """Stop after so many steps instead of after the epochs; a run whose weights this one begins
    with takes as many steps before it."""
    seed: int = 0
    with_: Annotated[tuple[str, ...], tyro.conf.arg(name="with")] = ()
    """Further recipes, which fill other places of the training step."""
    baseline: bool = True
    """Train the same model in float32 as well."""
    out: Path | None = None
    """Folder of the results; default: runs/RECIPE/001 or the next free number."""
    resume: bool = False
    """Go on with the run in --out, or with the last one."""
    checkpoint_every: int | None = None
    """Steps between checkpoints; default: each epoch."""
    mesh: str = "data=1"
    """Devices that share each batch; on CPU, as many as asked for are made."""
    workers: int | None = None
    """The same as --mesh data=WORKERS."""
    coordinator: str | None = None
    """HOST:PORT of process 0, where several processes share the mesh."""
    processes: int = 1
    process_id: int = 0


def main(argv: list[str]) -> int:
    """Parses the command line, trains, reports; returns the exit status."""
    titles = recipes.titles()
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__ + "\n".join(f"    {key:<14}{title}" for key, title in titles.items()))
        print("\n`python scripts/train.py RECIPE --help` lists what a recipe lets you change.")
        return 0
    try:
        module = recipes.get(argv[0])
        options, run = _parse(module, argv)
        return _train(module, options, run, argv)
    except (ValueError, OSError) as error:
        message = str(error) or type(error).__name__
        print(f"error: {' '.join(message.split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        print(f"\n{stop or _stopped(argv)}", file=sys.stderr)
        return 130


def _parse(module: Any, argv: list[str]) -> tuple[Any, Run]:
    """The recipe's own options and the common ones, from one flat list of flags."""
    flat = tyro.conf.arg(name="")
    run = _with_values(module.recipe())
    command = dataclasses.make_dataclass(
        "Command",
        [
            ("options", Annotated[module.Options, flat], module.Options()),
            ("run", Annotated[run, flat], run()),
        ],
        frozen=True,
    )
    found = tyro.cli(
        command, args=_flags(argv[1:]), prog=f"train.py {argv[0]}", description=module.__doc__,
    )  # fmt: skip
    return found.options, found.run


def _flags(words: list[str]) -> list[str]:
    """`--name true` and `--name false` as tyro spells them: --name and --no-name."""
    out: list[str] = []
    for word in words:
        if word in ("true", "false") and out and out[-1].startswith("--"):
            group, dot, name = out.pop().removeprefix("--").rpartition(".")
            out.append(f"--{group}{dot}{'no-' if word == 'false' else ''}{name}")
        else:
            out.append(word)
    return out


def _with_values(recipe: Any) -> Any:
    """`Run`, whose help shows the recipe's own values where they may be changed."""
    kinds, own = _kinds(), dataclasses.asdict(recipe.optimizer)
    current = next(name for name, kind in kinds.items() if isinstance(recipe.optimizer, kind))
    others = {
        field.name: f"({other}: {field.default})"
        for other, kind in kinds.items()
        for field in dataclasses.fields(kind)
    }
    optimizer = _hinted(Optimizer, {**others, **{k: f"(recipe: {v})" for k, v in own.items()}})
    hints = {name: f"(recipe: {getattr(recipe, name)})" for name in CHANGES}
    run = _hinted(Run, {**hints, "method": f"(recipe: {current})"})
    fields = [("optimizer", optimizer, dataclasses.field(default=optimizer()))]
    return dataclasses.make_dataclass("Run", fields, bases=(run,), frozen=True, kw_only=True)


def _hinted(kind: type, hints: dict[str, str]) -> type:
    """A dataclass whose help says `hints` of these fields, and not that they default to None."""
    types = get_type_hints(kind, include_extras=True)
    fields = [
        (name, Annotated[types[name], tyro.conf.arg(help_behavior_hint=hint)], None)
        for name, hint in hints.items()
    ]
    return dataclasses.make_dataclass(
        kind.__name__, fields, bases=(kind,), frozen=True, kw_only=True
    )


def _kinds() -> dict[str, type]:
    """The optimizers by the names they have on the command line."""
    from qtrain.recipes.base import Adam, Momentum

    return {"momentum": Momentum, "adam": Adam}


def _train(module: Any, options: Any, run: Run, argv: list[str]) -> int:
    from paper_figs import training
    from qtrain.recipes.base import baseline
    from qtrain.train import mesh, report
    from qtrain.train.data import load
    from qtrain.train.loop import Settings, fit

    raise_on_interrupt()
    if run.processes < 1:
        raise ValueError(f"processes must be at least 1, not {run.processes}")
    if run.resume and run.out is not None and not run.out.is_dir():
        raise ValueError(f"nothing to resume: there is no folder {run.out}")
    devices = mesh.parse(run.mesh if run.workers is None else f"data={run.workers}")
    if run.workers is not None and run.mesh not in (Run.mesh, f"data={run.workers}"):
        raise ValueError(f"--workers {run.workers} contradicts --mesh {run.mesh}: give one of them")
    mesh.start(
        devices, coordinator=run.coordinator, processes=run.processes, process_id=run.process_id
    )
    recipe = _changed(_merged(module.recipe(options), run), run)
    dataset = load(recipe.data, run.data_dir)
    folder = _folder(run, recipe.key)
    chosen = [recipe] + ([baseline(recipe)] if run.baseline and recipe.places() else [])
    results = []
    try:
        for one in chosen:
            settings = Settings(
                folder=folder / one.key, seed=run.seed, steps=run.steps, devices=devices,
                resume=run.resume, checkpoint_every=run.checkpoint_every,
            )  # fmt: skip
            results.append(fit(one, dataset, settings))
            if results[-1].interrupted:
                command = shlex.join(["python", "scripts/train.py", *_again(argv, folder)])
                print(f"stopped at step {results[-1].step} of {one.key}; go on with\n    {command}")
                return 130
        if run.process_id == 0:
            report.show(recipe, dataset, results, folder)
            files = training.draw([result.folder for result in results], folder)
            print(f"plots: {', '.join(map(str, files))}")
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_stopped(_again(argv, folder))) from None
    return 0


def _merged(recipe: Any, run: Run) -> Any:
    """The recipe and those that --with names."""
    from qtrain.recipes.base import merge

    for key in run.with_:
        other = recipes.get(key).recipe()
        if not other.places():
            raise ValueError(f"--with {key} fills no place of the training step: leave it out")
        recipe = merge(recipe, other)
    return recipe


def _changed(recipe: Any, run: Run) -> Any:
    """The recipe with what the command line says about model, data and schedule."""
    from qtrain.recipes import base

    changes = {name: v for name in CHANGES if (v := getattr(run, name)) is not None}
    return base.changed(recipe, optimizer=_optimizer(recipe.optimizer, run), **changes)


def _optimizer(settings: Any, run: Run) -> Any:
    """The recipe's optimizer, or the one chosen instead, with the given settings changed."""
    kinds = _kinds()
    name = run.method or next(n for n, kind in kinds.items() if isinstance(settings, kind))
    if not isinstance(settings, kinds[name]):
        settings = kinds[name]()
    given = {k: v for k, v in dataclasses.asdict(run.optimizer).items() if v is not None}
    known = [field.name for field in dataclasses.fields(settings)]
    if unknown := [k for k in given if k not in known]:
        raise ValueError(
            f"--optimizer.{unknown[0]} is no setting of {name}: it has {', '.join(known)}"
        )
    return dataclasses.replace(settings, **given)


def _folder(run: Run, key: str) -> Path:
    """Where the run lives: a new folder, or an old one that is resumed."""
    if run.out is None and run.processes > 1:
        raise ValueError("several processes need --out, the same for all")
    base = RUNS / key
    old = sorted(p for p in base.glob("[0-9][0-9][0-9]") if p.is_dir())
    if run.resume:
        if run.out is None and not old:
            raise ValueError(f"nothing to resume: there is no run in {base}; leave out --resume")
        return run.out or old[-1]
    if run.out is None:
        return base / f"{int(old[-1].name) + 1 if old else 1:03d}"
    if run.process_id == 0 and run.out.is_dir() and any(run.out.iterdir()):
        raise ValueError(f"{run.out} is not empty: add --resume to go on, or choose another --out")
    return run.out


def _again(argv: list[str], folder: Path) -> list[str]:
    """The same command, resuming in `folder`; unchanged as long as there is none."""
    if not folder.is_dir():
        return argv
    kept = [word for word in argv if word != "--resume"]
    named = any(word == "--out" or word.startswith("--out=") for word in kept)
    return kept + ([] if named else ["--out", str(folder)]) + ["--resume"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
