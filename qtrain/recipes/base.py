"""A recipe says what happens in each place of the training step; a paper is one recipe.

A place that a recipe leaves alone is None and stays in float32. Two recipes that fill different
places merge into one run; the same place filled twice is an error, because only one can hold.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any, Literal

from qtrain.nn import RangeNorm, Rule
from qtrain.ops import Accumulator, DotConfig
from qtrain.optim import Constraint
from qtrain.recipes.checks import check_chunks, check_paths
from qtrain.recipes.layers import GEMMS, Layer

Quantizer = Any  # a frozen, hashable `(x, key=None) -> x`, see quantize.Cast

FIRST, LAST = "<first>", "<last>"  # the layer that is called first / last, whatever its name
PLACES = ("weight", "activation", "error", "accumulator", "norm", "wire", "update", "loss_scale")


@dataclasses.dataclass(frozen=True)
class At:
    """A setting for the layers whose path matches `path` in full; None keeps float32."""

    path: str  # regular expression on paths such as "blocks/0/conv1", or FIRST, or LAST
    setting: Any

    def __post_init__(self) -> None:
        try:
            re.compile(self.path)
        except re.error as error:
            raise ValueError(f"At({self.path!r}) is not a regular expression: {error}") from None

    def matches(self, layer: Layer, layers: Sequence[Layer]) -> bool:
        """Whether this setting speaks about `layer`, one of `layers` in the order of calls."""
        if self.path in (FIRST, LAST):
            return layer == layers[0 if self.path == FIRST else -1]
        return re.fullmatch(self.path, layer.path) is not None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Error:
    """How the error (the gradient of a layer's output) is rounded before each backward GEMM.

    Equal quantizers round once, with the same random bits.
    """

    dgrad: Quantizer | None = None  # for the input gradient
    wgrad: Quantizer | None = None  # for the weight gradient


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accumulators:
    """The running sum of each of a layer's three GEMMs.

    `chunk` is the longest a chunk may be: a sum shorter than that is a single chunk, so one
    recipe fits layers of any width. A chunk longer than every sum of the model is an error.
    """

    forward: Accumulator | None = None
    input_grad: Accumulator | None = None
    weight_grad: Accumulator | None = None

    def chunks(self) -> dict[str, int | None]:
        """The longest chunk of each GEMM; None for one as long as the sum."""
        found = {gemm: getattr(self, gemm) for gemm in GEMMS}
        return {gemm: accum and accum.chunk for gemm, accum in found.items()}

    def fitted(self, layer: Layer) -> dict[str, Accumulator | None]:
        """The accumulators with each chunk cut to the length of the layer's own sum."""
        out = {}
        for gemm, length in layer.lengths.items():
            accum = getattr(self, gemm)
            if accum is not None and accum.chunk is not None and accum.chunk > length:
                accum = dataclasses.replace(accum, chunk=length)
            out[gemm] = accum
        return out


@dataclasses.dataclass(frozen=True, kw_only=True)
class Update:
    """Format and rounding of the optimizer's additions, its state and the master weights."""

    fmt: str
    rounding: Literal["nearest", "stochastic"] = "stochastic"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossScale:
    """A factor on the loss that lifts errors into the range of their format."""

    init: float
    dynamic: bool = False  # halve on overflow, double after a long run without


@dataclasses.dataclass(frozen=True, kw_only=True)
class Momentum:
    """v <- momentum v + (g + weight_decay w); w <- w - lr v."""

    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Literal["constant", "cosine"] = "cosine"  # of lr, down to zero at the last step

    def __post_init__(self) -> None:
        _check_optimizer(self, lr=math.inf, momentum=1, weight_decay=math.inf)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adam:
    """m <- b1 m + (1 - b1) g; v <- b2 v + (1 - b2) g^2; w <- w - lr (m' / (sqrt v' + eps) +
    weight_decay w), m' and v' without bias [kingma2015adam, Alg. 1; loshchilov2019decoupled].
    """

    lr: float = 1e-3
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine"] = "cosine"

    def __post_init__(self) -> None:
        _check_optimizer(self, lr=math.inf, b1=1, b2=1, eps=math.inf, weight_decay=math.inf)


def _check_optimizer(settings: Momentum | Adam, **limits: float) -> None:
    if settings.schedule not in ("constant", "cosine"):
        raise ValueError(f"unknown schedule {settings.schedule!r}: constant or cosine")
    for name, limit in limits.items():
        if not 0 <= (value := getattr(settings, name)) < limit:
            raise ValueError(f"{name} must be at least 0 and below {limit}, not {value}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training run: what is trained, and what each place of the step does."""

    key: str  # the paper, as in references.bib, or "float32"
    model: str = "small_cnn"
    data: str = "fashion-mnist-8k"
    batch_size: int = 128
    epochs: int = 6
    optimizer: Momentum | Adam = Momentum()
    start: Recipe | None = None  # the run whose last weights this one begins with
    widen: int = 1  # times the model's channels [mishra2018wrpn]
    signed: bool = False  # hard tanh in place of the model's ReLU, see `models.create`
    trains: Literal["all", "quantizers"] = "all"  # quantizers: their `nn.Learned` numbers alone

    # quantizers, what `stored` lists, or constraints; the first match wins
    weight: tuple[At, ...] | None = None
    activation: tuple[At, ...] | None = None  # quantizers
    error: tuple[At, ...] | None = None  # Error
    accumulator: tuple[At, ...] | None = None  # Accumulators, or what has its two methods
    norm: RangeNorm | None = None  # in place of the model's batch normalization
    wire: Any | None = None  # codec of the gradients that workers exchange, see `wire.exchange`
    update: Update | None = None
    loss_scale: LossScale | None = None
    integer: bool = False  # dense layers multiply int8 by int8, see `ops.DotConfig`

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs", "widen"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.trains not in ("all", "quantizers"):
            raise ValueError(f"unknown trains {self.trains!r}: all or quantizers")

    def places(self) -> tuple[str, ...]:
        """Names of the places that are filled."""
        return tuple(place for place in PLACES if getattr(self, place) is not None)

    def setting(self, place: str, layer: Layer, layers: Sequence[Layer]) -> Any:
        """What the first match says about `layer` in `place`; None if nothing does."""
        for at in getattr(self, place) or ():
            if at.matches(layer, layers):
                return at.setting
        return None

    def config(self, layer: Layer, layers: Sequence[Layer]) -> DotConfig:
        """The three GEMMs of one layer."""
        error = self.setting("error", layer, layers) or Error()
        accumulators = self.setting("accumulator", layer, layers) or Accumulators()
        weight = self.setting("weight", layer, layers)
        return DotConfig(
            lhs=self.setting("activation", layer, layers),
            rhs=weight if _is_forward(weight) else None,
            dgrad=error.dgrad,
            wgrad=error.wgrad,
            **accumulators.fitted(layer),
            integer=self.integer,
        )

    def stored(self, layers: Sequence[Layer]) -> dict[str, Any]:
        """The layers whose weights are stored narrow, see `optim.stored`: quantizer by path."""
        return {path: w for path, w in self._weights(layers).items() if _is_stored(w)}

    def constraints(self, layers: Sequence[Layer]) -> dict[str, Constraint]:
        """The layers whose weights are constrained over time, see `optim.constrained`: by path."""
        return {path: w for path, w in self._weights(layers).items() if isinstance(w, Constraint)}

    def _weights(self, layers: Sequence[Layer]) -> dict[str, Any]:
        return {layer.path: self.setting("weight", layer, layers) for layer in layers}

    def rules(self, layers: Sequence[Layer]) -> tuple[Rule, ...]:
        """One rule per layer that this recipe changes, for `nn.quantize_model`.

        Raises:
          ValueError: a path matches no layer, or a chunk is longer than every sum.
        """
        check_paths(self, layers)
        check_chunks(self, layers)
        configs = {layer.path: self.config(layer, layers) for layer in layers}
        return tuple(
            Rule(re.escape(path), config)
            for path, config in configs.items()
            if config != DotConfig()
        )


def _is_stored(weight: Any) -> bool:
    """Whether the optimizer applies this quantizer, and not the forward pass."""
    return getattr(weight, "stored", False)


def _is_forward(weight: Any) -> bool:
    """Whether the forward pass applies this: not what only acts on the weights between steps."""
    return (callable(weight) or hasattr(weight, "module")) and not _is_stored(weight)


SHARED = ("model", "data", "batch_size", "widen", "signed")  # by a run and those before it


def changed(recipe: Recipe, **changes: Any) -> Recipe:
    """`dataclasses.replace`; what model, data and batch are changes in the runs before as well."""
    shared = {k: v for k, v in changes.items() if k in SHARED}
    start = recipe.start and changed(recipe.start, **shared)
    return dataclasses.replace(recipe, **{"start": start, **changes})


def budget(recipe: Recipe) -> int:
    """Epochs of the run and of all those before it."""
    return recipe.epochs + (0 if recipe.start is None else budget(recipe.start))


def merge(first: Recipe, second: Recipe) -> Recipe:
    """Both recipes in one run; model, data, optimizer and start are those of the first.

    The model is as wide as the wider one asks, with signs if one of them needs them.

    Raises:
      ValueError: both fill the same place, or the second one needs a start.
    """
    if twice := [place for place in first.places() if place in second.places()]:
        raise ValueError(
            f"{first.key} and {second.key} both fill {' and '.join(twice)}: only recipes that"
            " fill different places can be merged"
        )
    if second.start is not None and first.start is None:
        raise ValueError(f"{second.key} begins with weights of another run: name it first")
    added = {place: getattr(second, place) for place in second.places()}
    integer = first.integer or second.integer
    key = f"{first.key}+{second.key}"
    widen, signed = max(first.widen, second.widen), first.signed or second.signed
    first = changed(first, widen=widen, signed=signed)
    return dataclasses.replace(first, key=key, integer=integer, **added)


def baseline(recipe: Recipe) -> Recipe:
    """The same run with every place in float32, and the model as it is by itself.

    From random weights, for as many epochs as the run and those before it, by the optimizer of the
    first of them.
    """
    nothing: dict[str, Any] = dict.fromkeys(PLACES)
    first = recipe
    while first.start is not None:
        first = first.start
    return dataclasses.replace(
        recipe, key="float32", integer=False, start=None, widen=1, signed=False, trains="all",
        epochs=budget(recipe), optimizer=first.optimizer, **nothing,
    )  # fmt: skip
