"""Variance retention ratio (VRR) of a narrow floating-point accumulator [sakr2019accumulation].

VRR = Var(computed sum) / Var(exact sum) of n independent zero-mean products of m_p mantissa bits,
added in a format of m_acc mantissa bits. The formulas are as published: a model of an accumulator
that drops the addend's shifted-out bits, not of one that rounds to nearest. What is computed is
1 - VRR, a ratio of sums of non-negative terms, so nothing cancels where VRR is close to 1.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
from fractions import Fraction
from typing import Literal

import numpy as np
from scipy.special import erf, erfc

LOG_LIMIT = math.log(50.0)  # a width is suitable while ln v(n) is below it
MAX_BITS = 53
MAX_LENGTH = 2**50  # i - 1/2 is a float64 up to here
GRID = 16  # lengths per octave among which `knee` looks

_UNDERFLOW = 1480.0  # terms with T^2/i above it are below 1e-322 and count as zero
_SMOOTH = 230.0  # the sum becomes an integral where q_i varies over more steps than this
_PANELS, _NODES = 8, 32  # quadrature: panels per octave, Gauss-Legendre nodes per panel

Criterion = Literal["total", "inter"]


def vrr_full(m_acc: int, n: int) -> float:
    """VRR where only full swamping loses anything [sakr2019accumulation, Lemma 1].

    Never decreases in m_acc, never increases in n.

    Args:
      m_acc: mantissa bits of the accumulator, hidden bit excluded, 1..53.
      n: number of products, 1..2^50.

    Raises:
      ValueError: an argument outside its range.
    """
    m_acc = _integer("m_acc", m_acc, MAX_BITS)
    return 1.0 - _lost(m_acc, 0, _integer("n", n, MAX_LENGTH))


def vrr(m_acc: int, m_p: int = 5, *, n: int, chunk: int | None = None, nzr: float = 1.0) -> float:
    """VRR with full and partial swamping, plain or chunked [sakr2019accumulation, Thm. 1, Cor. 1].

    Chunked: VRR(m_acc, m_p, n1) VRR(m_acc, min(m_acc, m_p + log2 n1), n2) with n1 = min(chunk, n)
    and n2 = ceil(n/n1): the sum of n1 addends has log2 n1 bits more, here rounded down.
    Sparse: n, or n1 where chunked, becomes the number of products expected to be non-zero: nzr
    times it, to the nearest integer and at least 1.

    Exactly 1 where n <= 2^(m_acc - 3 m_p + 1) and m_p > 1; tends to 1/3, or 1/9 chunked, as n
    grows. Artefacts of the published formula: one addend alone (n = 1, or chunks of 1) already
    loses something, 0.08 at m_acc = 1; and each stage that comes within reach joins the normaliser
    k as well, so VRR is not monotone. It can rise with n (m_acc = 1: from 0.916 at n = 1 to 0.948
    at 2) and fall with m_acc (n = 110218: 1 - VRR is 6.5e-6 at 13 bits and 7.3e-6 at 14). What
    does rise with n is n (1 - VRR), as checked for m_acc 1..24 and m_p 1..12.

    Args:
      m_acc: mantissa bits of the accumulator, hidden bit excluded, 1..53.
      m_p: mantissa bits of the products, 1..53; 5 is the exact product of two (1, 5, 2) numbers.
      n: number of products, zeros included, 1..2^50.
      chunk: products per inner sum, or None for one plain sum.
      nzr: share of the products that are not zero, in (0, 1].

    Raises:
      ValueError: an argument outside its range.
    """
    return 1.0 - variance_lost(m_acc, m_p, n=n, chunk=chunk, nzr=nzr)


def variance_lost(
    m_acc: int, m_p: int = 5, *, n: int, chunk: int | None = None, nzr: float = 1.0
) -> float:
    """1 - VRR to a relative error of 2e-12, also where `vrr` (same arguments) rounds to 1.

    Values below 1e-300 may lose digits or be 0.
    """
    return _variance_lost(_sum(m_acc, m_p, n, chunk, nzr))


def log_variance_lost(
    m_acc: int,
    m_p: int = 5,
    *,
    n: int,
    chunk: int | None = None,
    nzr: float = 1.0,
    criterion: Criterion = "total",
) -> float:
    """The exponent of the variance lost, ln v(n) = n (1 - VRR) [sakr2019accumulation, Sec. 4].

    n is the number of non-zero products ("total") or the number of chunks ("inter"); see
    `mantissa_bits`. The other arguments are those of `vrr`.

    Raises:
      ValueError: an argument outside its range, or "inter" without a chunk.
    """
    if criterion not in ("total", "inter"):
        raise ValueError(f"criterion is {criterion!r}: use 'total' or 'inter'")
    if criterion == "inter" and chunk is None:
        raise ValueError("criterion 'inter' counts chunks: give chunk, or use 'total'")
    levels = _sum(m_acc, m_p, n, chunk, nzr)
    return (levels.total if criterion == "total" else levels.outer) * _variance_lost(levels)


def mantissa_bits(
    n: int,
    m_p: int = 5,
    chunk: int | None = None,
    nzr: float = 1.0,
    criterion: Criterion = "total",
) -> int:
    """Smallest m_acc with v(n) < 50 [sakr2019accumulation, Sec. 4].

    The paper does not say which n the criterion of a chunked sum counts. "total": the non-zero
    products. "inter": the chunks, and at least m_p bits; of the two, only this one gives the
    chunk-64 widths of the paper's Table 1 that we know. Without chunks the known widths come out
    but two: n = 147 needs 5 bits here and 9 there, n = 1152 needs 7 here and 8 there.

    A wider accumulator can fail where this one passes, as `vrr` is not monotone: for m_p = 5 and
    n = 2190001, 15 bits pass, 16 do not (ln v = 3.916 against 3.912) and 17 do.

    Raises:
      ValueError: an argument outside its range.
    """

    def suitable(m_acc: int) -> bool:
        lost = log_variance_lost(m_acc, m_p, n=n, chunk=chunk, nzr=nzr, criterion=criterion)
        return lost < LOG_LIMIT

    bits = next(filter(suitable, range(1, MAX_BITS + 1)))  # T = 2^53 suits any n up to 2^50
    return max(bits, m_p) if criterion == "inter" else bits


def knee(
    m_acc: int,
    m_p: int = 5,
    chunk: int | None = None,
    nzr: float = 1.0,
    criterion: Criterion = "total",
) -> int:
    """Largest n of the grid round(2^(k/16)) with v(n) < 50: where ln v(n) bends upwards.

    Found by bisection, since v(n) crosses 50 once (see `vrr`).

    Raises:
      ValueError: an argument outside its range, or v < 50 for every length up to 2^50.
    """

    def suitable(k: int) -> bool:
        n = round(2 ** (k / GRID))
        lost = log_variance_lost(m_acc, m_p, n=n, chunk=chunk, nzr=nzr, criterion=criterion)
        return lost < LOG_LIMIT

    good, bad = 0, GRID * (MAX_LENGTH.bit_length() - 1)  # one product is always suitable
    if suitable(bad):
        raise ValueError(f"m_acc={m_acc} suits every length up to 2^50: use fewer bits")
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if suitable(middle) else (good, middle)
    return round(2 ** (good / GRID))


def stage_loss(m_acc: int, m_p: int, stages: int) -> Fraction:
    """alpha: variance lost to the first `stages` of m_p partial stages, in units of sigma_p^2.

    2^(m_acc - 3 m_p)/3 sum_{j <= stages} 2^j (2^j - 1)(2^(j+1) - 1); alpha of the theorem with
    stages = m_p, alpha_{j_r} with j_r - 1 [sakr2019accumulation, Thm. 1].
    """
    total = sum(2**j * (2**j - 1) * (2 ** (j + 1) - 1) for j in range(1, stages + 1))
    return Fraction(2) ** (m_acc - 3 * m_p) * total / 3


@dataclasses.dataclass(frozen=True)
class _Sum:
    """A checked sum: lengths in non-zero addends, mantissa bits of accumulator and addends."""

    m_acc: int
    m_p: int
    inner: int  # addends of an inner sum; of the plain sum if there are no chunks
    outer: int  # number of inner sums
    total: int  # addends in all
    chunked: bool


def _sum(m_acc, m_p, n, chunk, nzr) -> _Sum:
    m_acc, m_p = _integer("m_acc", m_acc, MAX_BITS), _integer("m_p", m_p, MAX_BITS)
    n = _integer("n", n, MAX_LENGTH)
    if not (isinstance(nzr, numbers.Real) and 0 < float(nzr) <= 1):
        raise ValueError(f"nzr is {nzr!r}: give the share of non-zero products, above 0, up to 1")
    inner = n if chunk is None else min(n, _integer("chunk", chunk, MAX_LENGTH))
    nonzero = [max(1, round(float(nzr) * length)) for length in (inner, n)]
    return _Sum(m_acc, m_p, nonzero[0], -(-n // inner), nonzero[1], chunk is not None)


def _integer(name: str, value: int, top: int) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ValueError(f"{name} is {value!r}: give an integer from 1 to {top}")
    if not 1 <= value <= top:
        raise ValueError(f"{name} is {value}: give an integer from 1 to {top}")
    return int(value)


def _variance_lost(s: _Sum) -> float:
    lost = _lost(s.m_acc, s.m_p, s.inner)
    if not s.chunked:
        return lost
    grown = min(s.m_acc, s.m_p + s.inner.bit_length() - 1)
    return lost + (1.0 - lost) * _lost(s.m_acc, grown, s.outer)  # 1 - (1 - a)(1 - b)


@functools.lru_cache(maxsize=4096)
def _lost(m_acc: int, m_p: int, n: int) -> float:
    """1 - VRR of a plain sum: the theorem's three kinds of outcome, each with what it loses.

    Fully swamped at step i: n - i + alpha. Stopped in partial stage j - 1: alpha_j. Neither: 0.
    The lemma is m_p = 0: alpha = 0 and no partial stages.
    """
    alpha = stage_loss(m_acc, m_p, m_p)
    weight, lost = _full_swamping(m_acc, n, alpha)
    root = math.sqrt(2.0 * n)
    for j in range(2, m_p + 1):
        alpha_j = stage_loss(m_acc, m_p, j - 1)
        if n > alpha_j:
            threshold = 2.0 ** (m_acc - m_p + j - 1)
            q = 2 * threshold * float(erfc(threshold / root) * erf(2 * threshold / root))
            weight += q
            lost += float(alpha_j) * q
    weight += math.erf(2.0 ** min(m_acc, m_acc - m_p + 1) / root)  # never swamped
    return lost / weight / n


def _full_swamping(m_acc: int, n: int, alpha: Fraction) -> tuple[float, float]:
    """Sums of q_i and of (n - i + alpha) q_i over i = 2..n-1 with i > alpha.

    q_i = erfc(T/sqrt(2i)) erf(T/sqrt(2(i-1))), T = 2^m_acc, varies over L = i/(1 + T^2/2i) steps:
    its terms are added while L is short, integrated from there on.
    """
    t2 = 4.0**m_acc
    half = _SMOOTH / 2
    smooth = math.ceil(half + math.sqrt(half * half + half * t2))  # the i with L = _SMOOTH
    start = max(2, math.floor(alpha) + 1, math.ceil(t2 / _UNDERFLOW))
    split = min(max(start, smooth), n)
    top = float(n + alpha)

    def terms(x: np.ndarray) -> np.ndarray:
        q = erfc(np.sqrt(t2 / (2 * x))) * erf(np.sqrt(t2 / (2 * (x - 1))))
        return np.stack([q, (top - x) * q])

    sums = np.zeros(2)
    if start < split:
        sums += terms(np.arange(start, split, dtype=float)).sum(-1)
    if split < n:
        sums += _sum_smooth(terms, split, n)
    return float(sums[0]), float(sums[1])


def _sum_smooth(f, start: int, stop: int) -> np.ndarray:
    """Sum of f(i) over start <= i < stop as an integral and corrections at its two ends.

    1/delta = 1/D - delta/24 + 17 delta^3/5760 - ... (Euler-Maclaurin in central differences: no
    derivatives). What is left out of a step is at most 367/967680 max|f^(6)|, which Cauchy's
    estimate on a disc of radius 3L/4 puts below 1e-13 of the sum for L >= 230. Gauss-Legendre on
    panels [x, 2^(1/8) x]: 32 nodes integrate degree 63 exactly, and Chebyshev truncation on a
    Bernstein ellipse puts the rest below 1e-13 too. tests/theory/test_vrr.py evaluates both.
    """
    lo, hi = start - 0.5, stop - 0.5
    edges = np.geomspace(lo, hi, max(1, math.ceil(_PANELS * math.log2(hi / lo))) + 1)
    node, weight = _gauss_legendre(_NODES)
    half = np.diff(edges)[:, None] / 2
    integral = (f(edges[:-1, None] + half * (1 + node)) * (half * weight)).sum((-2, -1))
    return integral + _end_correction(f, hi) - _end_correction(f, lo)


def _end_correction(f, x: float) -> np.ndarray:
    """-delta f(x)/24 + 17 delta^3 f(x)/5760."""
    f0, f1, f2, f3 = f(x + np.array([-1.5, -0.5, 0.5, 1.5])).T
    return -(f2 - f1) / 24 + 17 * (f3 - 3 * f2 + 3 * f1 - f0) / 5760


@functools.cache
def _gauss_legendre(order: int) -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(order)
