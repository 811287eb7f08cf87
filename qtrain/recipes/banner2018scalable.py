"""Scalable methods for 8-bit training of neural networks.

    python scripts/train.py banner2018scalable
    python scripts/train.py banner2018scalable --bifurcate false    # one 8-bit error for both GEMMs
    python scripts/train.py banner2018scalable --bits 6 --norm batch

Weights, activations and errors of every layer in 8 bits, affine from min to max; the weight
gradient sees the error before it is rounded (gradient bifurcation); range batch normalization
with 8-bit input and error in place of batch normalization [banner2018scalable, Secs. 2 to 4].
Errors round stochastically, all else to nearest. Update and master weights in float32.

Deviations:
(1) The paper's text was not at hand: definitions are those of its poster and its code, which
    differ in C(n) and in the precision of the weight gradient's error (16 bits; full). The
    defaults are the paper's C(n) over the whole batch, and the code's full precision.
(2) In the code, activations round stochastically, by a slip in an argument's position, and
    scale, bias and variance of the normalization are rounded too. Here they are not.
(3) Biases stay in float32. The default model is a small CNN on embedded images.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from qtrain.nn import RangeNorm, Tracked
from qtrain.ops.norm import Constant
from qtrain.quantize import Affine, Cast, Scale
from qtrain.recipes.base import At, Error, Recipe

Bits = int | Literal["none"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Each ingredient of the paper, so that an ablation is one flag."""

    bits: int = 8
    """Of weights, activations and errors, 2 to 16."""
    weight_bits: Bits | None = None
    """Where they differ; "none" keeps float32."""
    activation_bits: Bits | None = None
    """Where they differ; "none" keeps float32."""
    error_bits: Bits | None = None
    """Where they differ; "none" keeps float32."""
    bifurcate: bool = True
    """Whether the weight gradient sees the error before it is rounded to these bits."""
    weight_gradient_bits: Bits = "none"
    """Bits of the error in the weight gradient, with bifurcation; the poster says 16."""
    weight_range: Literal["tensor", "channel"] = "tensor"
    """One range for a weight tensor, or one for each output channel, as the code's revision."""
    error_range: Literal["tensor", "sample"] = "tensor"
    """One range for an error tensor, or one for each example, as the code's revision."""
    symmetric: bool = False
    """Ranges from -max to max, in powers of two: zero is a value, and integers can do the GEMMs."""
    integer: bool = False
    """Dense layers multiply int8 by int8 into int32; needs --symmetric and at most 8 bits."""
    norm: Literal["batch", "range"] = "range"
    """batch: the model's own normalization, in float32."""
    norm_bits: Bits | None = None
    """Of input and error of range batch normalization, where they differ from the layers'."""
    constant: Constant = "paper"
    """C(n) of range batch normalization: the paper's, or its code's, close to one sigma."""
    chunks: int = 1
    """Parts of a batch whose ranges are averaged; the code takes 16."""
    replicas: int = 1
    """Parts of a batch that are normalized by themselves; 1: one range over all devices."""


_FLOAT = Options(weight_bits="none", activation_bits="none", error_bits="none", norm_bits="none")
ABLATIONS = {  # [banner2018scalable, Secs. 2, 4, 6], for scripts/sweep.py
    "full": Options(),
    "no bifurcation": Options(bifurcate=False),
    "range norm": _FLOAT,
    "range norm, code": dataclasses.replace(_FLOAT, constant="code", chunks=16),
    "8-bit forward": Options(error_bits="none"),
    "batch norm": Options(norm="batch"),
    "symmetric": Options(symmetric=True),
    **{f"{bits} bits": Options(bits=bits) for bits in (2, 3, 4, 5, 6, 7)},
    **{
        f"{bits} bits, no bifurcation": Options(bits=bits, bifurcate=False)
        for bits in (2, 3, 4, 5, 6, 7)
    },
}


