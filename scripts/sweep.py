"""Trains the variants of a recipe that its paper compares, with several seeds each.

    python scripts/sweep.py wang2018fp8                  # 6 variants x 3 seeds, about 15 minutes
    python scripts/sweep.py wang2018fp8 --seeds 0 --only full float32
    python scripts/sweep.py guo2018survey --out results  # all methods of the zoo, in one table
    python scripts/figures.py wang2018fp8                # draws what this wrote

Rows go to paper_figs/results/RECIPE/ablations.jsonl, one per run, as each run ends; a run that is
there already, from the same configuration, is not repeated. Float32 runs that others begin with are
trained once per seed.
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
import json  # noqa: E402
import shutil  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

import tyro  # noqa: E402

from qtrain import recipes  # noqa: E402
from qtrain.recipes.base import Recipe, baseline, changed  # noqa: E402
from qtrain.recipes.config import from_json, to_json  # noqa: E402

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


def variants(options: Options) -> dict[str, Recipe]:
    """The recipe's ablations by name, and float32; with several models, "MODEL: NAME".

    Raises:
      ValueError: the recipe has none, or `only` names one that does not exist.
    """
    module = recipes.get(options.recipe)
    if not hasattr(module, "ABLATIONS"):
        raise ValueError(f"{options.recipe} has no ablations to sweep over")
    changes = {n: v for n in ("data", "epochs") if (v := getattr(options, n)) is not None}
    found = {name: module.recipe(chosen) for name, chosen in module.ABLATIONS.items()}
    found |= _baselines(found)
    if unknown := [name for name in options.only if name not in found]:
        raise ValueError(f"no variant {', '.join(unknown)}: choose from {', '.join(found)}")
    chosen = {name: r for name, r in found.items() if not options.only or name in options.only}
    models = [{"model": m} for m in options.model] or [{}]
    several = len(models) > 1
    return {
        f"{model['model']}: {name}" if several else name: changed(recipe, **changes, **model)
        for model in models
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


def main(options: Options) -> None:
    """Trains what is missing in the result file.

    Raises:
      KeyboardInterrupt: Ctrl-C; the run that it met leaves no row.
    """
    from qtrain.train.data import load

    out, chosen = _file(options), variants(options)
    datasets = {r.data: load(r.data, options.data_dir) for r in chosen.values()}
    done = {(row["variant"], row["seed"]): row for row in _rows(out)}
    todo = []
    for seed in options.seeds:
        for name, recipe in chosen.items():
            before = done.get((name, seed))
            if before is not None and from_json(before["recipe"]) == recipe:
                print(f"{name}, seed {seed}: {_percent(before)} (already in {out.name})")
            else:
                todo.append((name, recipe, seed))
    begin = time.monotonic()
    for number, (name, recipe, seed) in enumerate(todo, start=1):
        row = _train(name, recipe, datasets[recipe.data], seed, options.starts)
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        done[name, seed] = row
        left = (time.monotonic() - begin) / number * (len(todo) - number)
        print(f"{name}, seed {seed}: {_percent(row)}  [{number} of {len(todo)}, about"
              f" {-(-left // 60):.0f} min left]", flush=True)  # fmt: skip
    _show(chosen, options.seeds, done)
    print(f"results in {out}")


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


def _show(chosen: dict[str, Recipe], seeds: tuple[int, ...], done: dict) -> None:
    """One table of all runs: mean over the seeds, and each of them."""
    width = max(map(len, chosen))
    for name in chosen:
        found = [done[name, seed]["accuracy"] for seed in seeds]
        kept = [100 * a for a in found if a is not None]
        mean = f"{sum(kept) / len(kept):6.2f} %" if kept else " stopped"
        each = "  ".join("stopped" if a is None else f"{100 * a:.2f}" for a in found)
        print(f"{name:<{width}}  {mean}  ({each})")


def _train(name: str, recipe: Recipe, dataset, seed: int, starts: Path) -> dict:
    """One run, as one row."""
    from qtrain.train import metrics
    from qtrain.train.loop import NotFinite, Settings, fit

    raise_on_interrupt()
    folder = Path(tempfile.mkdtemp(prefix="sweep-"))
    try:
        try:
            result = fit(recipe, dataset, Settings(folder=folder, seed=seed, starts=starts))
            if result.interrupted:
                raise KeyboardInterrupt
            outcome = {"accuracy": result.accuracy, "loss": result.loss, "skipped": result.skipped,
                       "step_seconds": result.step_seconds}  # fmt: skip
            if result.before is not None:
                outcome["loss_before"], outcome["accuracy_before"] = result.before
        except NotFinite as error:  # an ablation may fail: that is its result
            print(error, file=sys.stderr)
            outcome = {"accuracy": None, "loss": None, "stopped": str(error)}
        record = folder / metrics.NAME  # missing where the run before it stopped
        rows = list(metrics.read(record)) if record.exists() else [metrics.provenance({})]
        about = {k: v for k, v in rows[0].items() if k not in ("kind", "step", "config")}
        return {
            "variant": name, "seed": seed, **outcome,
            "curve": [[r["step"], r["accuracy"]] for r in rows if r.get("kind") == "eval"],
            "train_loss": [[r["step"], r["loss"]] for r in rows if r.get("kind") == "train"][::10],
            "recipe": to_json(recipe), **about,
        }  # fmt: skip
    finally:
        shutil.rmtree(folder)


def _percent(row: dict) -> str:
    return "stopped" if row["accuracy"] is None else f"{100 * row['accuracy']:.2f} %"


def _rows(path: Path) -> list[dict]:
    """The rows so far; what a kill left of a last one is taken off the file."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        fresh = path.with_suffix(".partial")
        fresh.write_text(whole, encoding="utf-8")
        fresh.replace(path)
    rows = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            rows.append(json.loads(line))
            _ = rows[-1]["variant"], rows[-1]["seed"], rows[-1]["recipe"]  # by these it is found
        except (ValueError, TypeError, KeyError):
            raise ValueError(
                f"line {number} of {path} is no row of a sweep: repair the file, or choose"
                " another --out"
            ) from None
    return rows


if __name__ == "__main__":
    try:
        main(tyro.cli(Options, description=__doc__))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print(f"\n{STOPPED}", file=sys.stderr)
        sys.exit(130)
