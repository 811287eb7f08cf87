"""Arrays of few distinct values as packed codes: bit for bit, in the smallest of a few forms.

    plain     the array itself, of any type
    table     code c of group g stands for levels[g, c]
    scale     for scale[g] j, with the integer j = c + first, rounded to float32
    affine    for scale[g] j + offset[g], each operation rounded to float32

A group is the whole array, or an index of its last axis: an output channel of an nnx kernel.
Where -0 occurs, which no multiple of a scale is, the code after the last integer stands for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import numpy as np

from qtrain.export.grid import fit

Form = Literal["plain", "table", "scale", "affine"]
MOST = 2**8  # levels of a group


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Coded:
    """An array in one of the forms; `arrays` is what a file holds of it."""

    form: Form
    shape: tuple[int, ...]
    bits: int  # of a code, or of a value
    groups: int  # 1, or the length of the last axis
    arrays: Mapping[str, np.ndarray]
    first: int = 0  # least integer
    minus_zero: int | None = None  # its code

    @property
    def nbytes(self) -> int:
        """Size of all that `arrays` holds."""
        return sum(array.nbytes for array in self.arrays.values())


def plain(x: np.ndarray) -> Coded:
    """The array as it is.

    Raises:
      ValueError: a value is NaN.
    """
    x = np.asarray(x)
    if np.issubdtype(x.dtype, np.floating) and np.isnan(x).any():
        raise ValueError(f"{int(np.isnan(x).sum())} of {x.size} values are NaN")
    return Coded(form="plain", shape=x.shape, bits=8 * x.itemsize, groups=1, arrays={"values": x})


def encode(x: np.ndarray) -> Coded:
    """The smallest form of a float32 array that `decode` makes the same bits of.

    Raises:
      ValueError: another type, or a value is NaN.
    """
    if x.dtype != np.float32:
        raise ValueError(f"only float32 arrays can be coded, not {x.dtype}")
    wide = plain(x)
    groups = dict.fromkeys((1, *x.shape[-1:])) if x.size else ()
    plans = [plan for each in groups for plan in _plans(x.reshape(-1, each).T, x.size)]
    best = min(plans, key=lambda plan: plan.nbytes, default=None)
    return wide if best is None or best.nbytes >= wide.nbytes else best.carried_out(x)


def decode(coded: Coded) -> np.ndarray:
    """The array that was encoded.

    Raises:
      ValueError: the arrays are not those of such a form.
    """
    if coded.form == "plain":
        return coded.arrays["values"]
    size = int(np.prod(coded.shape, dtype=np.int64))
    packed = _expect(coded, "codes", (packed_size(size, coded.bits),), np.uint8)
    codes = unpack(packed, coded.bits, size).reshape(-1, coded.groups)
    if coded.form == "table":
        levels = coded.arrays["levels"]
        _expect(coded, "levels", (coded.groups, *levels.shape[1:2]), np.float32)
        if codes.max(initial=0) >= levels.shape[1]:
            raise ValueError(f"code {codes.max()} of a table of {levels.shape[1]} levels")
        return levels[np.arange(coded.groups), codes].reshape(coded.shape)
    scale = _expect(coded, "scale", (coded.groups,), np.float32)
    with np.errstate(over="ignore"):  # where a code stands for -0
        values = scale * (codes.astype(np.int32) + coded.first).astype(np.float32)
    if coded.form == "affine":
        values = values + _expect(coded, "offset", (coded.groups,), np.float32)
    if coded.minus_zero is not None:
        values = np.where(codes == coded.minus_zero, np.float32(-0.0), values)
    return values.reshape(coded.shape)


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes below 2^bits, of 1 to 8 bits, one after the other: uint8 (packed_size,).

    The first code is in the lowest bits of the first byte; bits that are left over are zero.
    Denser than `wire.pack`, whose codes do not cross words: these are not for arithmetic.
    """
    each = np.unpackbits(codes.astype(np.uint8).reshape(-1, 1), axis=1, bitorder="little")
    return np.packbits(each[:, :bits], bitorder="little")


