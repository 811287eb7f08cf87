"""What FP8 training costs: the gap in test error to float32, ours beside the paper's.

Ours: small CNN on fashion-mnist-8k, whole recipe and ablations, paired by seed (points) and their
mean (bar). The paper's cells [wang2018fp8, Table 1] are recalled from memory, not read, and of
other networks and data: they show the order of size, no more.
Rows: python scripts/sweep.py wang2018fp8
"""

import numpy as np

from paper_figs import style

PAPER = "wang2018fp8"
WIDTH = "text"
INPUTS = ("ablations",)
RECALLED = {  # test error in percent, (float32, FP8)
    "CIFAR10-CNN": (17.80, 18.18),
    "CIFAR10-ResNet": (7.23, 7.79),
    "BN50-DNN": (59.33, 59.44),
    "AlexNet": (41.96, 42.45),
    "ResNet18": (32.57, 33.05),
    "ResNet50": (27.86, 28.28),
}


def data(quick: bool) -> dict:
    """Gaps in points of test error, positive where float32 is better."""
    accuracy: dict[str, dict[int, float]] = {}
    for row in style.rows(PAPER, "ablations"):
        accuracy.setdefault(row["variant"], {})[row["seed"]] = row["accuracy"]
    reference = accuracy.pop("float32")
    return {
        "ours": {
            name: [100 * (reference[seed] - value) for seed, value in runs.items()]
            for name, runs in accuracy.items()
        },
        "recalled": {name: fp8 - float32 for name, (float32, fp8) in RECALLED.items()},
    }


def draw(d: dict, ax) -> None:
    """One row per network or variant."""
    names = [f"ours: {style.LINE[name]['label']}" for name in d["ours"]]
    for row, (name, gaps) in enumerate(d["ours"].items()):
        color = style.LINE[name]["color"]
        ax.plot(gaps, [row] * len(gaps), "o", color=color, alpha=0.7)
        ax.barh(row, np.mean(gaps), height=0.6, color=color, alpha=0.25)
        ax.annotate(f"{np.mean(gaps):+.2f}", (1.0, row), xycoords=("axes fraction", "data"))
    for row, (name, gap) in enumerate(d["recalled"].items(), start=len(names)):
        ax.plot([gap], [row], **{**style.LINE["paper"], "label": None})
        ax.annotate(f"{gap:+.2f}", (1.0, row), xycoords=("axes fraction", "data"), color="#888888")
        names.append(f"paper (recalled): {name}")
    ax.axvline(0, **{**style.LINE["theory"], "label": None}, zorder=0)
    ax.set(xlabel="gap to float32 (points of test error)", ylim=(len(names) - 0.5, -0.5))
    ax.set_yticks(range(len(names)), names)


if __name__ == "__main__":
    style.main(__name__)
