"""Formats that list their values: binary, ternary, powers of two, or any levels."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Codebook:
    """A finite set of float32 values, ascending."""

    levels: tuple[float, ...]

    def __post_init__(self) -> None:
        levels = tuple(float(v) for v in self.levels)
        if len(levels) < 2 or any(a >= b for a, b in itertools.pairwise(levels)):
            raise ValueError(f"levels must be two or more, ascending: {self.levels}")
        if not all(math.isfinite(v) and float(np.float32(v)) == v for v in levels):
            raise ValueError(f"levels must be finite float32 values: {self.levels}")
        object.__setattr__(self, "levels", levels)

    @property
    def name(self) -> str:
        """binary, ternary, pow2.{bits}, or codebook[...] with every level."""
        for name, levels in (("binary", BINARY), ("ternary", TERNARY)):
            if self.levels == levels:
                return name
        if self.levels == power_levels(bits := self.bits):
            return f"pow2.{bits}"
        return f"codebook[{','.join(map(repr, self.levels))}]"

    @property
    def bits(self) -> int:
        """Width of a code."""
        return (len(self.levels) - 1).bit_length()

    @property
    def max(self) -> float:
        """The largest value."""
        return self.levels[-1]

    @property
    def min(self) -> float:
        """The smallest value."""
        return self.levels[0]

    @property
    def num_codes(self) -> int:
        """How many values there are."""
        return len(self.levels)

    @property
    def values(self) -> np.ndarray:
        """All values, ascending, float64."""
        return np.array(self.levels)


def power_levels(bits: int) -> tuple[float, ...]:
    """0 and +-2^-i for the 2^(bits-1) - 1 largest magnitudes up to 1."""
    powers = [2.0**-i for i in range(2 ** (bits - 1) - 1)]
    return (*(-p for p in powers), 0.0, *reversed(powers))


BINARY = (-1.0, 1.0)
TERNARY = (-1.0, 0.0, 1.0)
