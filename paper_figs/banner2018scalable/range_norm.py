"""Range batch normalization against batch normalization: accuracy, loss, and what it divides by.

Left, middle: small CNN on fashion-mnist-8k in float32, 6 epochs, means over seeds; "range norm" has
the paper's C(n) and the range of the whole batch, "code" the code's C and means over 16 chunks.
Test accuracies end together, 0.3 points above batch norm's and equal to it, as the poster's curves
do (ResNet-50, ImageNet). Training loss tells the constants apart: the code's follows batch norm
within 2 %, the paper's is 20 % higher in the end. Right: C(n) E[range] / sigma of n Gaussian
values, C(n / 16) for the code's chunks [banner2018scalable, eq. of Range BN]; shaded: one standard
deviation to each side, the paper's of one range, the code's of the mean of 16. The paper's tends to
2 sigma, so slowly that it is 1.67 at 128 values, the hidden layer's, and 1.83 at 100352, the first
one's: outputs start at little more than half the size of batch norm's, for the layer's scale to
make up. Its bounds 0.325 and 2 (dashed) hold in expectation, the lower by a factor of three and
more. The code's is 25 % below sigma for the hidden layer's chunks of 8, 8 % at n = 4096, and
within 4 % only from 65536 on.
Rows: python scripts/sweep.py banner2018scalable
"""

import numpy as np

from paper_figs import style, sweeps
from paper_figs.banner2018scalable import _runs
from theory import expected_range, range_law

PAPER = "banner2018scalable"
WIDTH = "text"
PANELS = 3
TALL = 1.5
INPUTS = ("ablations",)
VARIANTS = ("float32", "range norm", "range norm, code")
LABEL = {"float32": "batch norm"}  # what float32 normalizes by
CONSTANTS = {"paper": "range norm", "code": "range norm, code"}
CHUNKS = {"paper": 1, "code": 16}  # as those runs have them


def data(quick: bool) -> dict:
    """Curves in percent and natural logarithms by variant; the calibration by constant."""
    found = sweeps.runs(PAPER, VARIANTS)
    curves = {
        name: {
            "accuracy": _mean([row["curve"] for row in by_seed.values()], 100),
            "loss": _mean([row["train_loss"] for row in by_seed.values()], 1),
            "final": sweeps.percent(by_seed),
        }
        for name, by_seed in found.items()
        if by_seed
    }
    n = 2 ** np.arange(5, 21, 4 if quick else 1)  # two values a chunk at least
    return {
        "curves": curves,
        "n": n,
        "calibration": {c: expected_range.calibration(n, c, k) for c, k in CHUNKS.items()},
        "spread": {c: [range_law.spread(int(m), c, k) for m in n] for c, k in CHUNKS.items()},
        "bounds": (range_law.LOWER, range_law.UPPER),
        "missing": sweeps.missing(found),
    }


def _mean(curves: list, unit: float) -> list:
    """Steps, and the mean over seeds of the values at each."""
    steps, values = np.array(curves).transpose(2, 0, 1)
    return [steps[0].tolist(), (unit * values.mean(0)).tolist()]


def draw(d: dict, axes) -> None:
    """Accuracy, loss, calibration."""
    accuracy, loss, calibration = axes
    for name, found in d["curves"].items():
        look = _runs.LOOK[name] | {"label": LABEL.get(name, _runs.LOOK[name]["label"])}
        accuracy.plot(*found["accuracy"], **look)
        loss.plot(*found["loss"], **look, linewidth=0.7)
    accuracy.set(xlabel="step", ylabel="test accuracy (%)")
    accuracy.legend(loc="lower right")
    loss.set(xlabel="step", ylabel="training loss of a batch", yscale="log")
    loss.set_yticks((0.2, 0.5, 1, 2), ("0.2", "0.5", "1", "2"))
    loss.tick_params(which="minor", labelleft=False)
    sweeps.note(loss, d["missing"], x=1, y=1)
    for constant, name in CONSTANTS.items():
        look, middle = _runs.LOOK[name], np.array(d["calibration"][constant])
        label = f"C of the {constant}" + (", 16 chunks" if CHUNKS[constant] > 1 else "")
        calibration.plot(d["n"], middle, **{**look, "label": label})
        off = np.array(d["spread"][constant])
        calibration.fill_between(d["n"], middle - off, middle + off, color=look["color"],
                                 alpha=0.15, linewidth=0)  # fmt: skip
    for bound in d["bounds"]:
        calibration.axhline(bound, **{**style.LINE["published"], "label": None}, linewidth=0.7)
    calibration.set_xscale("log", base=2)
    calibration.set(xlabel="values per channel, n", ylim=(0, 2.6))
    calibration.set_ylabel("C(n) E[range] / σ")
    calibration.legend(loc="center right")


if __name__ == "__main__":
    style.main(__name__)
