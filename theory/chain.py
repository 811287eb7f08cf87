"""The exact theory of a narrow accumulator: a Markov chain over its own values.

The law after n additions is a power of the transition matrix. There is no swamping
assumption, no independence assumption and no normaliser, unlike in [sakr2019accumulation].
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from scipy import sparse as sp

from qtrain import formats
from qtrain.formats import Float
from theory.addition import Grid, Rounding, add
from theory.products import Discrete, Law
from theory.transitions import Chain, build_chain


@dataclasses.dataclass(frozen=True, eq=False)
class Sums:
    """The law of a computed sum s beside the exact sum S of the same n products.

    law: values of s with probabilities; `law.first` is E[S 1{s = value}].
    mean, variance: of S.
    stall: probability that one more addition leaves s as it is; of chunks, one more of a whole
      chunk's sum, after a short last one too.
    absorbed: probability that no addition can change s any more.
    """

    law: Discrete
    mean: float
    variance: float
    stall: float
    absorbed: float

    @property
    def retention(self) -> float:
        """E[s^2] / E[S^2]; E[S^2] = n E[p^2] for zero-mean products. Infinite if s can be."""
        return self._second / (self.variance + self.mean**2)

    @property
    def variance_retention(self) -> float:
        """Var s / Var S."""
        return self.law.variance / self.variance

    @property
    def mean_retention(self) -> float:
        """E[s] / E[S]; NaN for zero-mean products."""
        if abs(self.mean) < 1e-9 * self.variance**0.5:
            return float("nan")
        return self.law.mean / self.mean

    @property
    def mean_square_error(self) -> float:
        """E[(s - S)^2]; infinite if s can be. NaN where only s was followed."""
        if math.isinf(self._second):
            return math.inf
        joint = float(self.law.values @ self.law.exact_first)
        return self._second - 2 * joint + self.variance + self.mean**2

    @property
    def _second(self) -> float:
        """E[s^2]."""
        return float(self.law.probs @ self.law.values**2)


def sums(
    products: Law,
    n: int,
    fmt: Float | str = "e6m9",
    rounding: Rounding = "nearest",
    chunk: int | None = None,
    intra: Float | str | None = None,
    floor: float = 0.0,
    joint: bool = True,
) -> Sums:
    """The law of the sum of n products as `qtrain.ops.Accumulator` computes it.

    Exact for discrete products (variant C of stochastic rounding included) and for continuous
    ones (ideal stochastic rounding: within 2^(man - 23) of an ulp of variant C), but for
    rounding errors of float64. Chunked: the law of a chunk's sum is the product law of the
    sum over chunks; a short last chunk has its own law.

    Args:
      chunk: additions per chunk; None: one chunk, i.e. no second sum.
      intra: format inside a chunk; default `fmt`. Of one chunk, the sum is rounded to `fmt` once.
      floor: coarsens the subnormal spacing to at least this; 0: as the format has it. Fewer
        states, at an error of about (floor/std)^2/12 in the variance of one product.
      joint: whether to follow the exact sum too; without it, up to four times faster and
        `mean_square_error` is NaN.

    Raises:
      ValueError: n or chunk below 1, chunk above n, or a format that is not modelled.
    """
    if n < 1 or (chunk is not None and not 1 <= chunk <= n):
        raise ValueError(f"need 1 <= chunk <= n, not n = {n} and chunk = {chunk}")
    outer, inner = (Grid.of(formats.get_float(f), floor) for f in (fmt, intra or fmt))
    if chunk is None:
        # like the real one: the sum of the one chunk is added to 0 in `fmt`
        total = _run(build_chain(products, inner, rounding, n), n, joint)
        if inner == outer:
            return total
        return _run(build_chain(total.law, outer, rounding, 1), 1, joint)
    return _chunked(products, n, (outer, inner), rounding, chunk, joint)


def _chunked(products: Law, n: int, grids: tuple[Grid, Grid], rounding, chunk: int, joint: bool):
    outer, inner = grids
    chain = build_chain(products, inner, rounding, chunk)
    whole, rest = divmod(n, chunk)
    full = _law(chain, *_power(chain, chunk, joint), chunk)
    between = build_chain(full, outer, rounding, whole, chain.folded)
    if not rest:
        return _run(between, whole, joint)
    short = _law(chain, *_power(chain, rest, joint), rest)
    last = build_chain(short, outer, rounding, 1, chain.folded, start=between.states)
    where = np.searchsorted(last.states, between.states)
    vectors = np.zeros((2, len(last.states)))
    vectors[:, where] = _power(between, whole, joint)
    moments = whole * between.mean + last.mean, whole * between.variance + last.variance
    return _sums(last, *_step(last, *vectors), *moments)


def _run(chain: Chain, n: int, joint: bool) -> Sums:
    return _sums(chain, *_power(chain, n, joint), n * chain.mean, n * chain.variance)


def _step(chain: Chain, pi: np.ndarray, first: np.ndarray):
    """One addition: the law pi of s, and first = E[S 1{s}] (times the sign of s, if folded).

    E[(S + p) 1{s'}] = sum_s E[S 1{s}] P(s -> s') + P(s) E[p 1{s -> s'}], so it is closed.
    """
    return pi @ chain.even, first @ chain.odd + pi @ chain.first


def _power(chain: Chain, n: int, joint: bool):
    """Starts from s = 0 and adds n products: by steps or by squarings, whichever costs less."""
    size = len(chain.states)
    entries = chain.even.nnz if sp.issparse(chain.even) else size**2
    by_steps = n * (1 + 2 * joint) * (2e-9 * entries + 1e-5)  # seconds, roughly
    products = 1 if not joint else 4 if chain.folded else 3
    by_squares = n.bit_length() * products * 2e-10 * size**3
    pi, first = (chain.states == 0).astype(float), np.full(size, 0.0 if joint else np.nan)
    if by_steps <= by_squares:
        return _by_steps(chain, n, pi, first, joint)
    return _by_squares(chain, n, pi, first, joint)


def _by_steps(chain: Chain, n: int, pi, first, joint: bool):
    even, odd, cross = (_transposed(x) for x in (chain.even, chain.odd, chain.first))
    for _ in range(n):
        if joint:
            first = odd @ first + cross @ pi
        pi = even @ pi
    return pi, first


def _by_squares(chain: Chain, n: int, pi, first, joint: bool):
    even, odd, cross = (_dense(x) for x in (chain.even, chain.odd, chain.first))
    for bit in range(n.bit_length()):
        if n >> bit & 1:
            if joint:
                first = first @ odd + pi @ cross
            pi = pi @ even
        if n >> bit == 1:
            break
        if joint:
            cross = even @ cross + cross @ odd
            odd = odd @ odd if chain.folded else even @ even
        even = even @ even if not joint or chain.folded else odd
    return pi, first


def _transposed(matrix):
    return matrix.T.tocsr() if sp.issparse(matrix) else np.ascontiguousarray(matrix.T)


def _dense(matrix) -> np.ndarray:
    return matrix.toarray() if sp.issparse(matrix) else matrix


def _law(chain: Chain, pi: np.ndarray, first: np.ndarray, n: int) -> Discrete:
    """The signed law of the computed sum, its exact sum of n products beside it."""
    second = n * chain.variance + (n * chain.mean) ** 2
    if np.isnan(first).any():  # not followed: at least the mean is right
        first = pi * (n * chain.mean)
    pi, values = np.maximum(pi, 0.0), chain.states
    if chain.folded:
        values = np.concatenate([-values[:0:-1], values])
        half, sign = pi[1:] / 2, first[1:] / 2
        pi = np.concatenate([half[::-1], pi[:1], half])
        first = np.concatenate([-sign[::-1], first[:1], sign])
    used = pi > 0
    return Discrete(values[used], pi[used], first[used], second)


def _sums(chain: Chain, pi: np.ndarray, first: np.ndarray, mean: float, variance: float) -> Sums:
    law = dataclasses.replace(_law(chain, pi, first, 1), second=variance + mean**2)
    if np.isnan(first).any():
        law = dataclasses.replace(law, first=np.full_like(law.probs, np.nan))
    diagonal = chain.even.diagonal()
    leaves = chain.even.sum(axis=1) - diagonal
    if sp.issparse(chain.even):  # exact zeros stay exact
        off = chain.even - sp.diags_array(diagonal)
        leaves = np.abs(off).sum(axis=1)
    return Sums(law, mean, variance, float(pi @ diagonal), float(pi @ (leaves < 1e-15)))


def stall_magnitude(products: Law, fmt: Float | str, rounding: Rounding = "nearest") -> float:
    """The smallest positive value of `fmt` that no product changes; infinity if there is none.

    [wang2018fp8, Fig. 3(b)]: 4096 in (1, 6, 9) for uniform products of mean and deviation 1.
    Normal products count up to 11 standard deviations.
    """
    grid = Grid.of(formats.get_float(fmt))
    # a sum that keeps its value keeps it for all products in between
    p = products.values if isinstance(products, Discrete) else np.array(products.support)
    for exponent in range(grid.emin, math.frexp(grid.max)[1]):
        s = 2.0**exponent * (1 + np.arange(2) * 2.0**-grid.man)
        lower, upper, weight = add(s[:, None], p, grid, rounding)
        moved = ((lower != s[:, None]) & (weight < 1)) | ((upper != s[:, None]) & (weight > 0))
        still = ~moved.any(axis=1)
        if still.any():
            return float(s[still][0])
    return math.inf
