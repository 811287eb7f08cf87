"""Gradients of a real training run, and what quantizing and clipping makes of their norm.

    python -m paper_figs.hou2019analysis._gradients      # half a minute on one core

The small CNN on fashion-mnist-8k in float32, seed 0: eight batches of 128 images at the start of
training, after one epoch and after two. Rows go to results/hou2019analysis/gradients.jsonl, one for
each tensor of weights, step and batch.
"""

from __future__ import annotations

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from paper_figs import style
from qtrain.recipes import hou2019analysis
from qtrain.recipes.base import Recipe, baseline
from qtrain.train import metrics
from qtrain.train.data import Dataset, load, normalize, order
from qtrain.train.state import Program, State, create
from qtrain.train.step import train_step
from theory import gradient_quantization as gq

PAPER = "hou2019analysis"
SEED, EPOCHS, BATCHES = 0, 2, 8
BITS, CLIPS = (2, 3, 4), (None, 1.0, 2.0, 3.0)


def main() -> None:
    """Trains, measures and writes the rows."""
    recipe = baseline(hou2019analysis.recipe())
    dataset = load(recipe.data)
    epoch = len(dataset.train_x) // recipe.batch_size
    program, state = create(recipe, dataset, seed=SEED, steps=recipe.epochs * epoch)
    step = jax.jit(functools.partial(train_step, program), donate_argnums=0)
    rows = []
    for i in range(EPOCHS * epoch + 1):
        if i % epoch == 0:
            for ahead in range(BATCHES):
                found = gradients(program, state, *_batch(recipe, dataset, i + ahead))
                rows += [{"layer": k, "step": i, **measured(g)} for k, g in found.items()]
        state, _ = step(state, *_batch(recipe, dataset, i))
    about = metrics.provenance({})
    rows[0] |= {k: about[k] for k in ("commit", "versions")}  # of all rows: they are of one run
    path = style.RESULTS / PAPER / "gradients.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print(f"{len(rows)} rows in {path}")


def _batch(recipe: Recipe, dataset: Dataset, step: int) -> tuple[jax.Array, jax.Array]:
    """Images, uint8 (N, H, W, C), and labels of the run's step."""
    epoch, place = divmod(step, len(dataset.train_x) // recipe.batch_size)
    shuffled = order(len(dataset.train_x), SEED, epoch)
    index = shuffled[place * recipe.batch_size : (place + 1) * recipe.batch_size]
    return jnp.asarray(dataset.train_x[index]), jnp.asarray(dataset.train_y[index])


def gradients(program: Program, state: State, images, labels) -> dict[str, np.ndarray]:
    """The gradient of each tensor of weights, by the layer's name."""

    def loss(params):
        model = nnx.merge(program.train_graph, params, program.hooks, state.stats, copy=True)
        logits = model(normalize(images, program.mean, program.std))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    flat = nnx.to_flat_state(jax.grad(loss)(state.params))
    return {"/".join(map(str, p[:-1])): np.asarray(v[...]) for p, v in flat if p[-1] == "kernel"}


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
