"""Laws of a tensor's elements: symmetric about 0, unit variance, Gaussian to extremely peaked.

What an integral over a quantizer's cells needs of them. Two families, each with any kurtosis
E[W^4] / E[W^2]^2 above 1.8 or 1, so that a measured tensor can be placed between their answers.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import gamma, gammaincc, gammainccinv, ndtr, ndtri

LEAST_SHAPE, GREATEST_SHAPE = 0.1, 100.0


class Law(Protocol):
    """A law by the tail of its magnitude |W|."""

    @property
    def kurtosis(self) -> float:
        """E[W^4], the variance being 1."""
        ...

    def tail(self, x: np.ndarray) -> np.ndarray:
        """E[|W|^k; |W| > x] for k = 0, 1, 2, of shape (3, *x.shape); x >= 0, infinity too."""
        ...

    def magnitude(self, p: np.ndarray) -> np.ndarray:
        """What |W| exceeds with probability p in (0, 1]."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneralizedGaussian:
    """Density proportional to exp(-|x/a|^shape): 2 is Gaussian, 1 Laplace, less is more peaked.

    Raises:
      ValueError: shape outside 0.1..100.
    """

    shape: float = 2.0

    def __post_init__(self):
        if not LEAST_SHAPE <= self.shape <= GREATEST_SHAPE:
            raise ValueError(f"shape = {self.shape!r}: 0.1 to 100 (2 Gaussian, 1 Laplace)")

    @property
    def kurtosis(self) -> float:
        """Gamma(5/b) Gamma(1/b) / Gamma(3/b)^2: 3 for Gaussian, 6 for Laplace."""
        b = self.shape
        return float(gamma(5 / b) * gamma(1 / b) / gamma(3 / b) ** 2)

    def tail(self, x: np.ndarray) -> np.ndarray:
        """As in `Law`: a^k Gamma((k+1)/b) / Gamma(1/b) times a regularized upper gamma function."""
        power = (np.asarray(x) / self._scale) ** self.shape
        orders = [(k + 1) / self.shape for k in range(3)]
        factors = [self._scale**k * gamma(o) / gamma(orders[0]) for k, o in enumerate(orders)]
        return np.stack([f * gammaincc(o, power) for f, o in zip(factors, orders, strict=True)])

    def magnitude(self, p: np.ndarray) -> np.ndarray:
        """As in `Law`."""
        return self._scale * gammainccinv(1 / self.shape, p) ** (1 / self.shape)

    @property
    def _scale(self) -> float:
        return math.sqrt(gamma(1 / self.shape) / gamma(3 / self.shape))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogNormal:
    """A random sign times exp(spread Z - spread^2), Z ~ N(0, 1): magnitudes over many binades.

    Raises:
      ValueError: spread outside 0.01..4.
    """

    spread: float

    def __post_init__(self):
        if not 0.01 <= self.spread <= 4:
            raise ValueError(f"spread = {self.spread!r}: 0.01 to 4, in natural logarithms of |W|")

    @property
    def kurtosis(self) -> float:
        """exp(4 spread^2)."""
        return math.exp(4 * self.spread**2)

    def tail(self, x: np.ndarray) -> np.ndarray:
        """As in `Law`: E[|W|^k] Q(z - k spread), z the standardized ln x."""
        s = self.spread
        with np.errstate(divide="ignore"):  # ln 0 = -inf: everything lies above
            z = (np.log(x) + s**2) / s
        return np.stack([math.exp((k**2 / 2 - k) * s**2) * ndtr(k * s - z) for k in range(3)])

    def magnitude(self, p: np.ndarray) -> np.ndarray:
        """As in `Law`."""
        return np.exp(-self.spread * ndtri(p) - self.spread**2)


GAUSSIAN = GeneralizedGaussian(shape=2)
LAPLACE = GeneralizedGaussian(shape=1)


def moments(law: Law, x: ArrayLike) -> np.ndarray:
    """E[W^k; W <= x] for k = 0, 1, 2: float64 of shape (3, *x.shape); x may be infinite."""
    x = np.asarray(x, dtype=np.float64)
    half = law.tail(np.abs(x)) / 2
    total = np.array([1.0, 0.0, 1.0]).reshape(3, *[1] * x.ndim)
    odd = np.array([1.0, -1.0, 1.0]).reshape(total.shape)
    return np.where(x < 0, odd * half, total - half)


def upper_quantile(law: Law, p: ArrayLike) -> np.ndarray:
    """What W exceeds with probability p in (0, 1), accurate for the smallest p."""
    p = np.asarray(p, dtype=np.float64)
    size = law.magnitude(2 * np.minimum(p, 1 - p))
    return np.where(p <= 0.5, size, -size)


def generalized_gaussian(kurtosis: float) -> GeneralizedGaussian:
    """The member of the family with that kurtosis.

    Raises:
      ValueError: kurtosis below 1.81, almost uniform, or above that of shape 0.1, 7.8e7.
    """
    least, most = (GeneralizedGaussian(shape=b).kurtosis for b in (GREATEST_SHAPE, LEAST_SHAPE))
    if not least <= kurtosis <= most:
        raise ValueError(f"kurtosis = {kurtosis!r}: this family has {least:.4g} to {most:.3g}")

    def excess(log_shape: float) -> float:
        return math.log(GeneralizedGaussian(shape=math.exp(log_shape)).kurtosis / kurtosis)

    ends = math.log(LEAST_SHAPE) + 1e-12, math.log(GREATEST_SHAPE) - 1e-12
    return GeneralizedGaussian(shape=math.exp(brentq(excess, *ends, xtol=1e-14)))


def log_normal(kurtosis: float) -> LogNormal:
    """The member of the family with that kurtosis: spread sqrt(ln kurtosis) / 2.

    Raises:
      ValueError: kurtosis not above 1, or that of a spread outside its range.
    """
    if not kurtosis > 1:
        raise ValueError(f"kurtosis = {kurtosis!r}: only that of equal magnitudes is 1 or less")
    return LogNormal(spread=math.sqrt(math.log(kurtosis)) / 2)


def kurtosis(w: ArrayLike) -> float:
    """Mean of w^4 over the square of the mean of w^2, about 0, as the laws are.

    Raises:
      ValueError: no elements, all zero, or not finite.
    """
    w = np.asarray(w, dtype=np.float64)
    largest = np.abs(w).max(initial=0.0)
    if not 0 < largest < math.inf:
        raise ValueError(f"largest magnitude {largest}: kurtosis needs finite elements, not all 0")
    square = (w / largest) ** 2  # neither overflows nor underflows
    return float(np.mean(square**2) / np.mean(square) ** 2)
