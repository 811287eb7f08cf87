"""Integers and fixed point: evenly spaced values."""

from __future__ import annotations

import builtins
import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Int:
    """Integers of `bits` bits; a symmetric signed format leaves out the most negative one."""

    bits: int
    signed: bool = True
    symmetric: bool = False

    def __post_init__(self) -> None:
        if not 1 + self.signed <= self.bits <= 24:
            raise ValueError(f"bits must be {1 + self.signed} to 24, not {self.bits}")
        if self.symmetric and not self.signed:
            raise ValueError("an unsigned format cannot be symmetric")

    @property
    def name(self) -> str:
        """int8, uint8, int8sym."""
        return f"{'' if self.signed else 'u'}int{self.bits}{'sym' if self.symmetric else ''}"

    @property
    def step(self) -> float:
        """The distance between neighbours."""
        return 1.0

    @property
    def max(self) -> float:
        """The largest value."""
        return float(2 ** (self.bits - self.signed) - 1)

    @property
    def min(self) -> float:
        """The smallest value."""
        return -self.max - (not self.symmetric) if self.signed else 0.0

    @property
    def num_codes(self) -> int:
        """How many values there are."""
        return int(self.max - self.min) + 1

    @property
    def values(self) -> np.ndarray:
        """All values, ascending, float64."""
        return np.arange(self.min, self.max + 1)


@dataclasses.dataclass(frozen=True)
class Fixed:
    """Two's complement with `int` bits before the point (the sign included) and `frac` after."""

    int: builtins.int
    frac: builtins.int

    def __post_init__(self) -> None:
        if self.int < 1 or self.frac < 0 or self.bits > 24:
            raise ValueError(
                f"fixed{self.int}.{self.frac} needs at least 1 bit before the point, none"
                " negative after it, and at most 24 together"
            )

    @property
    def name(self) -> str:
        """fixed4.4."""
        return f"fixed{self.int}.{self.frac}"

    @property
    def bits(self) -> builtins.int:
        """Width of a code."""
        return self.int + self.frac

    @property
    def step(self) -> float:
        """The distance between neighbours."""
        return 2.0**-self.frac

    @property
    def max(self) -> float:
        """The largest value."""
        return 2.0 ** (self.int - 1) - self.step

    @property
    def min(self) -> float:
        """The smallest value."""
        return -(2.0 ** (self.int - 1))

    @property
    def num_codes(self) -> builtins.int:
        """How many values there are."""
        return 2**self.bits

    @property
    def values(self) -> np.ndarray:
        """All values, ascending, float64."""
        return np.arange(self.num_codes) * self.step + self.min