def unpack(packed: np.ndarray, bits: int, size: int) -> np.ndarray:
    """The `size` codes, uint8, that `pack` was given."""
    each = np.unpackbits(packed, count=size * bits, bitorder="little").reshape(size, bits)
    return np.packbits(each, axis=1, bitorder="little").reshape(-1)


def packed_size(size: int, bits: int) -> int:
    """Bytes of so many packed codes."""
    return -(-size * bits // 8)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Plan:
    """A form that an array can have."""

    form: Form
    size: int  # of the array
    levels: np.ndarray  # (groups, n)
    codes: np.ndarray  # of the levels
    arrays: Mapping[str, np.ndarray]
    first: int = 0
    minus_zero: int | None = None

    @property
    def bits(self) -> int:
        return max(1, int(self.codes.max()).bit_length())

    @property
    def nbytes(self) -> int:
        arrays = sum(array.nbytes for array in self.arrays.values())
        return packed_size(self.size, self.bits) + arrays

    def carried_out(self, x: np.ndarray) -> Coded:
        """The array in this form."""
        groups = len(self.levels)
        keys, rows = _ordered(self.levels), _ordered(x.reshape(-1, groups).T)
        chosen = [c[np.searchsorted(k, r)] for c, k, r in zip(self.codes, keys, rows, strict=True)]
        return Coded(
            form=self.form, shape=x.shape, bits=self.bits, groups=groups,
            arrays={"codes": pack(np.stack(chosen, axis=1), self.bits), **self.arrays},
            first=self.first, minus_zero=self.minus_zero,
        )  # fmt: skip


def _plans(rows: np.ndarray, size: int) -> list[_Plan]:
    """Every form that is possible for the groups (groups, values of a group)."""
    levels = _levels(rows)
    if levels is None:
        return []
    index = np.broadcast_to(np.arange(levels.shape[1]), levels.shape)
    base = _Plan(form="table", size=size, levels=levels, codes=index, arrays={"levels": levels})
    plans, negative = [base], levels.view(np.uint32) == 0x80000000
    for form in ("scale", "affine"):
        if (grid := fit(levels, offset=form == "affine")) is not None:
            count = int(grid.codes.max()) + 1
            codes = np.where(negative, count, grid.codes)
            plan = dataclasses.replace(
                base, form=form, codes=codes, arrays=grid.arrays, first=grid.first,
                minus_zero=count if negative.any() else None,
            )  # fmt: skip
            plans += [plan] if codes.max() < MOST else []
    return plans


def _levels(rows: np.ndarray) -> np.ndarray | None:
    """Distinct values of each row, sorted; short rows repeat their last. None if too many."""
    found: list[np.ndarray] = []
    for row in rows:
        if len(_distinct(row[: 4 * MOST])) > MOST:  # most rows of wide weights need no more
            return None
        found.append(_distinct(row))
        if len(found[-1]) > MOST:
            return None
    most = max(map(len, found))
    padded = [np.pad(level, (0, most - len(level)), mode="edge") for level in found]
    return _unordered(np.stack(padded))


def _distinct(row: np.ndarray) -> np.ndarray:
    """Each bit pattern once, as ordered keys."""
    keys = np.sort(_ordered(row))
    return keys[np.append(True, keys[1:] != keys[:-1])]


def _ordered(x: np.ndarray) -> np.ndarray:
    """Float32 as int64 in the same order, -0 before +0."""
    bits = np.ascontiguousarray(x).view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF) - 1, bits)


def _unordered(keys: np.ndarray) -> np.ndarray:
    bits = np.where(keys < 0, (-(keys + 1)) | 0x80000000, keys)
    return bits.astype(np.uint32).view(np.float32)


def _expect(coded: Coded, name: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    array = coded.arrays[name]
    if array.shape != tuple(shape) or array.dtype != dtype:
        raise ValueError(f"{name}: {array.dtype} {array.shape} where {shape} is needed")
    return array
