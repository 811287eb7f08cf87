"""Gradients of a real training run, and what quantizing and clipping makes of their norm.

    python -m paper_figs.hou2019analysis._gradients      # half a minute on one core

The small CNN on fashion-mnist-8k in float32, seed 0: eight batches of 128 images at the start of
training, after one epoch and after two. Rows go to results/hou2019analysis/gradients.jsonl, one for
each tensor of weights, step and batch.
"""

from __future__ import annotations

import functools

import jax
import numpy as np
import optax
from flax import nnx

from paper_figs import short_run
from qtrain.recipes import hou2019analysis
from qtrain.recipes.base import baseline
from qtrain.train.data import load, normalize
from qtrain.train.state import Program, State
from theory import gradient_quantization as gq

PAPER = "hou2019analysis"
SEED, EPOCHS, BATCHES = 0, 2, 8
BITS, CLIPS = (2, 3, 4), (None, 1.0, 2.0, 3.0)


def main() -> None:
    """Trains, measures and writes the rows."""
    recipe = baseline(hou2019analysis.recipe())
    dataset = load(recipe.data)
    epoch = len(dataset.train_x) // recipe.batch_size
    program, state, step = short_run.begin(recipe, dataset, SEED)
    batch = functools.partial(short_run.batch, recipe, dataset, SEED)
    rows = []
    for i in range(EPOCHS * epoch + 1):
        if i % epoch == 0:
            for ahead in range(BATCHES):
                found = gradients(program, state, *batch(i + ahead))
                rows += [{"layer": k, "step": i, **measured(g)} for k, g in found.items()]
        state, _ = step(state, *batch(i))
    short_run.write(PAPER, "gradients", rows)


def gradients(program: Program, state: State, images, labels) -> dict[str, np.ndarray]:
    """The gradient of each tensor of weights, by the layer's name."""

    def loss(params):
        model = nnx.merge(program.train_graph, params, program.hooks, state.stats, copy=True)
        logits = model(normalize(images, program.mean, program.std))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    found = short_run.kernels(jax.grad(loss)(state.params))
    return {layer: np.asarray(g) for layer, g in found.items()}


def measured(g: np.ndarray) -> dict:
    """d, kurtosis about the mean, and by clip, "None" for none:

    enlargement  by bits: E||Q(Clip(g))||^2 / ||g||^2, the mean over the random bits
    bias         ||Clip(g) - g||^2 / ||g||^2
    """
    flat = np.float64(g).ravel()
    norm = flat @ flat
    found = {
        str(c): {
            "enlargement": {
                m: float(f"{gq.second_moment(clipped, m) / norm:.5g}") for m in BITS
            },
            "bias": float(f"{((clipped - flat) ** 2).sum() / norm:.5g}"),
        }
        for c in CLIPS
        for clipped in [flat if c is None else gq.clip(flat, c)]
    }  # fmt: skip
    away = flat - flat.mean()
    kurtosis = float(f"{np.mean(away**4) / np.mean(away**2) ** 2:.5g}")
    return {"d": flat.size, "kurtosis": kurtosis, "clip": found}


if __name__ == "__main__":
    main()
