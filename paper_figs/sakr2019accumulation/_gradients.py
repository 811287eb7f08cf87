"""Weight gradients of ResNet-20 with narrow sums in the weight-gradient GEMMs, layer by layer.

    python -m paper_figs.sakr2019accumulation._gradients      # a few minutes on two cores

Writes results/sakr2019accumulation/gradients.jsonl, one row per setting and layer. Everything
else is float32, so that the operands of each sum are the same in all settings: one batch of 128
images of fashion-mnist-8k, weights at initialization (seed 0), loss scale 1000.
"""

from __future__ import annotations

import functools
import json
import re
import time

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax

from paper_figs import style
from qtrain import models, workload
from qtrain.nn import Rule, quantize_model, with_scopes
from qtrain.ops import Accumulator, DotConfig
from qtrain.recipes.layers import Layer, layers
from qtrain.train import metrics
from qtrain.train.data import Dataset, load, normalize
from theory.requirement import mantissa_bits

PAPER = "sakr2019accumulation"
MODEL, BATCH, SEED = "resnet20", 128, 0
LOSS_SCALE = 1000.0  # as in the recipe: keeps errors off the bottom of (1,6,m)
PERTURB = (0, -2, -4, -6)
UNIFORM = (7, 5, 3)


def main() -> None:
    """Measures all settings and writes their rows."""
    dataset = load("fashion-mnist-8k")
    shape = (BATCH, *dataset.train_x.shape[1:])
    convs = layers(_model(dataset), shape)[:-1]  # the head stays in float32, as in the recipe
    nonzero = _nonzero(dataset)
    about = metrics.provenance({})
    about = {k: about[k] for k in ("commit", "device", "versions") if k in about}
    squares = _gradients(dataset, {layer.path: None for layer in convs}, squared=True)
    rows = []
    for name, bits in _settings(convs, nonzero).items():
        start = time.perf_counter()
        found = _gradients(dataset, bits)
        for layer in convs:
            g = found[layer.path] / LOSS_SCALE
            rows.append({
                "setting": name, "layer": layer.path, "length": layer.weight_grad,
                "nonzero": nonzero[layer.path], "bits": bits[layer.path],
                "mean_square": float(jnp.mean(g**2)), "variance": float(jnp.var(g)),
                "sum_of_squares": float(jnp.mean(squares[layer.path])) / LOSS_SCALE**2, **about,
            })  # fmt: skip
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    path = style.RESULTS / PAPER / "gradients.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print(f"rows in {path}")


def _model(dataset: Dataset) -> nnx.Module:
    return models.create(
        MODEL, num_classes=dataset.num_classes, in_shape=dataset.train_x.shape[1:],
        rngs=nnx.Rngs(SEED),
    )  # fmt: skip


def _batch(dataset: Dataset) -> tuple[jax.Array, jax.Array]:
    images = normalize(jnp.asarray(dataset.train_x[:BATCH]), dataset.mean, dataset.std)
    return images, jnp.asarray(dataset.train_y[:BATCH])


def _loss(model, images, labels):
    logits = model(images)
    return LOSS_SCALE * optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def _nonzero(dataset: Dataset) -> dict[str, float]:
    """Share of non-zero products in each layer's weight-gradient sums, zeros of padding counted."""
    model = with_scopes(_model(dataset))
    measured = workload.measure_sparsity(_loss, model, *_batch(dataset), grad=True)
    return {g.path: g.nonzero.product for g in measured if g.role == "weight_grad"}


def _settings(convs: tuple[Layer, ...], nonzero: dict[str, float]) -> dict[str, dict]:
    """Mantissa bits of each layer by setting; None for float32."""
    predicted = {
        layer.path: mantissa_bits(layer.weight_grad, nonzero=nonzero[layer.path]) for layer in convs
    }
    found: dict[str, dict] = {"float32": dict.fromkeys(predicted)}
    for change in PERTURB:
        bits = {path: max(m + change, 1) for path, m in predicted.items()}
        found[f"exact {change:+d}" if change else "exact"] = bits
    return found | {f"mantissa {m}": dict.fromkeys(predicted, m) for m in UNIFORM}


def _gradients(dataset: Dataset, bits: dict, squared: bool = False) -> dict[str, jax.Array]:
    """Each layer's weight gradient; `squared`: the sum of the squares of its products instead."""
    model = _model(dataset)
    rules = [
        Rule(re.escape(path), DotConfig(weight_grad=Accumulator(f"e6m{m}")))
        for path, m in bits.items() if m is not None
    ]  # fmt: skip
    quantize_model(model, rules)
    if squared:
        for _, module in nnx.iter_modules(model):
            if hasattr(module, "conv_general_dilated"):
                module.conv_general_dilated = _squared
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def gradient(params, rest, images, labels):
        def loss(params):  # a copy: normalization updates its statistics inside the gradient
            return _loss(nnx.merge(graphdef, params, rest, copy=True), images, labels)

        return jax.grad(loss)(params)

    flat = nnx.to_flat_state(gradient(params, rest, *_batch(dataset)))
    by_path = {"/".join(map(str, path[:-1])): v[...] for path, v in flat if path[-1] == "kernel"}
    return {path: by_path[path] for path in bits}


def _squared(lhs, rhs, *args, **kwargs):
    """The convolution, with a weight gradient that sums (a e)^2 in place of a e."""
    return _conv(functools.partial(lax.conv_general_dilated, **kwargs), args, lhs, rhs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _conv(op, args, lhs, rhs):
    return op(lhs, rhs, *args)


def _conv_fwd(op, args, lhs, rhs):
    return op(lhs, rhs, *args), (lhs, rhs)


def _conv_bwd(op, args, operands, error):
    lhs, rhs = operands
    d_lhs = jax.vjp(lambda x: op(x, rhs, *args), lhs)[1](error)[0]
    d_rhs = jax.vjp(lambda w: op(lhs**2, w, *args), rhs)[1](error**2)[0]
    return d_lhs, d_rhs


_conv.defvjp(_conv_fwd, _conv_bwd)


if __name__ == "__main__":
    main()
