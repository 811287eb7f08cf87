"""Tensors of a real training run and their quantized forms, for `cosine.py` and `histograms.py`.

    python -m paper_figs.banner2018scalable._tensors      # under half a minute on one core

The small CNN with batch normalization on fashion-mnist-8k in float32, seed 0, after 2 of 6 epochs;
one batch of 128 images of the third. Rows go to results/banner2018scalable/tensors.jsonl, one for
each layer and role: weight and activation, as its GEMM takes them; output, which a normalization
takes; error, the gradient of the output; gradient, of the weight.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from paper_figs import short_run
from qtrain.nn.hooks import HOOKS
from qtrain.quantize import Affine
from qtrain.recipes import banner2018scalable
from qtrain.recipes.base import baseline
from qtrain.train.data import load, normalize
from qtrain.train.state import Program, State

PAPER = "banner2018scalable"
SEED, EPOCHS = 0, 2
LAYERS = ("conv1", "conv2", "hidden", "head")  # in order
BITS = tuple(range(2, 11))
WIDTH, REACH = 0.25, 16.125  # of the histograms' bins, in root mean squares: one is around 0


def main() -> None:
    """Trains, measures one batch and writes the rows."""
    recipe = baseline(banner2018scalable.recipe())
    dataset = load(recipe.data)
    program, state, step = short_run.begin(recipe, dataset, SEED)
    for i in range(EPOCHS * (len(dataset.train_x) // recipe.batch_size)):
        state, _ = step(state, *short_run.batch(recipe, dataset, SEED, i))
    images, labels = short_run.batch(recipe, dataset, SEED, int(state.step))
    rows = [
        {"layer": layer, "role": role, "step": int(state.step), **measured(np.asarray(x), role)}
        for layer, found in tensors(program, state, images, labels).items()
        for role, x in found.items()
        if (layer, role) != ("head", "output")  # no normalization takes these
    ]
    short_run.write(PAPER, "tensors", rows)


def tensors(program: Program, state: State, images, labels) -> dict[str, dict[str, jax.Array]]:
    """By layer and role. The error is the gradient of a zero that is added to the output."""

    @jax.jit
    def forward(params, added):
        model = nnx.merge(program.train_graph, params, program.hooks, state.stats, copy=True)
        seen: dict[str, dict[str, jax.Array]] = {}
        for path in LAYERS:
            _watch(getattr(model, path), path, seen, added)
        logits = model(normalize(images, program.mean, program.std))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), seen

    _, seen = forward(state.params, {})
    zeros = {path: jnp.zeros_like(found["output"]) for path, found in seen.items()}
    params, errors = jax.grad(lambda p, a: forward(p, a)[0], argnums=(0, 1))(state.params, zeros)
    gradients = short_run.kernels(params)
    return {
        path: {**seen[path], "error": errors[path], "gradient": gradients[path]} for path in LAYERS
    }


def _watch(layer: nnx.Module, path: str, seen: dict, added: dict) -> None:
    """Makes the layer's GEMM note its operands and its output, and adds `added` to the latter."""
    name = next(n for n in HOOKS if hasattr(layer, n))
    gemm = getattr(layer, name)

    def watched(lhs, rhs, *args, **kwargs):
        out = gemm(lhs, rhs, *args, **kwargs)
        seen[path] = {"weight": rhs, "activation": lhs, "output": out}
        return out + added[path] if added else out

    setattr(layer, name, watched)


def measured(x: np.ndarray, role: str) -> dict:
    """What a row says of a tensor; all but n and the shares of zeros in root mean squares of it.

    cosine    with the nearest of 2^bits values from min to max, by bits
    recipe    with what the recipe makes of it (None: it is not rounded), by bits
    counts    of a histogram from -REACH to REACH in bins of WIDTH; beyond: how many are outside
    """
    flat = x.astype(np.float64).ravel()
    unit = flat / np.sqrt(np.mean(flat**2))
    counts, _ = np.histogram(unit, np.arange(-REACH, REACH + WIDTH, WIDTH))
    own = [_rounded_by(role, bits) for bits in BITS]
    return {
        "n": x.size, "zeros": float(np.mean(flat == 0)),
        "near_zero": float(np.mean(abs(unit) < 0.01)),
        "mean": float(unit.mean()), "mean_magnitude": float(abs(unit).mean()),
        "kurtosis": float(np.mean(unit**4)), "low": float(unit.min()), "high": float(unit.max()),
        "bits": BITS, "cosine": [_cosine(x, Affine(bits=bits)) for bits in BITS],
        "recipe": None if own[0] is None else [_cosine(x, quantizer) for quantizer in own],
        "counts": counts.tolist(), "beyond": int(x.size - counts.sum()),
    }  # fmt: skip


def _rounded_by(role: str, bits: int) -> Affine | None:
    recipe = banner2018scalable.recipe(banner2018scalable.Options(bits=bits))
    return {
        "weight": recipe.weight[0].setting,
        "activation": recipe.activation[0].setting.quantizer,
        "output": recipe.norm.input.quantizer,
        "error": recipe.error[0].setting.dgrad,
    }.get(role)


def _cosine(x: np.ndarray, quantizer: Affine) -> float:
    q = np.asarray(quantizer(jnp.asarray(x), jax.random.key(SEED)), np.float64).ravel()
    w = x.astype(np.float64).ravel()
    return float(w @ q / np.sqrt((w @ w) * (q @ q)))


if __name__ == "__main__":
    main()
