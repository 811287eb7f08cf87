"""What a compiled program sends over the mesh, read from its optimized HLO."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable

_BYTES = {
    "pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "s32": 4, "u32": 4,
    "s64": 8, "u64": 8, "f8e4m3fn": 1, "f8e5m2": 1, "f16": 2, "bf16": 2, "f32": 4, "f64": 8,
}  # fmt: skip
_KINDS = "all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute"
_LINE = re.compile(rf"= (?P<type>.*?) (?P<kind>{_KINDS})(?:-start)?\((?P<operands>.*?)\)[,)]?")
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Transfer:
    """One collective: what each worker puts in, in bytes."""

    kind: str  # "all-gather", "all-reduce", ...
    dtypes: tuple[str, ...]
    payload: float  # bytes per worker


def traffic(hlo: str) -> tuple[Transfer, ...]:
    """Collectives of an optimized HLO text, `jax.jit(f).lower(...).compile().as_text()`.

    The payload is what a worker contributes: the operands. An all-reduce's algorithm moves about
    twice that, an all-gather's (workers - 1) times, for every worker.
    """
    shapes = dict(_definitions(hlo))
    found = []
    for line in hlo.splitlines():
        match = _LINE.search(line)
        if match is None:
            continue
        arrays = _ARRAY.findall(match["operands"])
        if not arrays:  # operands by name only, as newer XLA prints them
            names = re.findall(r"%?([\w.-]+)", match["operands"])
            arrays = [array for name in names for array in shapes.get(name, ())]
        found.append(
            Transfer(match["kind"], tuple(d for d, _ in arrays), sum(_size(*a) for a in arrays))
        )
    return tuple(found)


def _definitions(hlo: str) -> Iterable[tuple[str, list[tuple[str, str]]]]:
    """Arrays that each instruction makes, by its name."""
    for line in hlo.splitlines():
        match = re.match(r"\s*(?:ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ", line)
        if match is not None:
            yield match[1], _ARRAY.findall(match[2])


def _size(dtype: str, dims: str) -> float:
    return _BYTES[dtype] * math.prod(int(d) for d in dims.split(",") if d)
