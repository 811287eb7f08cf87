"""Trains the variants of a recipe that its paper compares, with several seeds each.

    python scripts/sweep.py wang2018fp8                  # 6 variants x 3 seeds, about 15 minutes
    python scripts/sweep.py wang2018fp8 --seeds 0 --only full float32
    python scripts/sweep.py guo2018survey --out results  # all methods of the zoo, in one table
    python scripts/figures.py wang2018fp8                # draws what this wrote

Rows go to paper_figs/results/RECIPE/ablations.jsonl, one per run, as each run ends; a run that is
there already, from the same configuration, is not repeated, whatever its name. Float32 runs that
others begin with are trained once per seed. A variant that does not fit the model is left out.
"""

from __future__ import annotations

import shlex
import sys

from qtrain.train.host import keep_freed_pages
from qtrain.train.interrupt import leave_on_interrupt, raise_on_interrupt

STOPPED = "stopped; finished runs are kept, the same command goes on: " + shlex.join(
    ["python", "scripts/sweep.py", *sys.argv[1:]]
)
if __name__ == "__main__":
    leave_on_interrupt(STOPPED)  # seconds of imports follow
keep_freed_pages()  # before JAX allocates anything

import dataclasses  # noqa: E402
import functools  # noqa: E402
import hashlib  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import shutil  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

import tyro  # noqa: E402
from flax import nnx  # noqa: E402

from qtrain import models, recipes  # noqa: E402
from qtrain.recipes.base import Recipe, baseline, changed  # noqa: E402
from qtrain.recipes.config import from_json, to_json  # noqa: E402
from qtrain.recipes.layers import layers  # noqa: E402
from qtrain.recipes.model import model_of  # noqa: E402
from qtrain.train.folders import locked, made  # noqa: E402
from qtrain.train.settings import Settings  # noqa: E402
from qtrain.train.starts import REMEDY  # noqa: E402

RESULTS = Path(__file__).resolve().parent.parent / "paper_figs" / "results"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Which runs, on what."""

    recipe: tyro.conf.Positional[str]
    """Key of the recipe, e.g. wang2018fp8."""
    seeds: tuple[int, ...] = (0, 1, 2)
    only: tuple[str, ...] = ()
    """Names of the variants to run; default: all."""
    model: tuple[str, ...] = ()
    """One model or several, in place of the recipe's own."""
    data: str | None = None
    data_dir: Path | None = None
    epochs: int | None = None
    """Of each run itself; those before it keep theirs."""
    out: Path | None = None
    """File of the results (.jsonl), or a folder for RECIPE.jsonl; default:
    paper_figs/results/RECIPE/ablations.jsonl."""
    starts: Path = Path("runs") / "starts"
    """Folder of the runs that others begin with."""


Done = dict[tuple[Recipe, int], dict]  # rows by what ran, and its seed


def variants(options: Options) -> dict[str, Recipe]:
    """The recipe's ablations by name, and float32; with several models, "MODEL: NAME".

    Raises:
      ValueError: the recipe has none, `only` names one that does not exist, or an unknown model.
    """
    module = recipes.get(options.recipe)
    if not hasattr(module, "ABLATIONS"):
        raise ValueError(f"{options.recipe} has no ablations to sweep over")
    if unknown := [name for name in options.model if name not in models.MODELS]:
        raise ValueError(f"no model {', '.join(unknown)}: choose from {', '.join(models.MODELS)}")
    changes = {n: v for n in ("data", "epochs") if (v := getattr(options, n)) is not None}
    found = {n: changed(module.recipe(one), **changes) for n, one in module.ABLATIONS.items()}
    found |= _baselines(found)
    if unknown := [name for name in options.only if name not in found]:
        raise ValueError(f"no variant {', '.join(unknown)}: choose from {', '.join(found)}")
    chosen = {name: r for name, r in found.items() if not options.only or name in options.only}
    several = len(set(options.model)) > 1
    return {
        f"{model['model']}: {name}" if several else name: changed(recipe, **model)
        for model in [{"model": m} for m in options.model] or [{}]
        for name, recipe in chosen.items()
    }


