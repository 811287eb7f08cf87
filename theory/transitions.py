"""One step of an accumulator as a matrix over the values of its format.

Row s holds P(fmt(s + p) = s') over s'. Discrete products: every sum is rounded. Continuous
ones: differences of the law at the rounding boundaries. Laws symmetric about 0 are folded to
|s|: the chain commutes with s -> -s, which the four roundings all do.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import sparse as sp

from theory.addition import Grid, Rounding, add
from theory.products import Discrete, Law, Sparse, is_symmetric

Matrix = np.ndarray | sp.csr_array
_BLOCK = 2_000_000  # sums formed at once


@dataclasses.dataclass(frozen=True, eq=False)
class Chain:
    """States (N,), ascending (magnitudes, if folded), and three (N, N) matrices.

    even: transition probabilities, acting on the law of s from the right.
    odd: the same with the sign of s s', acting on odd functions of s; is `even` if not folded.
    first: E[p sign(s s') 1{s -> s'}] of the exact product p.
    mean, variance: of the exact product.
    """

    states: np.ndarray
    even: Matrix
    odd: Matrix
    first: Matrix
    mean: float
    variance: float
    folded: bool


def build_chain(
    products: Law,
    grid: Grid,
    rounding: Rounding,
    steps: int,
    fold: bool | None = None,
    start: np.ndarray | None = None,
) -> Chain:
    """The chain over all states that `steps` additions to 0 can reach, and one more can hit.

    For continuous laws the states end where less than 1e-20 of the mass has gone; what lies
    beyond stays in the last state (the upper end of the exponent range is not modelled).

    Args:
      fold: whether to keep magnitudes only; default: whether `products` is symmetric.
      start: values to start from besides 0 (discrete products only).

    Raises:
      ValueError: more than 12,000 states of a continuous law (raise the grid's floor).
    """
    fold = is_symmetric(products) if fold is None else fold
    if isinstance(products, Discrete):
        states = _reachable(products, grid, rounding, steps, fold, start)
        even, odd, first = _listed(states, products, grid, rounding, fold)
        mean, variance = products.exact_moments
        mean = 0.0 if fold else mean
        return Chain(states, even, odd if fold else even, first, mean, variance, fold)
    return _continuous_chain(products, grid, rounding, steps, fold)


def _continuous_chain(products: Law, grid: Grid, rounding, steps: int, fold: bool) -> Chain:
    states = grid.magnitudes(top_of(products, grid, rounding, steps))
    states = states if fold else np.concatenate([-states[:0:-1], states])
    if len(states) > 12_000:
        raise ValueError(f"{len(states)} states are too many: raise the floor of the grid")
    grid = dataclasses.replace(grid, max=states[-1], overflow="saturate")
    base, nzr = (products.base, products.nzr) if isinstance(products, Sparse) else (products, 1.0)
    build = _aligned if rounding == "align" else _continuous
    even, odd, first = build(states, base, grid, rounding, fold)
    if nzr < 1:
        stay = (1 - nzr) * np.eye(len(states))
        even, odd, first = nzr * even + stay, nzr * odd + stay, nzr * first
        odd[states == 0] = 0
    return Chain(states, even, odd if fold else even, first, products.mean, products.variance, fold)


def top_of(products: Law, grid: Grid, rounding: Rounding, steps: int) -> float:
    """A magnitude that the sum of `steps` products stays below but for 1e-20 of its mass.

    Twelve standard deviations of the exact sum; or where no product can move the sum any
    more; stochastic rounding alone also has exponential tails, of scale 0.4 n sigma / 2^man.
    """
    largest = max(map(abs, products.support))
    reach = steps * abs(products.mean) + 12 * 1.25 * products.std * np.sqrt(steps)
    if rounding == "stochastic":
        return max(largest, reach + 12 * products.std * steps / 2.0**grid.man)
    half = 2 if rounding == "nearest" else 1
    frozen = 2.0 ** (grid.man + 1 + np.ceil(np.log2(half * largest)))
    return max(largest, min(reach, frozen))


def _reachable(products: Discrete, grid, rounding, steps: int, fold: bool, start) -> np.ndarray:
    states = new = np.zeros(1) if start is None else np.union1d(start, 0.0)
    rows = max(1, _BLOCK // len(products.values))
    for _ in range(steps + 1):
        found = []
        for block in (new[i : i + rows] for i in range(0, len(new), rows)):
            lower, upper, weight = add(block[:, None], products.values, grid, rounding)
            found += [lower[weight < 1], upper[weight > 0]]
        found = np.concatenate(found) + 0.0  # one zero
        new = np.setdiff1d(np.abs(found) if fold else found, states)
        if not len(new):
            break
        states = np.union1d(states, new)
    return states


def _listed(states: np.ndarray, products: Discrete, grid: Grid, rounding, fold: bool):
    """Rounds every sum of a state and an atom; sparse matrices."""
    rows = max(1, _BLOCK // len(products.values))
    parts = [
        _entries(states[i : i + rows], states, products, grid, rounding, fold)
        for i in range(0, len(states), rows)
    ]
    return tuple(sp.vstack([part[k] for part in parts], format="csr") for k in range(3))


def _entries(rows: np.ndarray, states: np.ndarray, products: Discrete, grid, rounding, fold):
    lower, upper, weight = add(rows[:, None], products.values, grid, rounding)
    row = np.broadcast_to(np.arange(len(rows))[:, None], weight.shape)
    shape = (len(rows), len(states))
    total = [sp.csr_array(shape)] * 3
    for target, share in ((lower, 1 - weight), (upper, weight)):
        used = share > 0
        value, share = target[used] + 0.0, share[used]
        atom = np.broadcast_to(np.arange(len(products.values)), weight.shape)[used]
        sign = np.sign(np.where(np.isnan(value), 0.0, value)) if fold else np.ones(len(value))
        value = np.abs(value) if fold else value
        column = np.minimum(np.searchsorted(states, value), len(states) - 1)
        held = (states[column] == value) | (np.isnan(states[column]) & np.isnan(value))
        where = (row[used][held], column[held])
        probs, first = products.probs[atom] * share, products.exact_first[atom] * share
        for k, data in enumerate((probs, probs * sign, first * sign)):
            total[k] = total[k] + sp.coo_array((data[held], where), shape).tocsr()
    return total


def _continuous(states: np.ndarray, law, grid: Grid, rounding, fold: bool):
    signed = np.concatenate([-states[:0:-1], states]) if fold else states
    probs, first = cell_probabilities(states, signed, law, rounding)
    return _fold(probs, first) if fold else (probs, probs, first)


def cell_probabilities(rows: np.ndarray, columns: np.ndarray, law, rounding: Rounding):
    """P(s -> s') and E[p 1{s -> s'}] for a continuous law; what lies beyond goes to the ends.

    Differences of P(fmt(s + p) <= s'), which stochastic rounding averages over a cell.
    rows: (R,) values s; columns: (C,) values s' of the grid without a gap.
    """
    if rounding == "stochastic":
        x = columns[None, :] - rows[:, None]
        below, first, second = law.partial_moments(x)
        cells = np.diff(columns)
        below, first = (
            np.diff(x * below - first, axis=1) / cells,  # E[(x - p)+] rises by P(p <= x) dx
            np.diff(x * first - second, axis=1) / cells,
        )
    else:
        middle = (columns[1:] + columns[:-1]) / 2
        truncated = np.where(middle > 0, columns[1:], columns[:-1])  # [s', ...) above 0
        edges = middle if rounding == "nearest" else truncated
        below, first, _ = law.partial_moments(edges[None, :] - rows[:, None])
    probs = np.diff(below, axis=1, prepend=0.0, append=1.0)
    return probs, np.diff(first, axis=1, prepend=0.0, append=law.mean)


def _aligned(states: np.ndarray, law, grid: Grid, rounding, fold: bool):
    """Within a binade of s, the truncated product is discrete."""
    signed = np.concatenate([-states[:0:-1], states]) if fold else states
    probs, first = np.zeros((2, len(states), len(signed)))
    ulps = grid.ulp(states)
    for ulp in np.unique(ulps):
        rows = np.flatnonzero(ulps == ulp)
        atoms = truncate_law(law, ulp, grid)
        part = _entries(states[rows], signed, atoms, grid, rounding, fold=False)
        probs[rows], first[rows] = part[0].toarray(), part[2].toarray()
    return _fold(probs, first) if fold else (probs, probs, first)


def truncate_law(law, ulp: float, grid: Grid) -> Discrete:
    """The law of p truncated to multiples of `ulp`, or of its own ulp where that is larger."""
    largest = max(map(abs, law.support))
    wide = dataclasses.replace(grid, emin=int(np.log2(ulp)) + grid.man, max=np.inf)
    positive = wide.magnitudes(largest)[1:]
    below, first, _ = law.partial_moments(np.concatenate([-positive[::-1], positive]))
    values = np.concatenate([-positive[::-1], [0.0], positive])
    return Discrete(
        values,
        np.diff(below, prepend=0.0, append=1.0),
        np.diff(first, prepend=0.0, append=law.mean),
    )


def _fold(probs: np.ndarray, first: np.ndarray):
    """Signed columns (N, 2N - 1) to magnitudes (N, N): even sum, odd difference."""
    middle = probs.shape[0] - 1
    even, odd = probs[:, middle:].copy(), probs[:, middle:].copy()
    signed_first = first[:, middle:].copy()
    even[:, 1:] += probs[:, middle - 1 :: -1]
    odd[:, 1:] -= probs[:, middle - 1 :: -1]
    signed_first[:, 1:] -= first[:, middle - 1 :: -1]
    odd[:, 0] = signed_first[:, 0] = 0  # an odd function vanishes at 0
    return even, odd, signed_first
