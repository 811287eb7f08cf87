"""Expected range of n Gaussians, by which Range Batch-Norm estimates sigma [banner2018scalable].

range = max - min of n independent N(0, sigma^2) samples; all results are in units of sigma. Exact
is a one-dimensional integral without cancellation; what Range-BN divides by is a constant times it.
`range_law` has the distribution, `range_derivation` the proofs of the bounds.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import log_ndtr, ndtr

Constant = Literal["paper", "code"]
MAX_LENGTH = 2**40

_END = 13.0  # 2^40 Q(13) = 7e-27: no maximum lies beyond
_PANEL, _NODES = 0.25, 16  # the maximum of 2^40 spreads over 1/sqrt(2 ln n) = 0.13

# E[max] = a + sum_k c_k / a^(2k+1), a = sqrt(2 ln n), c_k the mean of a polynomial in
# s = ln a + ln(2 pi)/2 - G, G standard Gumbel: coefficients of 1, s, s^2, ...; derived in
# range_derivation.expansion.
EXPANSION = (
    (0.0, -1.0),
    (-1.0, 1.0, -0.5),
    (3.5, -4.0, 2.0, -0.5),
)
_ZETA3 = 1.2020569031595942
_CUMULANTS = (float(np.euler_gamma), math.pi**2 / 6, 2 * _ZETA3)  # of a standard Gumbel


def expected(n: ArrayLike) -> np.ndarray | float:
    """E[max - min] / sigma = 2 int_0^inf 1 - Phi(x)^n - Q(x)^n dx, elementwise.

    Relative error below 1e-13, against mpmath.

    Args:
      n: numbers of samples, integers 2..2^40, any shape.

    Returns:
      float64 of that shape, from 2/sqrt(pi) at n = 2 to 14.2 at 2^40.

    Raises:
      ValueError: an n that is no integer or outside its range.
    """
    lengths = check(n)[..., None]
    x, weights = gauss_legendre(np.arange(0, _END + _PANEL, _PANEL))
    missing = -np.expm1(lengths * np.log1p(-ndtr(-x))) - np.exp(lengths * log_ndtr(-x))
    return (2 * (missing @ weights))[()]


def asymptotic(n: ArrayLike, terms: int = 3) -> np.ndarray | float:
    """Expansion of `expected` for large n, elementwise.

    a = sqrt(2 ln n), b = ln(4 pi ln n)/2 - gamma (Euler's), all of it times 2:
    a - b/a - (b^2 - 2 b + 2 + pi^2/6) / (2 a^3) + ..., each term smaller by (ln ln n) / ln n. The
    error is of the order of the first term left out; of the last, also 1/(n a) from n Q(max)
    being exponential only in the limit. As any asymptotic expansion it is poor where n is small.
    Largest relative errors for n in 2^10..2^40: terms 0: 0.147, 1: 0.0093, 2: 0.00015,
    3: 0.00034 at 2^10 and 1.8e-6 at 2^40, where 2 terms still err by 1.8e-5  [computed].

    Args:
      n: as in `expected`.
      terms: 0 (the paper's sqrt(8 ln n)) to 3, those after a.

    Raises:
      ValueError: terms outside 0..3, n as in `expected`.
    """
    if terms not in range(len(EXPANSION) + 1):
        raise ValueError(f"terms = {terms!r}: the expansion is known to 0, 1, 2 or 3 terms")
    a = np.sqrt(2 * np.log(check(n)))
    moments = _shifted_moments(np.log(a) + math.log(2 * math.pi) / 2)
    total = a
    for k, polynomial in enumerate(EXPANSION[:terms]):
        mean = sum(c * moments[power] for power, c in enumerate(polynomial))
        total = total + mean / a ** (2 * k + 1)
    return (2 * total)[()]


def _shifted_moments(shift: np.ndarray) -> list[np.ndarray]:
    """E[(shift - G)^p], p = 0..3, G standard Gumbel."""
    k1, k2, k3 = _CUMULANTS
    mean = shift - k1
    return [np.ones_like(mean), mean, mean**2 + k2, mean**3 + 3 * mean * k2 - k3]


def upper(n: ArrayLike) -> np.ndarray | float:
    """2 sqrt(2 ln n) >= E[range] / sigma for every n >= 2; the ratio tends to 1."""
    return (2 * np.sqrt(2 * np.log(check(n))))[()]


def lower(n: ArrayLike) -> np.ndarray | float:
    """2 sqrt(ln n / (pi ln 2)) <= E[range] / sigma for every n >= 2, with equality at n = 2 alone.

    Proved in `range_derivation.lower_bound`.
    """
    return (2 * np.sqrt(np.log(check(n)) / (math.pi * math.log(2))))[()]


def paper_constant(n: ArrayLike) -> np.ndarray | float:
    """C(n) = 1 / sqrt(2 ln n) [banner2018scalable, Range BN]: leaves a deviation of 1/2, in time.

    C(n) E[range] lies in [sqrt(2/(pi ln 2)), 2) sigma = [0.958, 2) sigma for every n >= 2, its
    least at n = 2: the printed 0.325 sigma <= C(n) range <= 2 sigma holds in expectation, with a
    lower constant that could be three times as large (0.325 is sqrt(2) 0.23). As a statement on
    samples it is one of probability: `range_law.violation`.
    """
    return (1 / np.sqrt(2 * np.log(check(n))))[()]


def code_constant(n: ArrayLike) -> np.ndarray | float:
    """0.5 0.35 (1 + sqrt(pi ln 4)) C(n) = 0.5402 C(n), the authors' code.

    0.7 times the mean of the two estimates of sigma that `upper` and `lower` imply
    (`range_derivation.average_of_bounds`); the 0.7 is empirical.
    """
    return 0.5 * 0.35 * (1 + math.sqrt(math.pi * math.log(4))) * paper_constant(n)


def calibration(n: ArrayLike, constant: Constant = "paper", chunks: int = 1) -> np.ndarray | float:
    """E[what Range-BN divides by] / sigma for Gaussian data: constant times expected range.

    With chunks, the mean of the ranges of equal parts, and the constant of a part's length:
    the expectation is that of one part of n / chunks, only the spread shrinks
    (`range_law.spread`).

    Args:
      n: elements of a channel, integers, any shape; n / chunks in 2..2^40.
      constant: "paper" or "code".
      chunks: equal parts of a channel; the code has 16.

    Raises:
      ValueError: unknown constant, chunks that do not divide n, n / chunks outside its range.
    """
    part = part_length(n, chunks)
    return scale_constant(part, constant) * expected(part)


def scale_constant(n: ArrayLike, constant: Constant) -> np.ndarray | float:
    """`paper_constant` or `code_constant` by name.

    Raises:
      ValueError: unknown name.
    """
    if constant not in get_args(Constant):
        raise ValueError(f"unknown constant {constant!r}: paper or code")
    return paper_constant(n) if constant == "paper" else code_constant(n)


def part_length(n: ArrayLike, chunks: int) -> np.ndarray:
    """Elements in one of equal parts, n / chunks.

    Raises:
      ValueError: chunks < 1, or they do not divide n.
    """
    lengths = np.asarray(n)
    if chunks < 1 or (lengths % chunks).any():
        raise ValueError(f"{chunks} chunks do not divide n = {lengths.tolist()} elements")
    return lengths // chunks


def check(n: ArrayLike) -> np.ndarray:
    """Lengths n as float64.

    Raises:
      ValueError: not integers 2..2^40.
    """
    lengths = np.asarray(n, dtype=np.float64)
    if not ((lengths >= 2) & (lengths <= MAX_LENGTH) & (lengths % 1 == 0)).all():
        raise ValueError(f"n = {np.asarray(n).tolist()}: a range is that of 2 to 2^40 samples")
    return lengths


def gauss_legendre(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of a composite rule, 16 nodes a panel, over panels between `edges`."""
    node, weight = np.polynomial.legendre.leggauss(_NODES)
    half = np.diff(edges)[:, None] / 2
    return ((edges[:-1, None] + half) + half * node).ravel(), (half * weight).ravel()
