"""Trained weights quantized by k-means, in products and by residuals, for `compression.py`.

    python -m paper_figs.guo2018survey._compress      # a minute on one core

The small CNN with batch normalization on fashion-mnist-8k, seed 0, three epochs in float32: what
the methods that begin with trained weights begin with in `guo2018survey`. Then its inner layers are
quantized and nothing is trained any more. Rows go to results/guo2018survey/compression.jsonl, one
a setting: how many times smaller the kernels of these layers are, codebooks included and without
them, the squared error over the sum of squares, test loss and accuracy.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from paper_figs import short_run
from qtrain.recipes import guo2018survey
from qtrain.train import mesh as meshes
from qtrain.train.data import Dataset, load
from qtrain.train.evaluate import evaluate
from qtrain.train.state import Program, State
from qtrain.train.step import eval_step
from qtrain.zoo import clusters

PAPER = "guo2018survey"
SEED = 0
LAYERS = ("conv2", "hidden")  # the first and the last one stay in float32
KMEANS = (1, 2, 3, 4, 5, 6, 8)  # bits
PRODUCT = tuple((bits, length) for bits in (1, 2, 4) for length in (1, 2, 4, 8))
RESIDUAL = tuple((4, 4, stages) for stages in (1, 2, 3, 4, 6))
WIDE = 32

Quantize = Callable[[jax.Array], jax.Array]


def main() -> None:
    """Trains, quantizes and writes the rows."""
    recipe = guo2018survey.recipe(guo2018survey.Options(method="kmeans")).start
    dataset = load(recipe.data)
    program, state, step = short_run.begin(recipe, dataset, SEED)
    for i in range(recipe.epochs * (len(dataset.train_x) // recipe.batch_size)):
        state, _ = step(state, *short_run.batch(recipe, dataset, SEED, i))
    found = []
    for row in rows(program, state, dataset):
        found.append(row)
        short_run.write(PAPER, "compression", found)


def rows(program: Program, state: State, dataset: Dataset) -> Iterator[dict]:
    """One a setting; the first is of the weights as they were trained."""
    test = jax.jit(functools.partial(eval_step, program))
    mesh = meshes.create(1, 1)
    for about, quantize in settings():
        now = state._replace(params=replaced(state.params, quantize))
        loss, accuracy = evaluate(test, mesh, dataset, now)
        before, after = short_run.kernels(state.params), short_run.kernels(now.params)
        pairs = [(np.asarray(before[k]), np.asarray(after[k])) for k in LAYERS]
        shapes = [w.shape for w, _ in pairs]
        left = sum(float(((np.float64(w) - q) ** 2).sum()) for w, q in pairs)
        total = sum(float((np.float64(w) ** 2).sum()) for w, _ in pairs)
        yield {
            **about, "rate": _digits(rate(shapes, about)),
            "code_bits": _digits(code_bits(about)), "error": _digits(left / total),
            "loss": _digits(loss), "accuracy": accuracy,
        }  # fmt: skip


def settings() -> Iterator[tuple[dict, Quantize]]:
    """What a row says of itself, and the function of a kernel."""
    yield {"kind": "float32"}, lambda w: w
    for bits in KMEANS:
        yield (
            {"kind": "kmeans", "bits": bits},
            lambda w, k=2**bits: clusters.kmeans(w, k).weights,
        )
    for bits, length in PRODUCT:
        yield (
            {"kind": "product", "bits": bits, "length": length},
            lambda w, b=bits, n=length: clusters.product_kmeans(w, b, n).weights,
        )
    for bits, length, stages in RESIDUAL:
        yield (
            {"kind": "residual", "bits": bits, "length": length, "stages": stages},
            lambda w, b=bits, n=length, s=stages: clusters.residual_kmeans(w, b, n, s),
        )


def replaced(params: nnx.State, quantize: Quantize) -> nnx.State:
    """The parameters with the kernels of LAYERS quantized."""
    flat = dict(nnx.to_flat_state(params))
    for path, value in flat.items():
        if path[-1] == "kernel" and "/".join(map(str, path[:-1])) in LAYERS:
            flat[path] = value.replace(jax.jit(quantize)(value[...]).astype(jnp.float32))
    return nnx.from_flat_state(flat)


def rate(shapes: list[tuple[int, ...]], about: dict) -> float:
    """How many times smaller kernels of these shapes are together."""
    sizes = [math.prod(shape) for shape in shapes]
    small = [n * WIDE / one_rate(s, about) for n, s in zip(sizes, shapes, strict=True)]
    return sum(sizes) * WIDE / sum(small)


def one_rate(shape: tuple[int, ...], about: dict) -> float:
    """Of one kernel, with its codebooks, by the formulas of `clusters`."""
    n, outputs = math.prod(shape), shape[-1]
    inputs = n // outputs
    if about["kind"] == "float32":
        return 1.0
    k = 2 ** about["bits"]
    if about["kind"] == "kmeans":
        return clusters.shared_rate(n, k)
    if about["kind"] == "product":
        return clusters.product_rate(inputs, outputs, k, inputs // about["length"])
    return clusters.residual_rate(inputs, outputs, k, about["length"], about["stages"])


def code_bits(about: dict) -> float:
    """Bits of the codes for each weight, without the codebooks."""
    bits = about.get("bits", WIDE)
    return bits * about.get("stages", 1) / about.get("length", 1)


def _digits(value: float) -> float:
    return float(f"{value:.6g}")


if __name__ == "__main__":
    main()
