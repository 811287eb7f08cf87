"""Worst-case error and drift of the fused dot-add of tensor cores [xie2025mmasim].

One addition takes L products and the running sum c. Each loses what lies below u = 2^(e - F), e
the largest exponent among them, and the exact sum of the rest is truncated to F fraction bits.
The exact law of its error for random operands is in `tensor_core_law`.

From the definition alone:
  magnitude  truncation shrinks, so |result| <= |c| + sum |p_k|.
  one group  each product loses less than u, and c too if a product has the largest exponent. If
             products have at most F fraction bits, the one with the largest exponent loses
             nothing: L products or fewer addends lose, together less than L u. The result v
             loses less than 2^(e(v) - F) <= 2^-F |v|.
  chain      u <= 2^-F max(A, E), where A = sum |p_k| over all K and E the largest 2^(e_k): over
             G = ceil(K / L) groups, the error is below 2^-F (K max(A, E) + G A).
  promoted   each chunk of N products errs like a chain of length N, whatever K is.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from fractions import Fraction

from qtrain import formats
from theory.rounding_error import round_up

_FLOAT32_UNIT = Fraction(1, 2**24)


@dataclasses.dataclass(frozen=True)
class TensorCore:
    """Hopper's FP8 accumulator by default; `promoted` restarts it every 128 products
    [deepseek2024v3, Sec. 3.3.2] and adds the partial sums in float32, to nearest.

    man: F, at most 23. fused: L. operands: formats whose subnormals have exponent emin; None:
    the exponents are those of the values.
    """

    man: int = 13
    fused: int = 32
    chunk: int | None = None
    operands: tuple[str, str] | None = ("e4m3fn", "e4m3fn")

    @property
    def promoted(self) -> TensorCore:
        """The same, restarted every 128 products."""
        return dataclasses.replace(self, chunk=128)

    @property
    def lowest(self) -> int:
        """The least exponent of an alignment, as in `qtrain.ops.fused`."""
        return self.man - 126

    @property
    def product_bits(self) -> int:
        """Fraction bits of a product's significand, at most; 46 for unknown float32 operands."""
        if self.operands is None:
            return 46
        return sum(formats.get_float(name).man for name in self.operands)

    def exponents(self, a: float, b: float) -> int:
        """The exponent e of a product that is not zero."""
        emins = [formats.get_float(n).emin for n in self.operands] if self.operands else [-149] * 2
        return max(exponent(a), emins[0]) + max(exponent(b), emins[1])


def exponent(x: float | Fraction) -> int:
    """floor(log2 |x|), exact; x is not 0."""
    x = abs(Fraction(x))
    e = x.numerator.bit_length() - x.denominator.bit_length()
    return e if Fraction(2) ** e <= x else e - 1


def worst_case(
    core: TensorCore, abs_sum: float | Fraction, length: int, largest_binade: float = 0.0
) -> float:
    """Bounds |dot(a, b) - sum a_k b_k| for one output; certified, rounded up.

    Args:
      abs_sum: A = sum |a_k b_k|, or more, below 2^127; products must be exact in float32.
      length: K >= 1.
      largest_binade: E, the largest 2^(e_k) of products of which an operand is subnormal in
        `core.operands`: it may exceed A. Of other products, 2^(e_k) <= |p_k|.
    """
    total, binade = Fraction(abs_sum), Fraction(largest_binade)
    if total >= 2**127:
        return math.inf
    chunk = min(core.chunk or length, length)
    groups, chunks = -(-chunk // core.fused), -(-length // chunk)
    losing = chunk + (groups if core.product_bits > core.man else 0)
    aligned = max(total, binade) if chunks == 1 else total + chunks * binade
    error = (losing * aligned + groups * total) / 2**core.man
    error += Fraction(chunks * (losing + groups + 1), 2**126)  # u is at least 2^-126
    grown = (chunks - 1) * _FLOAT32_UNIT
    if grown >= 1:
        return math.inf
    return round_up(error + total * grown / (1 - grown))


def running_bound(core: TensorCore, a: Iterable[float], b: Iterable[float]) -> float:
    """The same bound from the operands themselves: it sees exact products and cancellation.

    The computed sum lies within the bound so far, E, of the exact one, X. So the exponent of the
    alignment is known but for that, and a product loses at most |p_k| mod u: u is a multiple of
    all smaller ones.
    """
    a, b = list(map(float, a)), list(map(float, b))
    length = core.chunk or max(len(a), 1)
    exact, error = Fraction(0), Fraction(0)
    for start in range(0, len(a), length):
        part = slice(start, start + length)
        x, e = _chain(core, a[part], b[part])
        exact += x
        error += e
        if start:  # float32, to nearest; products of subnormal size do not occur here
            error += (abs(exact) + error) * _FLOAT32_UNIT
    return round_up(error)


def _chain(core: TensorCore, a: list[float], b: list[float]) -> tuple[Fraction, Fraction]:
    """The exact sum of one chunk and a bound on its error."""
    exact, error = Fraction(0), Fraction(0)
    for k in range(0, len(a), core.fused):
        pairs = [(x, y) for x, y in zip(a[k : k + core.fused], b[k:], strict=False) if x and y]
        products = [Fraction(x) * Fraction(y) for x, y in pairs]
        heard = max([core.exponents(x, y) for x, y in pairs], default=core.lowest)
        largest, smallest = abs(exact) + error, max(abs(exact) - error, Fraction(0))
        sum_top = exponent(largest) if largest else core.lowest
        sum_low = exponent(smallest) if smallest else core.lowest
        top = max(heard, sum_top, core.lowest)
        ulp = Fraction(2) ** (top - core.man)
        error += sum((abs(p) % ulp for p in products), Fraction(0))
        if heard > sum_low:  # a product may push c's last bits out
            error += min(ulp, largest)
        exact += sum(products, Fraction(0))
        result = abs(exact) + error
        if result and exponent(result) > max(heard, sum_low, core.lowest):
            error += Fraction(2) ** (exponent(result) - core.man)
    return exact, error


def drift(length: int, mean: float, man: int) -> float:
    """(E s - K mean) / (K mean) for positive products spread evenly below u: the bias of a chain.

    A product loses u / 2 on average, u = 2^(E - F) while the sum lies in [2^E, 2^(E + 1)). With
    K mean = x 2^E, 1 <= x < 2, adding up all binades gives -K 2^-F (x - 2/3) / (2 x^2): between
    1/6 and 3/16 of K 2^-F, whatever the mean (`test_tensor_core` derives it). First order in itself
    and in L / K. Products on a coarse grid, such as those of FP8, lose less while u is finer.
    """
    scaled = length * mean
    x = scaled / 2.0 ** exponent(scaled)
    return -length * 2.0**-man * (x - 2 / 3) / (2 * x**2)


def rms(length: int, man: int) -> float:
    """Ratio of rms error to rms sum, of a chain of zero-mean products spread evenly below u.

    A product's loss has mean square u^2 / 3 and the sign of the product. With s normal of variance
    k sigma^2 and its binade spread log-uniformly, E u^2 = 4^-F k sigma^2 3 / (8 ln 2). Adding up
    k = 1 .. K gives 4^-F K^2 sigma^2 / (16 ln 2), so sqrt(K / (16 ln 2)) 2^-F relative to
    sqrt(K) sigma. It leaves out products above the sum's binade, which matter while
    k is not much larger than L, and the truncation of the result.
    """
    return 2.0**-man * math.sqrt(length / (16 * math.log(2)))