def _baselines(found: dict[str, Recipe]) -> dict[str, Recipe]:
    """Float32 on each data set, that of the first variant by this name alone."""
    first: dict[str, Recipe] = {}
    for recipe in found.values():
        first.setdefault(recipe.data, recipe)
    own, *others = first
    names = {own: "float32", **{data: f"float32, {data}" for data in others}}
    return {names[data]: baseline(recipe) for data, recipe in first.items()}


def _fitting(chosen: dict[str, Recipe], datasets: dict) -> dict[str, Recipe]:
    """The variants that fit model and data; says which do not, and why.

    Raises:
      ValueError: none does.
    """
    fitting = {}
    for name, recipe in chosen.items():
        try:
            _check(recipe, datasets[recipe.data])
            fitting[name] = recipe
        except ValueError as error:
            print(f"{name} left out: {error}")
    if not fitting:
        raise ValueError("no variant is left: choose another --model, --data or --only")
    return fitting


def _check(recipe: Recipe, dataset) -> None:
    """Builds the models of a run and of those before it in the abstract, and their rules."""
    fields = ("model", "widen", "signed", "norm", "batch_size")
    alone = Recipe(key="", **{name: getattr(recipe, name) for name in fields})
    recipe.rules(_layers(alone, dataset.num_classes, dataset.train_x.shape[1:]))
    if recipe.start is not None:
        _check(recipe.start, dataset)


@functools.cache  # seconds of a deep model, and many variants share one
def _layers(recipe: Recipe, classes: int, shape: tuple[int, ...]) -> tuple:
    build = functools.partial(model_of, recipe, num_classes=classes, in_shape=shape)
    return layers(nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0))), (recipe.batch_size, *shape))


def main(options: Options) -> None:
    """Trains what is missing in the result file.

    Raises:
      ValueError: nothing fits, a seed is out of range, or another sweep writes to the file.
      OSError: a place cannot be written.
      KeyboardInterrupt: Ctrl-C; the run that it met leaves no row.
    """
    from qtrain.train.data import load

    chosen, out = variants(options), _file(options)

    def busy() -> None:
        raise ValueError(f"another sweep writes to {out}: wait for it, or choose another --out")

    with locked(out, busy):
        how = Settings(folder=_running(options.starts, out), starts=options.starts)
        seeds = [dataclasses.replace(how, seed=seed) for seed in dict.fromkeys(options.seeds)]
        datasets = {r.data: load(r.data, options.data_dir) for r in chosen.values()}
        chosen, done = _fitting(chosen, datasets), _done(out)
        _sweep(chosen, datasets, seeds, done, out)
        _show(chosen, [settings.seed for settings in seeds], done)
    print(f"results in {out}")


def _sweep(chosen: dict[str, Recipe], datasets, seeds: list[Settings], done: Done, out: Path):
    """Trains what is not done, and adds it to `done` and to the file."""
    todo = []
    for settings in seeds:
        for name, recipe in chosen.items():
            if (old := done.get((recipe, settings.seed))) is None:
                todo.append((name, recipe, settings))
                continue
            other = "" if old["variant"] == name else f" as {old['variant']}"
            print(f"{name}, seed {settings.seed}: {_percent(old)} (already in {out.name}{other})")
    begin = time.monotonic()
    for number, (name, recipe, settings) in enumerate(todo, start=1):
        row = _train(name, recipe, datasets[recipe.data], settings)
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        done[recipe, settings.seed] = row
        left = (time.monotonic() - begin) / number * (len(todo) - number)
        print(f"{name}, seed {settings.seed}: {_percent(row)}  [{number} of {len(todo)}, about"
              f" {-(-left // 60):.0f} min left]", flush=True)  # fmt: skip


def _running(starts: Path, out: Path) -> Path:
    """Where runs to this file are in progress, beside the starts; what a kill left is removed."""
    name = hashlib.sha256(str(out.resolve()).encode()).hexdigest()
    path = starts / f"sweep-{name[:16]}"
    folder = made(path, what=str(path), remedy=REMEDY)
    shutil.rmtree(folder)
    return folder