def recipe(options: Options = Options()) -> Recipe:
    """The paper's recipe, with the chosen ingredients changed."""
    if not options.bifurcate and options.weight_gradient_bits != "none":
        raise ValueError(
            f"weight_gradient_bits {options.weight_gradient_bits} needs --bifurcate: without it,"
            " both gradients see the same error"
        )
    _check(options)
    activation = _bits(options, options.activation_bits)
    error = _error(options, _bits(options, options.error_bits))
    wide = _error(options, options.weight_gradient_bits)
    errors = Error(dgrad=error, wgrad=wide if options.bifurcate else error)
    return Recipe(
        key="banner2018scalable",
        model="small_cnn_bn",
        weight=_everywhere(_weight(options, _bits(options, options.weight_bits))),
        activation=_everywhere(_activation(options, activation)),
        error=None if errors == Error() else _everywhere(errors),
        norm=_norm(options),
        integer=options.integer,
    )


def _check(options: Options) -> None:
    """Raises ValueError for what could not hold, or would silently do nothing."""
    if options.norm == "batch":
        for name in ("norm_bits", "constant", "chunks", "replicas"):
            if (value := getattr(options, name)) != getattr(Options(), name):
                raise ValueError(f"{name} {value} is a setting of --norm range, not of batch")
    if not 2 <= options.bits <= 16:
        raise ValueError(f"bits must be 2 to 16, not {options.bits}")
    weights, _, errors, _ = used = _all_bits(options)
    needs = {  # flags that need 8-bit, or any quantized, operands of some role
        "weight_range": weights != "none",
        "error_range": errors != "none" or options.norm == "range",
        "bifurcate": errors != "none",
    }
    for name, holds in needs.items():
        if not holds and getattr(options, name) != getattr(Options(), name):
            raise ValueError(f"{name} {getattr(options, name)} does nothing: that role is float32")
    if not options.integer:
        return
    if "none" in used[:2]:
        raise ValueError("--integer needs weights and activations in 8 bits or fewer, not float32")
    if not options.symmetric:
        raise ValueError("--integer needs --symmetric: int8 codes have zero as their zero point")
    if options.weight_range == "channel" or options.error_range == "sample":
        raise ValueError("--integer needs one range per operand: weight_range, error_range tensor")
    if wide := [b for b in used if b != "none" and b > 8]:
        raise ValueError(f"--integer multiplies int8 codes: at most 8 bits, not {max(wide)}")


def _all_bits(options: Options) -> list[Bits]:
    chosen = (options.weight_bits, options.activation_bits, options.error_bits)
    return [_bits(options, bits) for bits in chosen] + [options.weight_gradient_bits]


def _bits(options: Options, chosen: Bits | None) -> Bits:
    return options.bits if chosen is None else chosen


def _everywhere(setting) -> tuple[At, ...] | None:
    return None if setting is None else (At(".*", setting),)


def _weight(options: Options, bits: Bits):
    if bits == "none":
        return None
    if options.symmetric:
        axis = None if options.weight_range == "tensor" else -1
        return _symmetric(bits, axis=axis)
    return Affine(bits=bits, range=options.weight_range)


def _activation(options: Options, bits: Bits):
    if bits == "none":
        return None
    if options.symmetric:
        return _symmetric(bits)
    return Tracked(quantizer=Affine(bits=bits, range="sample_mean"))


def _error(options: Options, bits: Bits):
    if bits == "none":
        return None
    if options.symmetric:
        axis = None if options.error_range == "tensor" else 0
        return _symmetric(bits, axis=axis, rounding="stochastic")
    return Affine(bits=bits, rounding="stochastic", range=options.error_range)


def _symmetric(bits: int, *, axis: int | None = None, rounding="nearest") -> Cast:
    if not 2 <= bits <= 16:
        raise ValueError(f"bits must be 2 to 16, not {bits}")
    return Cast(f"int{bits}sym", rounding, Scale(method="power_of_two", axis=axis))


def _norm(options: Options) -> RangeNorm | None:
    if options.norm == "batch":
        return None
    activation, error = (
        _bits(options, chosen if options.norm_bits is None else options.norm_bits)
        for chosen in (options.activation_bits, options.error_bits)
    )
    return RangeNorm(
        constant=options.constant, chunks=options.chunks, replicas=options.replicas,
        input=_activation(options, activation), error=_error(options, error),
    )  # fmt: skip
