"""One look for all figures, and the frame every figure script runs in.

A figure is a module with PAPER, WIDTH, `data(quick) -> dict` and `draw(d, axes)`. `main` draws
it into a byte-reproducible PDF and PNG, with a JSON sidecar that says what it was made from.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import pathlib
import sys
import time

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from qtrain.train import metrics

FOLDER = pathlib.Path(__file__).parent
RESULTS = FOLDER / "results"
OUT = FOLDER / "out"
WIDTHS = {"column": 3.25, "text": 6.75}  # inches
GOLDEN = 0.618

SETTINGS = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,
    "savefig.dpi": 200,
    "svg.hashsalt": "qtrain",
}

# One colour and dash per method across all papers (Okabe and Ito's colour-blind-safe set).
LINE = {
    "float32": {"color": "#000000", "linestyle": "-", "label": "float32"},
    "recipe": {"color": "#0072B2", "linestyle": "-", "label": "recipe"},
    "nearest": {"color": "#D55E00", "linestyle": "-", "label": "nearest"},
    "stochastic": {"color": "#009E73", "linestyle": "--", "label": "stochastic"},
    "align": {"color": "#0072B2", "linestyle": "-.", "label": "align"},
    "toward_zero": {"color": "#CC79A7", "linestyle": ":", "label": "toward zero"},
    "published": {"color": "#888888", "linestyle": "--", "label": "published formula"},
    "chunked": {"color": "#0072B2", "linestyle": "-", "label": "nearest, chunk 64"},
    "full": {"color": "#0072B2", "linestyle": "-", "label": "whole recipe"},
    "no chunks": {"color": "#D55E00", "linestyle": "-.", "label": "no chunks"},
    "nearest update": {"color": "#CC79A7", "linestyle": "--", "label": "nearest update"},
    "FP8 last layer": {"color": "#E69F00", "linestyle": ":", "label": "FP8 last layer"},
    "no loss scale": {"color": "#56B4E9", "linestyle": "--", "label": "no loss scale"},
    "theory": {"color": "#000000", "linestyle": "-", "linewidth": 0.7, "label": "theory"},
    "paper": {"color": "#888888", "linestyle": "none", "marker": "x", "label": "paper (recalled)"},
}


def shades(values) -> dict:
    """A colour for each of the sorted `values`, dark to light: for curves ordered by a number."""
    values = list(values)
    return {v: plt.cm.viridis(0.9 * i / max(len(values) - 1, 1)) for i, v in enumerate(values)}


def rows(paper: str, name: str) -> list[dict]:
    """The rows of results/<paper>/<name>.jsonl.

    Raises:
      FileNotFoundError: with the name of the file that a run must write first.
    """
    path = RESULTS / paper / f"{name}.jsonl"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: see the figure's docstring for its command")
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def make(module, quick: bool, out: pathlib.Path = OUT) -> pathlib.Path:
    """Draws one figure module into out/<paper>/; returns the path of the PNG."""
    name = module.__name__.rsplit(".", 1)[-1]
    folder = out / module.PAPER
    folder.mkdir(parents=True, exist_ok=True)
    width = WIDTHS[module.WIDTH]
    with mpl.rc_context({**mpl.rcParamsDefault, **SETTINGS, "backend": "agg"}):
        figure, axes = plt.subplots(
            1, getattr(module, "PANELS", 1), figsize=(width, _height(module))
        )
        found = module.data(quick)
        module.draw(found, axes)
        figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})
        figure.savefig(folder / f"{name}.png", metadata={"Software": None})
        plt.close(figure)
    (folder / f"{name}.json").write_text(
        json.dumps(_sidecar(module, quick, found), indent=1) + "\n"
    )
    return folder / f"{name}.png"


def _height(module) -> float:
    return (
        WIDTHS[module.WIDTH] / getattr(module, "PANELS", 1) * GOLDEN * getattr(module, "TALL", 1.0)
    )


def _sidecar(module, quick: bool, found: dict) -> dict:
    """What a figure was made from; no date, so that it is reproducible too."""
    inputs = [RESULTS / module.PAPER / f"{name}.jsonl" for name in getattr(module, "INPUTS", ())]
    inputs = [path for path in inputs if path.exists()]  # a figure can do without some
    return {
        "figure": module.__name__,
        "caption": module.__doc__,
        "quick": quick,
        "commit": metrics.commit(),
        "inputs": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in inputs},
        "configs": {path.name: configs(path) for path in inputs},
        "data_sha256": _digest(found),
        "versions": {n: importlib.metadata.version(n) for n in ("matplotlib", "numpy", "jax")},
    }


def configs(path: pathlib.Path) -> str | None:
    """SHA-256 of the distinct configurations of a result file's rows, whatever their order.

    The same after a repetition of the same runs. None where the rows are of no recipe.
    """
    found = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    recipes = {json.dumps(row["recipe"], sort_keys=True) for row in found if "recipe" in row}
    return _digest(sorted(recipes)) if recipes else None


def _digest(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=_plain).encode()).hexdigest()


def _plain(value):
    return value.tolist() if hasattr(value, "tolist") else str(value)


def main(module_name: str) -> None:
    """Command line of a figure script: `python paper_figs/<paper>/<figure>.py [--quick]`."""
    module = sys.modules[module_name]
    parser = argparse.ArgumentParser(description=module.__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="fewer points, seconds instead of minutes"
    )
    parser.add_argument("--out", type=pathlib.Path, default=OUT, help="folder for the figures")
    options = parser.parse_args()
    start = time.perf_counter()
    module.__name__ = pathlib.Path(module.__file__).stem
    print(f"{make(module, options.quick, options.out)}  ({time.perf_counter() - start:.1f} s)")
