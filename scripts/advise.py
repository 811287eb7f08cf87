"""How many mantissa bits each running sum of a network needs.

    python scripts/advise.py sakr2019accumulation --model resnet18
    python scripts/advise.py sakr2019accumulation --model small_cnn --measure    # real zeros
    python scripts/advise.py --fn my_module:loss_fn --args my_module:example_args

The last form takes any JAX function of arrays that returns a scalar loss, Flax or not, and traces
it with its gradient by the first argument; `example_args` is a tuple of arguments, or a function
that returns one (jax.ShapeDtypeStruct will do: nothing is computed). For each GEMM: the length of
its sum, and the bits by the published formula and by the exact theory of the rounded sum, plain
and in chunks.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.progress import track

sys.path.insert(0, str(Path.cwd()))  # for --fn, as `python -m` would have it

RECIPE = "sakr2019accumulation"
SHAPES = {"resnet18": (224, 224, 3), "alexnet": (224, 224, 3)}  # ImageNet; the others: the data's
BATCHES = {"resnet18": 256, "alexnet": 256}
_BITS = ("published", "exact", "published_chunked", "exact_chunked")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What is traced, and how its sums are rounded."""

    recipe: tyro.conf.Positional[str] = RECIPE
    """The paper whose widths are asked for."""
    model: str | None = None
    """mlp, small_cnn, small_cnn_bn, resnet20, resnet32, resnet18 or alexnet."""
    fn: str | None = None
    """MODULE:FUNCTION, a scalar loss, instead of a model."""
    args: str | None = None
    """MODULE:NAME of the arguments of --fn: a tuple, or a function that returns one."""
    grad: bool = True
    """Trace the gradient of --fn too."""
    batch_size: int | None = None
    """Images per step; default 128, and 256 for ImageNet's models."""
    chunk: int = 64
    """Products per chunk in the chunked columns."""
    rounding: Literal["nearest", "stochastic", "toward_zero", "align"] = "nearest"
    """How the exact theory's accumulator rounds."""
    measure: bool = False
    """Run one real batch and count the products that are not zero, which the sums skip."""
    data: str = "fashion-mnist-8k"
    """Images for --measure, and the shape of the input of models that are not ImageNet's."""
    data_dir: Path | None = None
    out: Path | None = None
    """Also write the rows to this file (JSON)."""


@dataclasses.dataclass(frozen=True)
class Advice:
    """Bits that one GEMM's sum needs."""

    layer: str
    gemm: str
    length: int
    nonzero: float  # share of its products
    published: int
    exact: int
    published_chunked: int
    exact_chunked: int
    count: int = 1  # how often the GEMM runs


def main(options: Options) -> None:
    """Traces, asks both theories, prints the table."""
    if options.recipe != RECIPE:
        raise ValueError(f"{options.recipe} says nothing about the widths of sums: ask {RECIPE}")
    if options.chunk < 1:
        raise ValueError(f"chunk must be at least 1, not {options.chunk}")
    if options.fn is None and options.model is None:
        raise ValueError(
            "nothing to advise on: give --model resnet18, or --fn MODULE:LOSS --args MODULE:ARGS"
        )
    workload = _of_function(options) if options.fn else _of_model(options)
    gemms = [gemm for gemm in workload if gemm.k > 1]
    if not gemms:
        raise ValueError(f"{workload.name} has no GEMM whose sum has more than one product")
    order = sorted(gemms, key=lambda gemm: (gemm.layer < 0, gemm.layer))  # unknown layers last
    asked = track(order, "asking both theories", transient=True, disable=not sys.stderr.isatty(),
                  console=Console(stderr=True))  # fmt: skip
    rows = [_advice(options, gemm) for gemm in asked]
    rounding = options.rounding.replace("_", " ")
    print(f"{options.model or options.fn}: mantissa bits of each accumulator, rounding {rounding}")
    print("\n".join(_lines(rows, options.chunk)))
    for call in workload.opaque:
        print(f"not seen into: {call.primitive} {call.name} {call.source}")
    most = {name: max(getattr(row, name) for row in rows) for name in _BITS}
    print(
        f"one width for all: {most['exact']} bits by the exact theory ({most['published']}"
        f" published); in chunks of {options.chunk}, {most['exact_chunked']}"
        f" ({most['published_chunked']} published)"
    )
    if options.out:
        text = [dataclasses.asdict(row) for row in rows]
        options.out.write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")
        print(f"rows in {options.out}")


