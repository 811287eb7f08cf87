"""Distribution of the range of n Gaussians: how often Range Batch-Norm's bounds are violated.

P(range <= r) = n int phi(x) (Phi(x + r) - Phi(x))^(n-1) dx, x being the minimum; exact but for
quadrature, in forms that keep the relative accuracy of both tails.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import k1, log_ndtr, logsumexp

from theory.expected_range import (
    Constant,
    check,
    expected,
    gauss_legendre,
    part_length,
    scale_constant,
    upper,
)

LOWER, UPPER = 0.325, 2.0  # C(n) range / sigma, as printed [banner2018scalable, Range BN]

_END = 26.0  # P(range > 26) <= 2 n Q(13) < 2e-26 for n <= 2^40
_HALF_LOG_2PI = math.log(2 * math.pi) / 2


def log_cdf(r: ArrayLike, n: int) -> np.ndarray | float:
    """Logarithm of P(range <= r sigma), elementwise; of P the relative error is below
    1e-11 where P > 1e-300.

    Args:
      r: ranges in sigma, positive, any shape.
      n: number of samples, 2..2^40.

    Raises:
      ValueError: r <= 0 or NaN; n outside its range.
    """
    n = float(check(n))
    width = _positive(r)[..., None]
    # x = t - r/2, folded at t = 0, where the peak of a far too small range is 1/sqrt(n) wide.
    graded = 0.25 * 2.0 ** np.arange(-24, 0)
    edges = np.concatenate([[0.0], graded, np.arange(0.25, 22.25, 0.25)])
    t, weights = gauss_legendre(edges)
    inside = _log_inside(t - width / 2, width)
    density = np.logaddexp(_log_density(t - width / 2), _log_density(t + width / 2))
    found = logsumexp(density + (n - 1) * inside + np.log(n * weights), axis=-1)
    return np.where(_positive(r) > _END, 0.0, np.minimum(found, 0.0))[()]


def sf(r: ArrayLike, n: int) -> np.ndarray | float:
    """P(range > r sigma), elementwise: the upper tail keeps its relative accuracy.

    n int phi Q^(n-1) (1 - (1 - Q(x + r)/Q(x))^(n-1)) dx.

    Raises:
      ValueError: as `log_cdf`.
    """
    n = float(check(n))
    width = _positive(r)[..., None]
    x, weights = gauss_legendre(np.arange(-13, 9.25, 0.25))
    log_minimum = np.log(n) + _log_density(x) + (n - 1) * log_ndtr(-x)
    beyond = np.exp(log_ndtr(-x - width) - log_ndtr(-x))  # given the minimum, one sample
    with np.errstate(divide="ignore"):  # r so small that all lie beyond
        missing = -np.expm1((n - 1) * np.log1p(-beyond))
    return np.minimum((np.exp(log_minimum) * missing) @ weights, 1.0)[()]


def quantile(p: float, n: int) -> float:
    """The r with P(range <= r sigma) = p.

    Raises:
      ValueError: p outside (0, 1); n outside 2..2^40.
    """
    if not 0 < p < 1:
        raise ValueError(f"p = {p!r}: a quantile needs 0 < p < 1")
    if p > 0.5:
        return brentq(lambda r: sf(r, n) - (1 - p), 1e-12, _END, xtol=1e-13)
    return brentq(lambda r: log_cdf(r, n) - math.log(p), 1e-300, _END, xtol=1e-13)


def std(n: int) -> float:
    """Standard deviation of the range, in sigma; falls like pi / sqrt(6 ln n).

    From E[range^2] = 2 int r P(range > r) dr.
    """
    r, weights = gauss_legendre(np.arange(0, _END + 0.25, 0.25))
    mean = expected(n)
    # about the mean, so that nothing cancels: Var = 2 int (r - mean) P(range > r) dr + mean^2
    return math.sqrt(2 * float(((r - mean) * sf(r, n)) @ weights) + mean**2)


def spread(n: int, constant: Constant = "paper", chunks: int = 1) -> float:
    """Standard deviation of what Range-BN divides by, in sigma: one channel of n elements.

    The mean of `chunks` independent ranges has 1/sqrt(chunks) of the deviation of one.

    Raises:
      ValueError: as `expected_range.calibration`.
    """
    part = int(part_length(n, chunks))
    return float(scale_constant(part, constant)) * std(part) / math.sqrt(chunks)


class Violation(NamedTuple):
    """How often a sample leaves 0.325 sigma <= C(n) range <= 2 sigma."""

    log_below: float  # natural logarithm of P(C(n) range < 0.325 sigma)
    above: float  # P(C(n) range > 2 sigma)


def violation(n: int) -> Violation:
    """Probabilities that the printed bound fails for one channel of n Gaussians.

    Below: 0.21 at n = 2, 2e-4 at 8, 5e-8 at 16, then like exp(-n): never, in practice. Above:
    0.096 at n = 2, 0.041 at 1024, 0.025 at 2^20: one channel in 25 to 40, for it only tends to 0
    like `violation_limit`, as ln ln n / ln n. A mean over 16 chunks of 1024 has 2 sigma 7
    deviations away. In expectation both sides hold for all n >= 2 [computed, derived].
    """
    return Violation(
        log_below=float(log_cdf(LOWER * upper(n) / 2, n)),
        above=float(sf(UPPER * upper(n) / 2, n)),
    )


def violation_limit(n: ArrayLike) -> np.ndarray | float:
    """P(C(n) range > 2 sigma) to leading order: maximum and -minimum independent Gumbels.

    range > 2 sqrt(2 ln n) where their sum exceeds s = ln(4 pi ln n), and
    P(G + G' > s) = 1 - z K_1(z), z = 2 exp(-s/2); about (s + 1 - 2 gamma) exp(-s).
    """
    z = 2 / np.sqrt(4 * math.pi * np.log(check(n)))
    return (1 - z * k1(z))[()]


def _log_density(x: np.ndarray) -> np.ndarray:
    return -(x**2) / 2 - _HALF_LOG_2PI


def _log_inside(low: np.ndarray, width: np.ndarray) -> np.ndarray:
    """ln(Phi(low + width) - Phi(low)), accurate near 0 as near -inf."""
    ratio = log_ndtr(-low - width) - log_ndtr(-low)
    with np.errstate(divide="ignore"):  # nothing inside: -inf
        near, far = np.log(-np.expm1(ratio)), np.log1p(-np.exp(ratio))
    return log_ndtr(-low) + np.where(ratio > -math.log(2), near, far)


def _positive(r: ArrayLike) -> np.ndarray:
    width = np.asarray(r, dtype=np.float64)
    if not (width > 0).all():
        raise ValueError(f"r = {width.tolist()}: a range is positive")
    return width
