"""What a quantized GEMM does in each of its places: operands and running sums.

[wang2018fp8, Sec. 3] quantizes the three operand roles of a layer and rounds every
addition of its three GEMMs; each of these choices is one field here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args

from qtrain import formats
from qtrain.ops import integer as integers

Quantizer = Callable  # a frozen, hashable `(x, key=None) -> x` with `.needs_key`
Rounding = Literal["nearest", "stochastic", "toward_zero", "align"]
ROUNDINGS = get_args(Rounding)


@dataclasses.dataclass(frozen=True)
class Accumulator:
    """The running sum inside a GEMM: every addition is rounded, in the order of K.

    Products p_k are formed in float32 (exact for operands of up to 24 significand bits
    together). For each contiguous chunk, s <- intra(s + p_k) for k in the chunk, then
    S <- fmt(S + s) [wang2018fp8, Sec. 3]. Both start at -0, the number that addition leaves
    alone. Each sum is rounded once, as if computed exactly: overflow, subnormals and signed
    zeros follow the format, but that the sign of a sum of nothing but -0 is not defined. Sums in
    float32 are rounded to nearest, whatever `rounding` says: the hardware does them.

    rounding:
      nearest      ties to even
      stochastic   P3109 variant C with N = 23 - man random bits per addition
      toward_zero  the exact sum, truncated
      align        both addends lose their bits below the ulp of the larger one, then the
                   sum is truncated: an adder without guard bits

    fused: inside a chunk, this many products are added to the sum at once, with one alignment
    and one truncation, as tensor cores do (see `fused.dot_add`) [xie2025mmasim]; also in float32.
    `operands` are then the formats of the GEMM's two operands, whose subnormals count as
    2^emin in the alignment; without it each operand has the exponent of its value. FP8 on
    Hopper: `Accumulator("e8m13", None, "align", fused=32, operands=("e4m3fn", "e4m3fn"))`;
    promoted to float32 every 128 products [deepseek2024v3, Sec. 3.3.2]:
    `Accumulator("float32", 128, "align", intra="e8m13", fused=32, operands=...)`.
    """

    fmt: str = "e6m9"  # format of the sum over chunks, and of the sum inside a chunk
    chunk: int | None = None  # additions per chunk; None: one chunk as long as K
    rounding: Rounding = "nearest"
    product: str | None = None  # format that products are rounded to (nearest), if any
    intra: str | None = None  # format inside a chunk, where it differs from fmt
    fused: int | None = None  # products per addition
    operands: tuple[str, str] | None = None  # formats of the operands; for fused additions

    sources = ("wang2018fp8",)

    def __post_init__(self):
        if self.rounding not in ROUNDINGS:
            raise ValueError(f"unknown rounding {self.rounding!r}: one of {', '.join(ROUNDINGS)}")
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"chunk must be at least 1 (None for no chunks), not {self.chunk}")
        for name in (self.fmt, self.intra, self.product):
            _check_sum_format(name)
        sums = {formats.get(name) for name in (self.fmt, self.intra or self.fmt)}
        if self.fused is not None or self.operands is not None:
            self._check_fused()
        elif sums == {formats.get("float32")} and self.rounding != "nearest":
            raise ValueError(
                f"sums in float32 are rounded to nearest, not {self.rounding}: for that, use a"
                " format of at most 21 mantissa bits, such as e8m21"
            )

    def _check_fused(self) -> None:
        """Raises ValueError for what `fused.dot_add` cannot do exactly."""
        if self.fused is None:
            raise ValueError("operands are for fused additions only: give fused, or leave them out")
        if self.rounding != "align" or self.product is not None:
            raise ValueError("fused additions take exact products and truncate: align, no product")
        man = formats.get_float(self.intra or self.fmt).man
        most = ((2**31 - 1 >> man) - 2) // 4
        if not 1 <= self.fused <= most or man < 1:
            raise ValueError(
                f"cannot fuse {self.fused} products in {self.intra or self.fmt}: its sums must fit"
                f" in 32 bits, which allows 1 to {most} products and at least 1 mantissa bit"
            )
        for name in self.operands or ():
            formats.get_float(name)

    @property
    def needs_key(self) -> bool:
        """Whether its additions draw random bits."""
        return self.rounding == "stochastic"


def _check_sum_format(name: str | None) -> None:
    fmt = None if name is None else formats.get(name)
    if fmt is None or fmt == formats.get("float32"):
        return
    if not isinstance(fmt, formats.Float) or fmt.man > 21:
        raise ValueError(
            f"cannot accumulate in {name}: a float with at most 21 mantissa bits or float32 is"
            " needed, because sums are settled in float32"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DotConfig:
    """One quantizer per operand role and one accumulator per GEMM; None keeps full precision.

    The quantized lhs and rhs are also what the backward GEMMs see. `dgrad` and `wgrad`
    quantize the error (the output's cotangent) for the input-gradient and the
    weight-gradient GEMM; equal ones round once, by the random bits of `dgrad`. `integer`
    applies to each GEMM of `dot` that has no accumulator and both of whose operands have a
    quantizer: see `integer.check` for what that must be. Convolutions ignore it.
    """

    lhs: Quantizer | None = None  # activation
    rhs: Quantizer | None = None  # weight
    dgrad: Quantizer | None = None  # error, in the input-gradient GEMM
    wgrad: Quantizer | None = None  # error, in the weight-gradient GEMM
    forward: Accumulator | None = None
    input_grad: Accumulator | None = None
    weight_grad: Accumulator | None = None
    integer: bool = False  # dot: GEMMs without accumulator in int8 x int8 -> int32

    def __post_init__(self) -> None:
        if self.integer:
            for role in ("lhs", "rhs", "dgrad", "wgrad"):
                if (quantizer := getattr(self, role)) is not None:
                    integers.check(role, quantizer)

    @property
    def needs_key(self) -> bool:
        """Whether any part draws random bits, so that a call needs a key."""
        return any(part.needs_key for part in self.parts().values())

    def parts(self) -> dict[str, Any]:
        """What is not None of the four quantizers and the three accumulators, by name."""
        found = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {k: v for k, v in found.items() if k != "integer" and v is not None}
