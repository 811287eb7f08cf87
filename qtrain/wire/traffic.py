"""What a compiled program sends over the mesh, read from its optimized HLO."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable

_KINDS = (
    "all-gather|all-reduce|reduce-scatter|all-to-all|ragged-all-to-all|collective-permute"
    "|collective-broadcast"
)
_CALL = re.compile(rf"= .*? (?P<kind>{_KINDS})(?:-start)?\(")
_DEFINITION = re.compile(r"\s*(?:ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ")
_ARRAY = re.compile(r"\b(pred|[a-z]+(?:\d[a-z0-9]*))\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Transfer:
    """One collective: what each worker puts in, in bytes."""

    kind: str  # "all-gather", "all-reduce", ...
    dtypes: tuple[str, ...]
    payload: float  # bytes per worker


def traffic(hlo: str) -> tuple[Transfer, ...]:
    """Collectives of an optimized HLO text, `jax.jit(f).lower(...).compile().as_text()`.

    The payload is what a worker contributes: the operands. An all-reduce's algorithm moves about
    twice that, an all-gather's (workers - 1) times, for every worker. One in a loop counts once.
    """
    arrays_of = dict(_definitions(hlo))
    found = []
    for line in hlo.splitlines():
        if (match := _CALL.search(line)) is None:
            continue
        operands = _to_closing(line[match.end() :])
        arrays = _ARRAY.findall(operands)
        if not arrays:  # operands by name only, as newer XLA prints them
            names = re.findall(r"%?([\w.-]+)", operands)
            arrays = [array for name in names for array in arrays_of.get(name, ())]
        dtypes = tuple(dtype for dtype, _ in arrays)
        found.append(Transfer(match["kind"], dtypes, sum(_size(*array) for array in arrays)))
    return tuple(found)


def _to_closing(text: str) -> str:
    """`text` up to the parenthesis that closes it; layouts have their own, as in {1,0:T(8,128)}."""
    depth = 1
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return text[:place]
    return text


def _definitions(hlo: str) -> Iterable[tuple[str, list[tuple[str, str]]]]:
    """Arrays that each instruction makes, by its name."""
    for line in hlo.splitlines():
        if (match := _DEFINITION.match(line)) is not None:
            yield match[1], _ARRAY.findall(match[2])


def _size(dtype: str, dims: str) -> float:
    """Bytes; the first number in a dtype's name is its bits: s4, bf16, f8e4m3fn, c64."""
    bits = 8 if dtype == "pred" else int(re.findall(r"\d+", dtype)[0])
    return bits / 8 * math.prod(int(d) for d in dims.split(",") if d)
