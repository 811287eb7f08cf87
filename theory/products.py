"""Laws of a product p of two GEMM operands: what an accumulator adds.

Continuous laws give partial moments E[p^k 1{p <= x}], from which `chain.py` reads exact
transition probabilities; discrete ones list their atoms.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from scipy.special import ndtr

from qtrain import formats


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """Normal with standard deviation `std` > 0."""

    std: float = 1.0
    mean: float = 0.0

    @property
    def variance(self) -> float:
        """Var p."""
        return self.std**2

    @property
    def support(self) -> tuple[float, float]:
        """All but 1e-28 of the mass: 11 standard deviations."""
        return self.mean - 11 * self.std, self.mean + 11 * self.std

    def partial_moments(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """E[p^k 1{p <= x}] for k = 0, 1, 2; each in the shape of x."""
        z = (x - self.mean) / self.std
        below, density = ndtr(z), np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
        second = (self.mean**2 + self.std**2) * below - self.std * (self.mean + x) * density
        return below, self.mean * below - self.std * density, second


@dataclasses.dataclass(frozen=True)
class Uniform:
    """Uniform on mean +- sqrt(3) std; the FP8 paper's Fig. 3(b) has mean = std = 1."""

    mean: float = 0.0
    std: float = 1.0

    @property
    def variance(self) -> float:
        """Var p."""
        return self.std**2

    @property
    def support(self) -> tuple[float, float]:
        """The interval's ends."""
        return self.mean - np.sqrt(3) * self.std, self.mean + np.sqrt(3) * self.std

    def partial_moments(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """E[p^k 1{p <= x}] for k = 0, 1, 2; each in the shape of x."""
        low, high = self.support
        x = np.clip(x, low, high)
        return tuple((x**k - low**k) / (k * (high - low)) for k in (1, 2, 3))


@dataclasses.dataclass(frozen=True, eq=False)
class Discrete:
    """Finitely many values (ascending) with their probabilities; float64 arrays (K,).

    `first` is E[exact 1{p = value}], where each value stands for an exact quantity that it
    may differ from (the sum of a chunk, before its rounding); None: p itself.
    `second` is E[exact^2]; None: E[p^2].
    """

    values: np.ndarray
    probs: np.ndarray
    first: np.ndarray | None = None
    second: float | None = None

    @property
    def exact_first(self) -> np.ndarray:
        """E[exact 1{p = value}], (K,)."""
        return self.values * self.probs if self.first is None else self.first

    @property
    def exact_moments(self) -> tuple[float, float]:
        """Mean and variance of the exact quantity."""
        mean = float(self.exact_first.sum())
        second = float(self.probs @ self.values**2) if self.second is None else self.second
        return mean, second - mean**2

    @functools.cached_property
    def mean(self) -> float:
        """E p."""
        return float(self.probs @ self.values)

    @functools.cached_property
    def variance(self) -> float:
        """Var p."""
        return float(self.probs @ (self.values - self.mean) ** 2)

    @property
    def std(self) -> float:
        """Standard deviation of p."""
        return float(np.sqrt(self.variance))

    @property
    def support(self) -> tuple[float, float]:
        """The outermost values."""
        return float(self.values[0]), float(self.values[-1])


@dataclasses.dataclass(frozen=True)
class Sparse:
    """A continuous law with probability `nzr`, else exactly 0; see `sparse`."""

    base: Gaussian | Uniform
    nzr: float

    @property
    def mean(self) -> float:
        """E p."""
        return self.nzr * self.base.mean

    @property
    def variance(self) -> float:
        """Var p."""
        return self.nzr * (self.base.variance + self.base.mean**2) - self.mean**2

    @property
    def std(self) -> float:
        """Standard deviation of p."""
        return float(np.sqrt(self.variance))

    @property
    def support(self) -> tuple[float, float]:
        """That of the non-zero products, with 0."""
        return min(self.base.support[0], 0.0), max(self.base.support[1], 0.0)


@dataclasses.dataclass(frozen=True)
class Gridded:
    """A normal law on the grid of a float with `man` mantissa bits: what a chunk's sum is like.

    Only `scaling` uses it: its coarse grid spares a truncating sum a part of its loss.
    """

    base: Gaussian
    man: int

    @property
    def mean(self) -> float:
        """E p."""
        return self.base.mean

    @property
    def std(self) -> float:
        """Standard deviation of p."""
        return self.base.std

    @property
    def variance(self) -> float:
        """Var p."""
        return self.base.variance

    @property
    def support(self) -> tuple[float, float]:
        """That of the normal law."""
        return self.base.support

    def mean_spacing(self, ulp: float) -> tuple[float, float, float]:
        """E[m], E[m sign p] and E[m |p|] of m = min(q, ulp), q the spacing of the grid at p."""
        top = np.ceil(np.log2(max(map(abs, self.support))))
        edges = np.exp2(np.arange(top - 40, top + 1))
        m = np.minimum(edges[:-1] * 2.0**-self.man, ulp)
        above, below = self.base.partial_moments(edges), self.base.partial_moments(-edges)
        right = np.diff(above[0]) @ m
        left = -(np.diff(below[0]) @ m)  # P(-b < p <= -a) = F(-a) - F(-b)
        size = (np.diff(above[1]) + np.diff(below[1])) @ m
        return float(right + left), float(right - left), float(size)


Law = Gaussian | Uniform | Discrete | Sparse | Gridded


def is_symmetric(law: Law) -> bool:
    """Whether p and -p have the same law (to 1e-12)."""
    if not isinstance(law, Discrete):
        return law.mean == 0
    same = np.array_equal(law.values, -law.values[::-1])
    return same and np.allclose(law.probs, law.probs[::-1], rtol=1e-12, atol=0)


def discrete(values, probs) -> Discrete:
    """Atoms in any order; equal values are merged, improbable ones (below 1e-30) dropped.

    Raises:
      ValueError: a probability is negative, or they do not sum to 1 within 1e-9.
    """
    values, probs = np.ravel(values).astype(float) + 0.0, np.ravel(probs).astype(float)
    if (probs < 0).any() or abs(probs.sum() - 1) > 1e-9:
        raise ValueError(f"probabilities must be at least 0 and sum to 1, not {probs.sum()}")
    values, index = np.unique(values, return_inverse=True)
    probs = np.bincount(index, weights=probs)
    kept = probs > 1e-30
    return Discrete(values[kept], probs[kept])


def rounded_gaussian(fmt, std: float = 1.0, scale: float = 1.0, mean: float = 0.0) -> Discrete:
    """The law of scale * fmt(x / scale), x normal, rounded to nearest and saturating.

    fmt: a format or its name; `scale` is what one unit of it stands for (for int8, the step).
    """
    grid = formats.get(fmt).values * scale
    edges = np.concatenate([[-np.inf], (grid[1:] + grid[:-1]) / 2, [np.inf]])
    z = (edges - mean) / std
    upper = z[:-1] > 0  # differences in the upper tail are taken there, without cancellation
    probs = np.where(upper, ndtr(-z[:-1]) - ndtr(-z[1:]), ndtr(z[1:]) - ndtr(z[:-1]))
    return discrete(grid, probs)


def product_of(a: Discrete, b: Discrete) -> Discrete:
    """The law of the product of two independent discrete operands, exact in float64."""
    return discrete(np.outer(a.values, b.values), np.outer(a.probs, b.probs))


def gaussian_products(
    fmt_a, fmt_b, std_a: float = 1.0, std_b: float = 1.0, scale_a: float = 1.0, scale_b: float = 1.0
) -> Discrete:
    """The law of a b for independent zero-mean Gaussian operands rounded to two formats.

    Args:
      fmt_a, fmt_b: names such as "e5m2" or "int8". scale_a, scale_b: value of one unit of the
        format (powers of two keep products exact); operands beyond the range saturate.
    """
    a = rounded_gaussian(fmt_a, std_a, scale_a)
    return product_of(a, rounded_gaussian(fmt_b, std_b, scale_b))


def sparse(law: Law, nzr: float) -> Law:
    """Products that are non-zero with probability `nzr` in (0, 1], else exactly 0.

    `nzr` multiplies the probability of each value of `law`: the non-zero ratio of
    [sakr2019accumulation, Sec. 4], if `law` itself has no mass at 0.
    """
    if not 0 < nzr <= 1:
        raise ValueError(f"the non-zero ratio must be in (0, 1], not {nzr}")
    if nzr == 1:
        return law
    if isinstance(law, Discrete):
        return discrete(np.append(law.values, 0.0), np.append(law.probs * nzr, 1 - nzr))
    if isinstance(law, Sparse):
        return Sparse(law.base, law.nzr * nzr)
    return Sparse(law, nzr)
