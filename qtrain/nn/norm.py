"""Range batch normalization as a layer, and how it takes the place of a model's batch norms."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from qtrain.nn.hooks import RoundingKey, key_of, module_of
from qtrain.ops.norm import Constant, Moments, range_constant, range_moments, round_error
from qtrain.quantize import fold

Model = TypeVar("Model", bound=nnx.Module)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RangeNorm:
    """How `RangeBatchNorm` normalizes [banner2018scalable, Sec. 2].

    constant  C(n): "paper" or "code", see `ops.norm.range_constant`
    chunks    parts of a batch whose max and min are averaged; the source's code takes 16
    momentum  share of the old value in the running mean and spread; the code's 0.1 is the
              reverse of what other libraries take
    replicas  the batch is normalized in so many equal, contiguous parts, each by itself, as
              devices that share it would without telling each other; 1: one range for the whole
              batch, on however many devices
    input     quantizer of what enters the layer, if any
    error     quantizer of the gradient of what leaves it, if any
    """

    constant: Constant = "paper"
    chunks: int = 1
    momentum: float = 0.1
    epsilon: float = 1e-5
    replicas: int = 1
    input: Any | None = None
    error: Any | None = None

    sources = ("banner2018scalable",)

    def __post_init__(self) -> None:
        range_constant(2, self.constant)
        for name in ("chunks", "replicas"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be at least 0 and below 1, not {self.momentum}")
        if not 0 < self.epsilon < float("inf"):
            raise ValueError(
                f"epsilon must be positive, not {self.epsilon}: it divides a constant channel"
            )

    def describe(self) -> str:
        """A short text for tables."""
        parts = [f"range ({self.constant} constant)"]
        parts += [f"{self.chunks} chunks"] if self.chunks > 1 else []
        parts += [f"{self.replicas} replicas"] if self.replicas > 1 else []
        given = {"input": self.input, "error": self.error}
        parts += [f"{name} {q.describe()}" for name, q in given.items() if q is not None]
        return ", ".join(parts)


class RangeBatchNorm(nnx.Module):
    """(x - mean) / (C(n) range + epsilon) * scale + bias per channel, the last axis.

    Takes the place of nnx.BatchNorm: the same parameters and the same switch between batch and
    running statistics. A constant channel becomes its bias, and its gradient is 1 / epsilon times
    what comes back, as in the source's code. Under `jax.jit` with a batch split
    over devices the range is that of the whole batch (see `RangeNorm.replicas`); inside
    `jax.shard_map` it is the device's own unless `axis_name` is given.
    """

    def __init__(
        self, num_features: int, settings: RangeNorm = RangeNorm(), *, axis_name: str | None = None
    ):
        """`num_features` is the length of the last axis."""
        self.settings = settings
        self.axis_name = axis_name
        self.use_running_average = False
        self.scale = nnx.Param(jnp.ones(num_features))
        self.bias = nnx.Param(jnp.zeros(num_features))
        self.mean = nnx.BatchStat(jnp.zeros(num_features))
        self.spread = nnx.BatchStat(jnp.ones(num_features))
        self.input = module_of(settings.input, None)  # None: no quantizer, or one without state
        parts = (settings.input, settings.error)
        if any(part is not None and part.needs_key for part in parts):
            self.key = RoundingKey(jnp.zeros(2, jnp.uint32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalizes (N, ..., C).

        Raises:
          ValueError: replicas do not divide N, or chunks the values of a channel.
        """
        settings, dtype = self.settings, x.dtype
        key = key_of(self)
        if settings.input is not None:
            quantizer = settings.input if self.input is None else self.input
            x = quantizer(x, None if key is None else fold(key, "input"))
        if self.use_running_average:
            y = (x - self.mean[...]) / self.spread[...]
        else:
            y = self._normalized(x)
        if self.scale is not None:
            y = y * self.scale[...]
        if self.bias is not None:
            y = y + self.bias[...]
        y = y.astype(dtype)
        if settings.error is not None:
            y = round_error(y, settings.error, None if key is None else fold(key, "error"))
        return y

    def _normalized(self, x: jax.Array) -> jax.Array:
        settings = self.settings
        if len(x) % settings.replicas:
            raise ValueError(
                f"a batch of {len(x)} cannot be normalized in {settings.replicas} equal parts"
            )

        def one(part):
            found = range_moments(
                part, constant=settings.constant, chunks=settings.chunks,
                epsilon=settings.epsilon, axis_name=self.axis_name,
            )  # fmt: skip
            return (part - found.mean) / found.spread, found

        parts = x.reshape(settings.replicas, len(x) // settings.replicas, *x.shape[1:])
        y, found = jax.vmap(one)(parts)
        self._track(jax.tree.map(lambda m: m.mean(axis=0), found))
        return y.reshape(x.shape)

    def _track(self, found: Moments) -> None:
        old = self.settings.momentum
        for variable, new in ((self.mean, found.mean), (self.spread, found.spread)):
            variable[...] = old * variable[...] + (1 - old) * jax.lax.stop_gradient(new)


def replace_batch_norms(model: Model, settings: RangeNorm) -> Model:
    """Puts a `RangeBatchNorm` in the place of each nnx.BatchNorm, in place; scales and biases
    stay those of the model, or none where it has none.

    Raises:
      ValueError: the model has no batch normalization, or one over another axis than the last.
    """
    found = [
        (path, module, name, child)
        for path, module in nnx.iter_modules(model)
        for name, child in _children(module)
        if isinstance(child, nnx.BatchNorm)
    ]
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no batch normalization to replace: take a"
            " model that has, such as small_cnn_bn"
        )
    for path, module, name, child in found:
        if child.axis != -1:
            where = "/".join(map(str, (*path, name)))
            raise ValueError(
                f"{where} normalizes axis {child.axis}: a range is taken per channel of the last"
                " axis, -1"
            )
        new = RangeBatchNorm(child.num_features, settings, axis_name=child.axis_name)
        new.use_running_average = bool(child.use_running_average)
        for part in ("scale", "bias"):
            if (values := getattr(child, part)) is None:
                setattr(new, part, nnx.data(None))
            else:
                getattr(new, part)[...] = values[...]
        _replace(module, name, new)
    return model


def _children(module: nnx.Module):
    if isinstance(module, nnx.List):
        return list(enumerate(module))
    return list(vars(module).items())


def _replace(module: nnx.Module, name, new: nnx.Module) -> None:
    if isinstance(module, nnx.List):
        module[name] = new
    else:
        setattr(module, name, new)
