"""How much of a sum survives in `m_acc` mantissa bits, for any width and length, at once.

Narrow accumulators by the exact chain, wide ones by its diffusion limit, whose error is of the
order 2^-m_acc. Only the mantissa matters: the exponent range is taken as unlimited.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Literal

import numpy as np

from qtrain.formats import Float
from theory.addition import ROUNDINGS, Grid, Rounding
from theory.chain import sums
from theory.diffusion import diffuse, has_mean
from theory.products import Discrete, Gaussian, Gridded, Law, Sparse, Uniform, is_symmetric, sparse
from theory.regimes import Criterion
from theory.transitions import top_of

LOG_LIMIT = math.log(50.0)  # [sakr2019accumulation, Sec. 4]: n (1 - retention) stays below
_SECONDS = 0.5  # what the exact chain may take, roughly, on one core
_BIAS = 256.0  # 2^m |mean| / std from which on the path is followed at a smaller m
_CONSTANT = {"nearest": 0.5, "stochastic": 0.5, "align": 1.0, "toward_zero": 1.0}

STANDARD = Gaussian()


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What rounding leaves of n products' sum.

    retention: E[s^2] / E[S^2], S the exact sum. variance: Var s / Var S.
    mean: E[s] / E[S], NaN for zero-mean products.
    bound: on the error of retention: |true - retention| <= bound max(1, retention). Not proved:
      a constant over 2^m_acc (over its square root for products that are not symmetric, and
      added up over the two levels of chunks) that exceeds all deviations seen from the chain.
    method: "chain" or "diffusion".
    """

    retention: float
    variance: float
    mean: float
    bound: float
    method: Literal["chain", "diffusion"]


def retention(
    m_acc: int,
    n: float,
    rounding: Rounding = "nearest",
    products: Law = STANDARD,
    chunk: int | None = None,
    nzr: float = 1.0,
) -> float:
    """E[s^2] / E[S^2] for n products summed in m_acc mantissa bits; see `estimate`."""
    return estimate(m_acc, n, rounding, _sparse(products, nzr), chunk).retention


@functools.lru_cache(maxsize=1024)
def estimate(
    m_acc: int,
    n: float,
    rounding: Rounding = "nearest",
    products: Law = STANDARD,
    chunk: int | None = None,
    m_intra: int | None = None,
) -> Estimate:
    """Retention, and what goes with it, of a sum of n products.

    Args:
      m_acc: mantissa bits, 1 to 50. m_intra: those inside a chunk; default the same.
      n: additions, 1 to 2^40; need not be whole.
      products: any law with std > 0 and |mean| <= 16 std.
      chunk: additions per chunk; a chunk longer than n counts as n.

    Raises:
      ValueError: outside these ranges.
    """
    _check(m_acc, n, rounding, products, chunk)
    if chunk is not None and chunk < n:
        return _chunked(m_acc, n, rounding, products, chunk, m_intra or m_acc)
    width = m_acc if chunk is None else (m_intra or m_acc)
    exact = _by_chain(width, n, rounding, products)
    return exact or _by_diffusion(width, n, rounding, products)


def _check(m_acc: int, n: float, rounding, products: Law, chunk) -> None:
    if not 1 <= m_acc <= 50 or not 1 <= n <= 2**40:
        raise ValueError(f"need 1 <= m_acc <= 50 and 1 <= n <= 2^40, not {m_acc} and {n}")
    if rounding not in ROUNDINGS:
        raise ValueError(f"unknown rounding {rounding!r}: one of {', '.join(ROUNDINGS)}")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1 (None for no chunks), not {chunk}")
    if not products.std > 0 or abs(products.mean) > 16 * products.std:
        raise ValueError(
            f"products of mean {products.mean} and std {products.std} hardly vary: their sum is"
            " followed addition by addition, by `chain.sums`"
        )


def _by_chain(m_acc: int, n: float, rounding, products: Law) -> Estimate | None:
    """The exact chain where it is fast: a few hundred states, or few additions."""
    if n != int(n) or isinstance(products, Gridded):
        return None
    floor = 2.0 ** (math.floor(math.log2(products.std)) - 8)
    grid = Grid(m_acc, int(math.log2(floor)) + m_acc, math.inf)
    top = top_of(products, grid, rounding, int(n))
    binades = max(math.log2(top / floor) - m_acc, 0) + 1
    states = 2**m_acc * binades * (2 - is_symmetric(products))
    atoms = len(products.values) if isinstance(products, Discrete) else states
    by_steps = n * (2e-9 * states * min(atoms, states) + 1e-5)
    by_squares = 2e-10 * states**3 * math.log2(2 * n)
    if min(by_steps, by_squares) + 1e-7 * states * atoms > _SECONDS:
        return None
    fmt = Float(exp=8, man=m_acc)
    result = sums(products, int(n), fmt, rounding, floor=floor, joint=False)
    # the floor adds spacing floor where |s| < 2^(m_acc + 1) floor: that is std / 128 at most
    return Estimate(
        result.retention, result.variance_retention, result.mean_retention, 1e-3, "chain"
    )


def _by_diffusion(m_acc: int, n: float, rounding, products: Law) -> Estimate:
    """The limit law; for strongly biased products, that of fewer bits at equal n / 2^m_acc."""
    bias = 2.0**m_acc * abs(products.mean) / products.std
    fewer = max(0, min(math.ceil(math.log2(max(bias, 1) / _BIAS)), m_acc - 1))
    m, length = m_acc - fewer, n / 2.0**fewer
    mean, variance = _moments(products, m, length, rounding)
    exact_mean, exact = products.mean * n, products.variance * n
    kept_mean = mean / length / products.mean if has_mean(products) else math.nan
    kept = variance / length * n + (mean / length * n) ** 2
    bound = _CONSTANT[rounding] * 2.0**-m if is_symmetric(products) else 2.0 ** (-m / 2)
    return Estimate(
        kept / (exact + exact_mean**2), variance * n / (length * exact), kept_mean, bound,
        "diffusion",
    )  # fmt: skip


