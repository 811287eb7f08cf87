"""Curves of a run, drawn at its end: curves.png and curves.pdf in the folder of the run."""

from __future__ import annotations

import pathlib

import matplotlib.pyplot as plt
import numpy as np

from paper_figs import style
from qtrain.train import metrics


def draw(folders: list[pathlib.Path], out: pathlib.Path) -> list[pathlib.Path]:
    """Loss and accuracy over the steps of each folder's metrics; returns the files written."""
    with plt.rc_context(style.SETTINGS):
        figure, (loss, accuracy) = plt.subplots(1, 2, figsize=(6.75, 2.4))
        for folder, color in zip(folders, ("#0072B2", "#000000"), strict=False):
            rows = list(metrics.read(folder / metrics.NAME))
            train = [(r["step"], r["loss"]) for r in rows if r["kind"] == "train"]
            test = [
                (r["step"], r["loss"], 100 * r["accuracy"]) for r in rows if r["kind"] == "eval"
            ]
            step, value = np.array(train).T
            loss.plot(step, value, color=color, linewidth=0.4, alpha=0.4)
            step, value, right = np.array(test).T
            loss.plot(step, value, color=color, marker="o", label=f"{folder.name}, test")
            accuracy.plot(step, right, color=color, marker="o", label=folder.name)
        loss.set(xlabel="step", ylabel="loss (thin: training batches)", yscale="log")
        accuracy.set(xlabel="step", ylabel="test accuracy (%)")
        loss.legend()
        files = [out / "curves.png", out / "curves.pdf"]
        figure.savefig(files[0], metadata={"Software": None})
        figure.savefig(files[1], metadata={"CreationDate": None})
        plt.close(figure)
    return files
