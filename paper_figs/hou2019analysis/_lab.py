"""Runs of the convex laboratory for the figures of this paper, one row a run.

    python -m paper_figs.hou2019analysis._lab             # about 4 minutes on one core
    python -m paper_figs.hou2019analysis._lab floors      # one of the experiments

Rows go to results/hou2019analysis/EXPERIMENT.jsonl: what of `theory.convex_lab.Lab` is not its
default, and what was measured. `Lab(**row["lab"])` is the run again.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterator

import numpy as np

from paper_figs import style
from qtrain.train import metrics
from theory import convex_problem
from theory.convex_lab import Lab, Run, run
from theory.gradient_slowdown import steps_until, tuned
from theory.loss_aware import binary, optimum

PAPER = "hou2019analysis"
SEEDS = (0, 1, 2)
PUBLISHED_STEP = 0.03  # / sqrt t [hou2019analysis, Sec. 4.1]
SGD_ETAS = tuple(10.0 ** (i / 4) for i in range(-3, 4))  # 0.18 to 5.6
RMSPROP_ETAS = tuple(10.0 ** (i / 4) for i in range(-10, -4))  # 0.0032 to 0.056
LATE = 3  # the last third of a run is its end
DIGITS = 5


def dimension() -> Iterator[dict]:
    """Gradients in full precision and SQ2, with LAB and unquantized weights, over d.

    The tuned steps are those of least average regret in full precision, of seed 0.
    """
    for d in (16, 64, 256):
        for weights in (None, 1):
            task = Lab(d=d, weights=weights, batch=16, replicas=4, radius=10.0)
            sgd = dataclasses.replace(task, optimizer="sgd")
            settings = {
                "rmsprop": dataclasses.replace(task, eta=PUBLISHED_STEP),
                "rmsprop tuned": tuned(task, RMSPROP_ETAS),
                "sgd tuned": tuned(sgd, SGD_ETAS),
            }
            for setting, lab in settings.items():
                for gradients in (None, 2):
                    for seed in SEEDS:
                        got = run(dataclasses.replace(lab, gradients=gradients, seed=seed))
                        shown = weights == 1 and seed == 0
                        yield {"setting": setting, **_row(got, curve=shown)}


def floors() -> Iterator[dict]:
    """Weights of 1 to 8 bits and unquantized, gradients in full precision, 3000 steps.

    RMSProp at the step that is best without quantized weights, of seed 0.
    """
    for d in (16, 64, 256):
        task = Lab(d=d, steps=3000, beta=1 - 1 / 3000, radius=1.0)
        eta = tuned(task, RMSPROP_ETAS).eta
        for weights in (None, 1, 2, 3, 4, 5, 6, 8):
            for seed in SEEDS:
                lab = dataclasses.replace(task, eta=eta, weights=weights, seed=seed)
                yield _row(got := run(lab)) | _bounds(got) | _quantized(got)


def workers() -> Iterator[dict]:
    """1 to 8 workers of 4 samples each; the step is the best for each number of workers.

    `until` is the number of steps after which the average regret stays below that of one worker
    at its end, with the same seed.
    """
    for optimizer, etas in (("sgd", SGD_ETAS), ("rmsprop", RMSPROP_ETAS)):
        for weights, gradients in ((None, None), (None, 2), (3, 2)):
            levels = {}
            for number in (1, 2, 4, 8):
                task = Lab(d=64, batch=4, workers=number, optimizer=optimizer, radius=10.0,
                           weights=weights, gradients=gradients, replicas=4)  # fmt: skip
                eta = tuned(task, etas).eta
                for seed in SEEDS:
                    got = run(dataclasses.replace(task, eta=eta, seed=seed))
                    level = levels.setdefault(seed, got.curve[-1])
                    yield _row(got, curve=seed == 0) | {"until": steps_until(got.curve, level)}


def bound() -> Iterator[dict]:
    """Inputs so large that G_inf >= 1 and T = 1 / (1 - beta): what the printed proofs need.

    Each sweep changes one number of d = 64, LAQ3 weights, SQ2 gradients, or both or no clip.
    """
    task = Lab(d=64, scale=6.0, weights=3, gradients=2)
    changes = [("d", "d", d, None) for d in (4, 16, 64, 256)]
    changes += [("gradients", "gradients", m, None) for m in (2, 3, 4, 6, 8, None)]
    changes += [("weights", "weights", m, None) for m in (1, 2, 3, 4, 6, 8, None)]
    changes += [("clip", "clip", c, c) for c in (0.5, 1.0, 2.0, 3.0, 4.0, 6.0, None)]
    for optimizer, eta in (("rmsprop", 0.03), ("sgd", 0.03)):
        for sweep, field, value, clip in changes:
            lab = dataclasses.replace(task, optimizer=optimizer, eta=eta, clip=clip)
            got = run(dataclasses.replace(lab, **{field: value}))
            yield {"sweep": sweep, **_row(got), **_bounds(got)}


def _quantized(got: Run) -> dict:
    """Losses of quantized weights, less those of w* on the same samples.

    late_quantized  f_t(Q_w(w_t)), mean of the last third of the steps
    rounded         mean of all f_t at Q_w(w*): rounded after training, every c_i equal
    """
    lab = got.lab
    problem = convex_problem.draw(
        lab.loss, d=lab.d, steps=lab.steps, workers=lab.workers, batch=lab.batch, scale=lab.scale,
        noise=lab.noise, seed=lab.seed,
    )  # fmt: skip
    w, even = got.best.w, np.ones(lab.d)
    if lab.weights is not None:
        w = (binary(w, even) if lab.weights == 1 else optimum(w, even, lab.weights)).weights
    at = np.stack([got.best.w, w])
    best, rounded = np.array([convex_problem.losses(problem, t, at) for t in range(lab.steps)]).T
    start = lab.steps - lab.steps // LATE
    return {
        "late_quantized": _short((got.loss - best)[start:].mean()),
        "rounded": _short((rounded - best).mean()),
    }


def _row(got: Run, curve: bool = False) -> dict:
    """What a figure may want of a run: averages, `late` of the last third, curves."""
    lab, steps = got.lab, got.lab.steps
    start = steps - steps // LATE
    late = (steps * got.curve[-1] - start * got.curve[start - 1]) / (steps - start)
    row = {
        "lab": {f.name: v for f in dataclasses.fields(Lab)
                if (v := getattr(lab, f.name)) != f.default},
        "regret": got.mean_regret, "se": got.standard_error, "best": got.best.value,
        "loss": got.loss.mean(), "late": late,
        "enlargement": got.enlargement, "hold": got.assumptions.hold,
        "monotone": got.assumptions.monotone,
    }  # fmt: skip
    if curve:
        t = np.unique(np.geomspace(1, steps, 24).round().astype(int))
        average = np.cumsum(got.loss) / np.arange(1, steps + 1)
        row["curve"] = [t.tolist(), *(list(map(_short, c[t - 1])) for c in (average, got.curve))]
    return {k: _short(v) if isinstance(v, float) else v for k, v in row.items()}


def _bounds(got: Run) -> dict:
    """Speed, floor and clip terms of each bound."""
    return {"bounds": {name: list(map(_short, b)) for name, b in got.bounds.items()}}


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


EXPERIMENTS = {f.__name__: f for f in (dimension, floors, workers, bound)}


def main(names: list[str]) -> None:
    """Runs the named experiments, or all, and writes their rows."""
    if unknown := sorted(set(names) - set(EXPERIMENTS)):
        sys.exit(f"no experiment {', '.join(unknown)}: choose from {', '.join(EXPERIMENTS)}")
    for name in names or EXPERIMENTS:
        start, path = time.perf_counter(), style.RESULTS / PAPER / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = list(EXPERIMENTS[name]())
        rows[0]["commit"] = metrics.commit()  # of all rows
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        print(f"{path}: {len(rows)} rows ({time.perf_counter() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
