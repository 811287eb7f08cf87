"""Binary floating point: a sign, `exp` exponent bits, `man` stored significand bits.

Everything else follows from those two, a bias, and what the top codes mean. `decode` is the
specification: the value of every code [ieee754-2019, Sec. 3.4; ocp2023ofp8; p3109].
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Literal

import numpy as np

Top = Literal["ieee", "fn", "fnuz", "finite"]


@dataclasses.dataclass(frozen=True)
class Float:
    """A signed float format with gradual underflow unless `subnormals` is off.

    top, what the largest codes mean:
      ieee    the all-ones exponent is infinity and NaN
      fn      only the all-ones code is NaN; no infinity [ocp2023ofp8, E4M3]
      fnuz    NaN sits where -0 would be; no infinity, no negative zero
      finite  every code is a number
    saturate: values beyond the largest become the largest (infinity too), whatever `top` says.

    Not here: float8_e8m0fnu, the format of a block's scale [ocp2023mx], which has neither a sign
    nor a zero (`e8m0` has both). Its values are those of `Scale(method="power_of_two")`, and
    2^-127 and 2^127, which lie beyond the scales that one gives.
    """

    exp: int
    man: int
    bias: int | None = None  # exponent offset; None: 2^(exp-1) - 1, one more for fnuz
    subnormals: bool = True
    top: Top = "ieee"
    saturate: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.exp <= 8:
            raise ValueError(f"exp must be 2 to 8 bits, not {self.exp}")
        if not 0 <= self.man <= 23:
            raise ValueError(f"man must be 0 to 23 bits, not {self.man}")
        if self.top not in ("ieee", "fn", "fnuz", "finite"):
            raise ValueError(f"top must be ieee, fn, fnuz or finite, not {self.top!r}")
        if self.top == "fn" and self.exp + self.man < 3:
            raise ValueError(
                f"{self.exp}+{self.man} bits leave no number beside the NaN: use finite"
            )
        if self.bias == self._default_bias:  # one object per format: equal ones hash alike
            object.__setattr__(self, "bias", None)
        if self.emax > 127 or self.emin - self.man < -149:
            raise ValueError(
                f"{self.name} reaches from 2^{self.emin - self.man} to 2^{self.emax}, beyond"
                " float32, which carries all values here: choose a bias nearer the default"
            )

    @property
    def _default_bias(self) -> int:
        return 2 ** (self.exp - 1) - (self.top != "fnuz")

    @property
    def bias_value(self) -> int:
        """The exponent offset in force."""
        return self._default_bias if self.bias is None else self.bias

    @property
    def name(self) -> str:
        """e{exp}m{man}[b{bias}][fn|fnuz|finite][ftz][sat]; `get` reads it back."""
        parts = [f"e{self.exp}m{self.man}", "" if self.bias is None else f"b{self.bias}"]
        parts += ["" if self.top == "ieee" else self.top, "" if self.subnormals else "ftz"]
        return "".join(parts) + ("sat" if self.saturate else "")

    @property
    def bits(self) -> int:
        """Width of a code."""
        return 1 + self.exp + self.man

    @property
    def precision(self) -> int:
        """Significand bits with the hidden one."""
        return self.man + 1

    @property
    def emin(self) -> int:
        """Exponent of the smallest normal value."""
        return 1 - self.bias_value

    @property
    def emax(self) -> int:
        """Exponent of the largest value."""
        return math.frexp(self.max)[1] - 1

    @property
    def _largest_code(self) -> int:
        codes = 1 << (self.exp + self.man)
        if self.top == "ieee":
            return codes - (1 << self.man) - 1
        return codes - (2 if self.top == "fn" else 1)

    @functools.cached_property
    def max(self) -> float:
        """The largest finite value."""
        return self._magnitude(self._largest_code)

    @property
    def min_normal(self) -> float:
        """The smallest positive normal value."""
        return 2.0**self.emin

    @property
    def min_subnormal(self) -> float:
        """The smallest positive value; equal to min_normal where there are no subnormals."""
        return 2.0 ** (self.emin - self.man) if self.subnormals and self.man else self.min_normal

    @property
    def eps(self) -> float:
        """The distance from 1 to the next value."""
        return 2.0**-self.man

    @property
    def overflow(self) -> Literal["inf", "nan", "saturate"]:
        """What a value beyond the largest becomes."""
        if self.saturate or self.top == "finite":
            return "saturate"
        return "inf" if self.top == "ieee" else "nan"

    @property
    def num_codes(self) -> int:
        """How many codes there are, numbers or not."""
        return 1 << self.bits

    def _magnitude(self, code: int) -> float:
        field, fraction = divmod(code, 1 << self.man)
        if field == 0:
            return math.ldexp(fraction if self.subnormals else 0, self.emin - self.man)
        return math.ldexp((1 << self.man) + fraction, field - self.bias_value - self.man)

    def decode(self, code: int) -> float:
        """The value of a code, a non-negative integer of `bits` bits."""
        if not 0 <= code < self.num_codes:
            raise ValueError(f"{self.name} has the codes 0 to {self.num_codes - 1}, not {code}")
        negative, magnitude = divmod(code, self.num_codes // 2)
        if self.top == "fnuz" and negative and magnitude == 0:
            return math.nan
        if magnitude > self._largest_code:
            infinite = self.top == "ieee" and magnitude == self._largest_code + 1
            return (-math.inf if negative else math.inf) if infinite else math.nan
        return math.copysign(self._magnitude(magnitude), -1 if negative else 1)

    @property
    def values(self) -> np.ndarray:
        """All finite values, ascending, float64; a zero of either sign counts once."""
        if self.bits > 20:
            raise ValueError(f"{self.name} has {self.num_codes} codes: too many to list")
        positive = {self._magnitude(code) for code in range(self._largest_code + 1)}
        return np.array(sorted({-v for v in positive} | positive)) + 0.0
