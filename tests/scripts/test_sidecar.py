"""What the JSON beside a figure says of its sources, and that its curves can be told apart."""

import json

import matplotlib.pyplot as plt
import numpy as np

from paper_figs import style
from paper_figs.wang2018fp8 import fig3b, gap
from qtrain.train import metrics


def _write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return style.configs(path)


def test_the_hash_is_of_the_configurations_alone(tmp_path):
    """Other seeds, results and order leave it; another configuration does not.

    Kills: style.py: `row["recipe"]` -> `row`; `sorted(recipes)` -> the rows in their order.
    """
    a, b = {"epochs": 6, "lr": 0.1}, {"lr": 0.1, "epochs": 7}
    path = tmp_path / "rows.jsonl"
    first = _write(path, {"recipe": a, "accuracy": 0.5}, {"recipe": b})
    again = _write(path, {"recipe": b}, {"recipe": a}, {"recipe": dict(reversed(a.items()))})
    assert first == again
    assert _write(path, {"recipe": a}) != first
    assert _write(path, {"seed": 0}) is None


def test_the_sidecar_names_commit_and_configurations(monkeypatch, tmp_path):
    """Kills: style.py: a commit that leaves out that files were changed."""
    monkeypatch.setattr(metrics, "commit", lambda: "0123+")
    sidecar = json.loads(style.make(gap, True, tmp_path).with_suffix(".json").read_text())
    assert sidecar["commit"] == "0123+"
    rows = style.RESULTS / gap.PAPER / "ablations.jsonl"
    assert sidecar["configs"] == {"ablations.jsonl": style.configs(rows)}


def test_equal_sums_are_all_seen():
    """Fig. 3(b) with four equal curves: no two have marker, width and dash in common.

    Kills: fig3b.py: `**look` left out with one marker for all.
    """
    sums = {n: [1.0, 2.0] for n in ("float32", "nearest", "stochastic", "chunked")}
    figure, ax = plt.subplots()
    fig3b.draw({"length": [1, 2], **sums}, ax)
    curves = [line for line in ax.lines if len(np.unique(line.get_ydata())) == 2]
    looks = [(c.get_marker(), c.get_linewidth(), c.get_linestyle()) for c in curves]
    plt.close(figure)
    assert len(set(looks)) == 4