def _of_function(options: Options):
    """The GEMMs of --fn and its gradient."""
    from qtrain import workload

    if options.args is None:
        raise ValueError("--fn needs --args MODULE:NAME, a tuple of example arguments")
    fn, args = _named(options.fn, "--fn"), _named(options.args, "--args")
    args = args() if callable(args) else args
    args = args if isinstance(args, tuple) else (args,)
    find = workload.measure_sparsity if options.measure else workload.trace
    return find(fn, *args, grad=options.grad)


def _named(name: str, flag: str) -> Any:
    """The object behind MODULE:NAME."""
    module, colon, attribute = name.partition(":")
    if not colon or not module or not attribute:
        raise ValueError(f"{flag} is MODULE:NAME, such as my_module:loss_fn, not {name!r}")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"{flag} {name}: cannot import {module}: {error}") from None
    if not hasattr(found, attribute):
        raise ValueError(f"{flag} {name}: {module} has no {attribute}")
    return getattr(found, attribute)


def _of_model(options: Options):
    """The GEMMs of a model's training step, by the paths of its layers."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    from qtrain import models, workload
    from qtrain.nn import with_scopes
    from qtrain.train.data import load, normalize

    name, batch = options.model, options.batch_size or BATCHES.get(options.model, 128)
    if batch < 1:
        raise ValueError(f"batch-size must be at least 1, not {batch}")
    imagenet = name in SHAPES
    if imagenet and options.measure:
        raise ValueError(f"--measure needs images, and there are none for {name}: leave it out")
    dataset = None if imagenet else load(options.data, options.data_dir)
    shape = SHAPES[name] if imagenet else dataset.train_x.shape[1:]
    classes = 1000 if imagenet else dataset.num_classes
    create = functools.partial(models.create, name, num_classes=classes, in_shape=shape)
    make = lambda: with_scopes(create(rngs=nnx.Rngs(0)))  # noqa: E731
    model = make() if options.measure else nnx.eval_shape(make)

    def loss(model, images, labels):
        logits = model(images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    images = jax.ShapeDtypeStruct((batch, *shape), jnp.float32)
    labels = jax.ShapeDtypeStruct((batch,), jnp.int32)
    if not options.measure:
        return workload.trace(loss, model, images, labels, grad=True)
    images = normalize(jnp.asarray(dataset.train_x[:batch]), dataset.mean, dataset.std)
    labels = jnp.asarray(dataset.train_y[:batch])
    return workload.measure_sparsity(loss, model, images, labels, grad=True)


def _advice(options: Options, gemm) -> Advice:
    """Both theories on one GEMM."""
    from theory.requirement import mantissa_bits

    nonzero = 1.0 if gemm.nonzero is None else gemm.nonzero.product
    ask = functools.partial(
        mantissa_bits, gemm.k, nonzero=max(nonzero, 1 / gemm.k), rounding=options.rounding,
    )  # fmt: skip
    chunk = min(options.chunk, gemm.k)
    return Advice(
        gemm.name, gemm.role, gemm.k, nonzero,
        published=ask(theory="published"), exact=ask(theory="exact"),
        published_chunked=ask(theory="published", chunk=chunk),
        exact_chunked=ask(theory="exact", chunk=chunk), count=gemm.count,
    )  # fmt: skip


def _lines(rows: list[Advice], chunk: int) -> Iterator[str]:
    """The table, a line per GEMM, layers in the order of the network."""
    wide = max(len("layer"), *(len(row.layer) for row in rows))
    measured, counted = (any(getattr(r, f) != 1 for r in rows) for f in ("nonzero", "count"))
    extra = (f"{'times':>7}" if counted else "") + (f"{'non-zero':>10}" if measured else "")
    room = " " * (wide + 25 + len(extra))
    yield f"{room}{'one sum':^18}{f'chunks of {chunk}':^18}".rstrip()
    yield (
        f"{'layer':<{wide}}  {'GEMM':<12}{'length':>11}{extra}"
        + f"{'published':>11}{'exact':>7}" * 2
    )
    before = None
    for row in rows:
        extra = (f"{row.count:>7}" if counted else "") + (
            f"{row.nonzero:>10.3f}" if measured else ""
        )
        name = row.layer if row.layer != before else ""
        yield (
            f"{name:<{wide}}  {row.gemm.replace('_', ' '):<12}{row.length:>11,}{extra}"
            f"{row.published:>11}{row.exact:>7}{row.published_chunked:>11}{row.exact_chunked:>7}"
        )
        before = row.layer


if __name__ == "__main__":
    try:
        main(tyro.cli(Options, description=__doc__))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