def _file(options: Options) -> Path:
    """Where the rows go; it can be written, or an error says so before hours of training."""
    out = options.out or RESULTS / options.recipe / "ablations.jsonl"
    if out.suffix != ".jsonl":
        out = out / f"{options.recipe}.jsonl"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.open("a", encoding="utf-8").close()
    except OSError as error:
        raise OSError(f"cannot write {out}: {error.strerror}; choose another --out") from None
    return out


def _show(chosen: dict[str, Recipe], seeds: list[int], done: Done) -> None:
    """One table of all runs: mean over the seeds, and each of them."""
    width = max(map(len, chosen))
    for name, recipe in chosen.items():
        found = [done[recipe, seed]["accuracy"] for seed in seeds]
        kept = [100 * a for a in found if a is not None]
        mean = f"{sum(kept) / len(kept):6.2f} %" if kept else " stopped"
        each = "  ".join("stopped" if a is None else f"{100 * a:.2f}" for a in found)
        print(f"{name:<{width}}  {mean}  ({each})")


def _train(name: str, recipe: Recipe, dataset, settings: Settings) -> dict:
    """One run, as one row."""
    from qtrain.train import metrics
    from qtrain.train.loop import NotFinite, fit

    raise_on_interrupt()
    try:
        try:
            result = fit(recipe, dataset, settings)
            if result.interrupted:
                raise KeyboardInterrupt
            outcome = {"accuracy": result.accuracy, "loss": result.loss, "skipped": result.skipped,
                       "step_seconds": result.step_seconds}  # fmt: skip
            if result.before is not None:
                outcome["loss_before"], outcome["accuracy_before"] = result.before
        except NotFinite as error:  # an ablation may fail: that is its result
            print(error, file=sys.stderr)
            outcome = {"accuracy": None, "loss": None, "stopped": str(error)}
        record = settings.folder / metrics.NAME  # missing where the run before it stopped
        rows = list(metrics.read(record)) if record.exists() else [metrics.provenance({})]
        about = {k: v for k, v in rows[0].items() if k not in ("kind", "step", "config")}
        return {
            "variant": name, "seed": settings.seed, **outcome,
            "curve": [[r["step"], r["accuracy"]] for r in rows if r.get("kind") == "eval"],
            "train_loss": [[r["step"], r["loss"]] for r in rows if r.get("kind") == "train"][::10],
            "recipe": to_json(recipe), **about,
        }  # fmt: skip
    finally:
        if settings.folder.exists():  # its start may have stopped
            shutil.rmtree(settings.folder)


def _percent(row: dict) -> str:
    return "stopped" if row["accuracy"] is None else f"{100 * row['accuracy']:.2f} %"


def _done(path: Path) -> Done:
    """The rows so far by what ran, the newest where it ran twice; says which are none of ours."""
    done: Done = {}
    for number, row in enumerate(_rows(path), start=1):
        try:
            done[from_json(row["recipe"]), row["seed"]] = row
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            print(f"line {number} of {path} counts as another run: {error}")
    return done


def _rows(path: Path) -> list[dict]:
    """The rows so far; what a kill left of a last one is taken off the file."""
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if whole != text:
        os.truncate(path, len(whole))  # not another file in its place: this one is locked
    rows = []
    for number, line in enumerate(whole.decode(errors="replace").splitlines(), start=1):
        try:
            rows.append(json.loads(line))
            _ = [rows[-1][name] for name in ("variant", "seed", "recipe", "accuracy")]
        except (ValueError, TypeError, KeyError):
            what = f"line {number} of {path} is no row of a sweep"
            raise ValueError(f"{what}: repair the file, or choose another --out") from None
    return rows


if __name__ == "__main__":
    try:
        main(tyro.cli(Options, description=__doc__))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print(f"\n{STOPPED}", file=sys.stderr)
        sys.exit(130)
