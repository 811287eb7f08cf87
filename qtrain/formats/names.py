"""Format names: `get("e4m3fn")` is the format whose `name` is "e4m3fn"."""

from __future__ import annotations

import difflib
import re
from typing import Any

from qtrain.formats.codebook import BINARY, TERNARY, Codebook, power_levels
from qtrain.formats.float import Float
from qtrain.formats.integer import Fixed, Int

Format = Float | Int | Fixed | Codebook

ALIASES = {
    "bf16": "e8m7",
    "bfloat16": "e8m7",
    "f16": "e5m10",
    "fp16": "e5m10",
    "float16": "e5m10",
    "f32": "e8m23",
    "fp32": "e8m23",
    "float32": "e8m23",
    # ml_dtypes writes "fn" here too, but every code is a number [ocp2023mx]; ours, without the
    # prefix, have a NaN
    "float4_e2m1fn": "e2m1finite",
    "float6_e2m3fn": "e2m3finite",
    "float6_e3m2fn": "e3m2finite",
}
KNOWN = (
    *ALIASES, "e5m2", "e4m3", "e4m3fn", "e3m4", "e4m3fnuz", "e5m2fnuz", "e4m3b11fnuz", "e6m9",
    "int8", "int4", "uint8", "fixed4.4", "binary", "ternary", "pow2.4",
)  # fmt: skip

_FLOAT = re.compile(r"e(\d+)m(\d+)(?:b(-?\d+))?(fnuz|fn|finite)?(ftz)?(sat)?")
_INT = re.compile(r"(u?)int(\d+)(sym)?")
_FIXED = re.compile(r"fixed(\d+)\.(\d+)")
_POWERS = re.compile(r"pow2\.(\d+)")
_CODEBOOK = re.compile(r"codebook\[(.+)\]")


def get(name: str | Format) -> Format:
    """The format of a name; a format is returned as it is.

    Raises:
      ValueError: no such format (the nearest names are listed), or impossible widths.
      TypeError: neither a name nor a format.
    """
    if isinstance(name, Format):
        return name
    if not isinstance(name, str):
        raise TypeError(f"a format or its name is needed, not {name!r}")
    text = name.lower()
    text = ALIASES.get(text, text)
    try:
        found = _parse(text.removeprefix("float8_"))
    except ValueError as error:
        raise ValueError(f"{name!r} is no possible format: {error}") from None
    if found is None:
        near = difflib.get_close_matches(text, KNOWN, n=3, cutoff=0.4) or ("e5m2", "int8")
        raise ValueError(
            f"unknown format {name!r}: did you mean {' or '.join(near)}? Names look like e5m2,"
            " e4m3fn, int8, fixed4.4, ternary"
        )
    return found


def get_float(name: str | Format) -> Float:
    """`get`, where only a float will do.

    Raises:
      ValueError: no such format, or one of another kind.
    """
    found = get(name)
    if not isinstance(found, Float):
        raise ValueError(f"{found.name} is no floating-point format")
    return found


def _parse(name: str) -> Format | None:
    if m := _FLOAT.fullmatch(name):
        bias = None if m[3] is None else int(m[3])
        top: Any = m[4] or "ieee"
        return Float(int(m[1]), int(m[2]), bias, not m[5], top, bool(m[6]))
    if m := _INT.fullmatch(name):
        return Int(int(m[2]), not m[1], bool(m[3]))
    if m := _FIXED.fullmatch(name):
        return Fixed(int(m[1]), int(m[2]))
    if (m := _POWERS.fullmatch(name)) and 2 <= int(m[1]) <= 8:
        return Codebook(power_levels(int(m[1])))
    if name in ("binary", "ternary"):
        return Codebook(BINARY if name == "binary" else TERNARY)
    if m := _CODEBOOK.fullmatch(name):
        return Codebook(tuple(float(v) for v in m[1].split(",")))
    return None
