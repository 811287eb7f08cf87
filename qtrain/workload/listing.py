"""The list of a function's GEMMs: totals, lengths by layer, and a table to print."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import overload

from qtrain.workload.gemm import Gemm, Opaque

COLUMNS = ("layer", "role", "count", "batch", "m", "n", "k", "GFLOP", "MB", "source", "notes")
_NONZERO = ("lhs != 0", "rhs != 0", "product != 0")


@dataclasses.dataclass(frozen=True)
class Workload(Sequence[Gemm]):
    """The GEMMs of a function in the order in which it runs them."""

    gemms: tuple[Gemm, ...]
    opaque: tuple[Opaque, ...] = ()  # kernels and foreign calls, whose GEMMs are not listed
    name: str = ""  # of the function

    @overload
    def __getitem__(self, index: int) -> Gemm: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Gemm, ...]: ...
    def __getitem__(self, index):
        return self.gemms[index]

    def __len__(self) -> int:
        return len(self.gemms)

    def __iter__(self) -> Iterator[Gemm]:
        return iter(self.gemms)

    @property
    def flops(self) -> int:
        """Multiplications and additions of all GEMMs, loops counted."""
        return sum(g.flops * g.count for g in self.gemms)

    @property
    def bytes(self) -> int:
        """Operands read and results written by all GEMMs, loops counted."""
        return sum(g.bytes * g.count for g in self.gemms)

    def role(self, role: str) -> tuple[Gemm, ...]:
        """The GEMMs of one role."""
        return tuple(g for g in self.gemms if g.role == role)

    def layers(self) -> dict[int, tuple[Gemm, ...]]:
        """GEMMs by `Gemm.layer`; those of unknown layer are left out."""
        found: dict[int, tuple[Gemm, ...]] = {}
        for gemm in self.gemms:
            if gemm.layer >= 0:
                found[gemm.layer] = (*found.get(gemm.layer, ()), gemm)
        return dict(sorted(found.items()))

    def lengths(self) -> dict[str, dict[str, int]]:
        """Length of accumulation by name of the layer and role, in order of execution.

        The longest where a name or role occurs more than once.
        """
        found: dict[str, dict[str, int]] = {}
        for gemms in self.layers().values():
            roles = found.setdefault(gemms[0].name, {})
            for g in gemms:
                roles[g.role] = max(g.k, roles.get(g.role, 0))
        return found

    def rows(self) -> list[tuple[str, ...]]:
        """The table's lines, the header first; columns of ratios only where some were measured."""
        measured = any(g.nonzero is not None for g in self.gemms)
        return [COLUMNS + _NONZERO if measured else COLUMNS] + [
            _cells(g) + (_ratios(g) if measured else ()) for g in self.gemms
        ]

    def __str__(self) -> str:
        rows = self.rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.rjust(width) if _is_number(name) else cell.ljust(width)
                for cell, width, name in zip(row, widths, rows[0], strict=True)
            ).rstrip()
            for row in rows
        ]
        return "\n".join([*lines, self._total(), *map(_hidden, self.opaque)])

    def __rich__(self):
        """The same table for `rich.print`."""
        from rich.table import Table

        header, *rows = self.rows()
        table = Table(
            title=self.name, caption="\n".join([self._total(), *map(_hidden, self.opaque)])
        )
        for name in header:
            table.add_column(name, justify="right" if _is_number(name) else "left")
        for row in rows:
            table.add_row(*row)
        return table

    def _total(self) -> str:
        total = f"{len(self)} GEMMs, {self.flops / 1e9:,.3f} GFLOP, {self.bytes / 1e6:,.3f} MB"
        if any("while" in g.notes for g in self.gemms):
            total += "; those marked `while` once, their number of iterations being unknown"
        return total


def _is_number(column: str) -> bool:
    return column not in ("layer", "role", "source", "notes")


def _cells(g: Gemm) -> tuple[str, ...]:
    return (
        g.name, g.role, str(g.count), str(g.batch * g.groups), str(g.m), str(g.n), str(g.k),
        f"{g.flops * g.count / 1e9:.3f}", f"{g.bytes * g.count / 1e6:.3f}",
        g.source, ", ".join(g.notes),
    )  # fmt: skip


def _ratios(g: Gemm) -> tuple[str, ...]:
    if g.nonzero is None:
        return ("", "", "")
    return tuple(f"{r:.4f}" for r in (g.nonzero.lhs, g.nonzero.rhs, g.nonzero.product))


def _hidden(call: Opaque) -> str:
    where = ", ".join(part for part in (call.path, call.source) if part)
    return f"not seen into: {call.primitive} {call.name} x {call.count} ({where})"