def _moments(products: Law, m: int, n: float, rounding) -> tuple[float, float]:
    x, law = diffuse(products, m, n, rounding)
    mean = 0.0 if is_symmetric(products) else float(law @ x)
    return mean, float(law @ (x - mean) ** 2)


def _chunked(m_acc: int, n: float, rounding, products: Law, chunk: int, m_intra: int) -> Estimate:
    """The law of a chunk's sum is the product law of the sum over chunks."""
    inner = estimate(m_intra, chunk, rounding, products)
    law = chunk_law(products, chunk, m_intra, rounding)
    count = n / chunk if m_acc > 5 else math.ceil(n / chunk)  # the chain takes whole numbers
    outer = estimate(m_acc, count, rounding, law)
    mean = outer.mean * inner.mean if has_mean(products) else math.nan
    variance = outer.variance * law.variance / (chunk * products.variance)
    kept = n * variance * products.variance
    if has_mean(products):
        kept += (mean * n * products.mean) ** 2
    value = kept / (n * products.variance + (n * products.mean) ** 2)
    method = "diffusion" if "diffusion" in (inner.method, outer.method) else "chain"
    return Estimate(value, variance, mean, inner.bound + outer.bound, method)


@functools.lru_cache(maxsize=64)
def chunk_law(products: Law, chunk: int, m_intra: int, rounding: Rounding) -> Law:
    """The law of a chunk's sum: of the exact chain in up to 6 bits, else one of its moments.

    Beyond, truncating roundings take a normal law on the chunk's grid; the others a normal law
    where the exact sum's excess kurtosis is below 0.05, else the chain's at 6 bits, scaled. On
    a lattice it is always the chain's.
    """
    kept = estimate(m_intra, chunk, rounding, products)
    std = math.sqrt(kept.variance * chunk) * products.std
    mean = kept.mean * chunk * products.mean if has_mean(products) else 0.0
    if m_intra > 6 and not _on_lattice(products, std):
        if rounding in ("align", "toward_zero"):
            return Gridded(Gaussian(std, mean), m_intra)
        if abs(_excess_kurtosis(products)) < 0.05 * chunk:
            return Gaussian(std, mean)
    bits, rounding = (m_intra, rounding) if m_intra <= 6 else (6, "nearest")
    floor = 2.0 ** (math.floor(math.log2(products.std)) - 6)
    law = sums(products, chunk, Float(exp=8, man=bits), rounding, floor=floor, joint=False).law
    if bits == m_intra or _on_lattice(products, std):
        return Discrete(law.values, law.probs)
    return Discrete((law.values - law.mean) * (std / law.std) + mean, law.probs)


def _on_lattice(products: Law, std: float) -> bool:
    """Whether all products are multiples of a power of two above std / 32."""
    if not isinstance(products, Discrete):
        return False
    step = 2.0 ** math.floor(math.log2(std / 32))
    return bool((np.fmod(products.values, step) == 0).all())


def _excess_kurtosis(products: Law) -> float:
    if isinstance(products, Gaussian):
        return 0.0
    if isinstance(products, Uniform):
        return -1.2
    if isinstance(products, Sparse):
        base = products.base
        centred = _excess_kurtosis(base) + 3
        ratio = (base.mean / base.std) ** 2  # raw moments, close to central where mean << std
        fourth = (centred + 6 * ratio + ratio**2) / (1 + ratio) ** 2
        return fourth / products.nzr - 3
    centred = products.values - products.mean
    return float(products.probs @ centred**4) / products.variance**2 - 3


def mantissa_bits(
    n: float,
    rounding: Rounding = "nearest",
    tolerance: float = 0.01,
    chunk: int | None = None,
    nzr: float = 1.0,
    criterion: Criterion = "retention",
    products: Law = STANDARD,
) -> int:
    """The smallest m_acc, 1 to 50, at which the criterion holds, and holds for all wider ones.

    criterion:
      retention   |1 - E[s^2] / E[S^2]| <= tolerance
      mean        |1 - E[s] / E[S]| <= tolerance
      published   length |1 - retention| < ln 50, length being n, or the number of chunks: what
                  reproduces the published table [sakr2019accumulation, Table 1]

    Raises:
      ValueError: 50 bits are not enough, or an unknown criterion.
    """
    if criterion not in ("retention", "published", "mean"):
        raise ValueError(f"unknown criterion {criterion!r}: retention, published or mean")
    length = n if chunk is None or chunk >= n else n / chunk
    limit = LOG_LIMIT / length if criterion == "published" else tolerance
    law = _sparse(products, nzr)

    @functools.cache
    def holds(m: int) -> bool:
        found = estimate(m, n, rounding, law, chunk)
        kept = found.mean if criterion == "mean" else found.retention
        return abs(1 - kept) <= limit

    low, high = 0, 50  # low fails, high holds
    if not holds(high):
        raise ValueError(f"more than 50 mantissa bits are needed for {n} additions")
    while high - low > 1:
        middle = (low + high + 1) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


@functools.lru_cache(maxsize=64)
def _sparse(products: Law, nzr: float) -> Law:
    return sparse(products, nzr)  # one object per law, so that estimates are cached
