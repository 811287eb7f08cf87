"""Accumulation bit-width scaling for ultra-low precision training of deep networks.

    python scripts/train.py sakr2019accumulation                 # the widths that theory predicts
    python scripts/train.py sakr2019accumulation --perturb -1    # one mantissa bit less everywhere

Operands in FP8 = (1,5,2), last layer in 16 bits; every addition in the three GEMMs of a layer is
rounded to (1,6,m), with m from the length of that sum [sakr2019accumulation, Sec. 5, Table 1]: by
the published variance retention ratio, or by the exact theory of the same sum.

Deviations:
(1) Which rounding the paper's accumulator does is not given in what we could read; its theorem is
    nearest to one that drops the shifted-out bits of the addend (`--rounding align`). The default
    here is what adders do: nearest, ties to even.
(2) The last layer's sums and the weight update stay in float32: what is studied is accumulation.
(3) The paper gives one width per group of layers; here each layer has its own.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Literal

from qtrain.ops import Accumulator
from qtrain.ops.config import Rounding
from qtrain.quantize import Cast
from qtrain.recipes.base import FIRST, LAST, At, Error, LossScale, Recipe
from qtrain.recipes.layers import GEMMS, Gemm, Layer
from theory import requirement

FP8, FP16 = "e5m2", "e6m9"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predicted:
    """Accumulators (1,6,m) whose m follows from the length of each sum.

    Takes the part of `recipes.base.Accumulators`; a chunk longer than a sum is cut to it.
    """

    theory: Literal["published", "exact"]
    chunk: int | None
    rounding: Rounding
    perturb: int
    mantissa: int | None  # in place of theory
    gemms: tuple[Gemm, ...]
    nonzero: tuple[tuple[str, float, float, float], ...]  # layer, share of products of each GEMM

    def chunks(self) -> dict[str, int | None]:
        """Longest chunk of each GEMM."""
        return dict.fromkeys(self.gemms, self.chunk)

    def fitted(self, layer: Layer) -> dict[str, Accumulator | None]:
        """The accumulator of each of a layer's GEMMs; None (float32) for those left out."""
        return {
            gemm: self._accumulator(layer, gemm) if gemm in self.gemms else None for gemm in GEMMS
        }

    def _accumulator(self, layer: Layer, gemm: Gemm) -> Accumulator:
        length = layer.lengths[gemm]
        chunk = None if self.chunk is None else min(self.chunk, length)
        bits = self.mantissa
        if bits is None:
            bits = requirement.mantissa_bits(
                length, theory=self.theory, chunk=chunk, nonzero=self._nonzero(layer.path, gemm),
                rounding=self.rounding,
            )  # fmt: skip
        bits = min(max(bits + self.perturb, 1), 21)  # 21: what a rounded sum may have at most
        return Accumulator(f"e6m{bits}", chunk=chunk, rounding=self.rounding)

    def _nonzero(self, path: str, gemm: Gemm) -> float:
        found = {layer: ratios for layer, *ratios in self.nonzero}
        return found[path][GEMMS.index(gemm)] if path in found else 1.0

    def describe(self) -> str:
        """A short text for tables."""
        width = f"e6m{self.mantissa}" if self.mantissa else f"(1,6,m) by {self.theory} theory"
        parts = [width, "" if self.chunk is None else f"chunk {self.chunk}",
                 "" if self.rounding == "nearest" else self.rounding.replace("_", " "),
                 f"{self.perturb:+d} bits" if self.perturb else "",
                 "" if self.gemms == GEMMS else f"only {' and '.join(self.gemms)}"]  # fmt: skip
        return ", ".join(part for part in parts if part)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How wide the accumulators are, and what else they do."""

    theory: Literal["published", "exact"] = "exact"
    """published: the paper's variance retention ratio and its limit of 50; exact: the law of the
    rounded sum itself."""
    chunk: int | None = None
    """Products per chunk, e.g. 64; None for one plain sum."""
    perturb: int = 0
    """Bits added to every predicted width (which stays between 1 and 21)."""
    rounding: Rounding = "nearest"
    """How each addition is rounded."""
    mantissa: int | None = None
    """The same mantissa bits in every sum, in place of theory."""
    gemms: tuple[Gemm, ...] = GEMMS
    """Which GEMMs are narrowed; the sums of the others stay in float32."""
    nonzero: tuple[tuple[str, float, float, float], ...] = ()
    """Per layer the share of products that are not zero in its three GEMMs; layers left out have
    1: more bits, never fewer."""
    advice: Path | None = None
    """Take these shares from the file that `scripts/advise.py --model MODEL --measure --out FILE`
    wrote for the same model."""


_SWEPT = {f" {p:+d}" if p else "": p for p in (0, -1, -2, -3)}
ABLATIONS = {  # [sakr2019accumulation, Fig. 6], for scripts/sweep.py
    "float32 sums": Options(gemms=()),
    **{
        f"{theory}{'' if chunk is None else f' chunk {chunk}'}{name}": Options(
            theory=theory, chunk=chunk, perturb=perturb
        )
        for theory in ("published", "exact")
        for chunk in (None, 64)
        for name, perturb in _SWEPT.items()
    },
    **{f"mantissa {m}": Options(mantissa=m) for m in range(1, 10)},
    **{
        f"mantissa {m} in {gemm}": Options(mantissa=m, gemms=(gemm,))
        for gemm in GEMMS
        for m in range(1, 7)
    },
}


def recipe(options: Options = Options()) -> Recipe:
    """FP8 operands and sums as wide as theory says, for any model."""
    operands = (At(LAST, Cast(FP16)), At(".*", Cast(FP8)))
    return Recipe(
        key="sakr2019accumulation",
        weight=operands,
        activation=(At(LAST, Cast(FP16)), At(FIRST, Cast(FP16)), At(".*", Cast(FP8))),
        error=tuple(At(at.path, Error(dgrad=at.setting, wgrad=at.setting)) for at in operands),
        accumulator=_accumulator(options),
        loss_scale=LossScale(init=1000.0),
    )


def _accumulator(options: Options) -> tuple[At, ...] | None:
    if not options.gemms:
        return None
    if options.advice is not None:
        options = dataclasses.replace(options, nonzero=_measured(options.advice))
    settings = {f.name: getattr(options, f.name) for f in dataclasses.fields(Predicted)}
    return At(LAST, None), At(".*", Predicted(**settings))


def _measured(file: Path) -> tuple[tuple[str, float, float, float], ...]:
    """`Options.nonzero` out of an adviser's rows; of a layer that is called twice, the larger."""
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
        found: dict[str, dict[str, float]] = {}
        for row in rows:
            ratios = found.setdefault(row["layer"], dict.fromkeys(GEMMS, 0.0))
            ratios[row["gemm"]] = max(ratios[row["gemm"]], row["nonzero"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"{file} is no advice: write it with scripts/advise.py --model MODEL --measure --out"
        ) from None
    # a GEMM that the adviser left out (a sum of one product) has all of its products
    share = lambda layer, gemm: found[layer][gemm] or 1.0  # noqa: E731
    forward, input_grad, weight_grad = GEMMS
    return tuple(
        (layer, share(layer, forward), share(layer, input_grad), share(layer, weight_grad))
        for layer in found
    )
