"""The limit of wide accumulators: a skew diffusion, solved on a few hundred nodes.

For n additions, s / (2^man std) tends as man grows, at equal t = n / 4^man, to the diffusion
with the drift and variance of its binade and, at each power of two, the edge ratio as a jump
in the slope of its scale function (a skew diffusion). The finite volumes keep E[s^2] exactly
where the variance is constant, and positive probabilities always.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.linalg import solve_banded

from theory.addition import Grid, Rounding
from theory.binades import drift_and_variance, edge_ratio, mirrored
from theory.products import Law, is_symmetric
from theory.transitions import top_of

_GAMMA = 1 - math.sqrt(0.5)  # makes the two-stage diagonally implicit method L-stable, order 2
_GROWTH = 0.04  # of successive time steps
_NO_MEAN = 1e-9  # |mean| / std of laws whose mean is 0 but for float64 rounding


def diffuse(products: Law, man: int, n: float, rounding: Rounding) -> tuple[np.ndarray, np.ndarray]:
    """Values and probabilities of the sum of n products in `man` mantissa bits.

    Symmetric laws are solved on |s|, and returned so. The cost grows with the number of
    additions' mean over spread at the widest exact sum, M = 2^man |mean| / std: keep it below
    about 300.
    """
    if products.mean < -_NO_MEAN * products.std:
        x, law = diffuse(mirrored(products), man, n, rounding)
        return -x[::-1], law[::-1]
    x = _nodes(products, man, n, rounding)
    cells = _cells(products, x, man, rounding)
    x = x[: cells.shape[1] + 1]
    if not is_symmetric(products):
        # an excursion below 0 against the mean decays like exp(-2 mean |s| / variance)
        reach = 20 * products.variance / max(products.mean, _NO_MEAN * products.std)
        y = x[: np.searchsorted(x, reach) + 2]
        negative = _cells(mirrored(products), y, man, rounding)
        y = y[: negative.shape[1] + 1]
        negative[0] *= -1
        x = np.concatenate([-y[:0:-1], x])
        cells = np.concatenate([negative[:, ::-1], cells], axis=1)
    start = np.where(x == 0, 1.0, 0.0)
    smallest = np.diff(x).min() ** 2 / products.variance / 4
    steps = _time_steps(products, man, n, min(n, smallest))
    return x, _evolve(start, _generator(x, *cells), steps)


def has_mean(products: Law) -> bool:
    """Whether the mean is more than rounding errors of float64."""
    return abs(products.mean) > _NO_MEAN * products.std


def _nodes(products: Law, man: int, n: float, rounding: Rounding) -> np.ndarray:
    """Non-negative nodes: evenly spaced while finer than the law is wide, then per binade."""
    width = products.std * math.sqrt(n)
    if rounding == "toward_zero" and not has_mean(products):  # -u/2 confines it to 2^(man/2) std
        width = min(width, products.std * 2.0 ** (man / 2))
    count, spacing = 32, width / 64
    if has_mean(products):  # cells in which the drift does not outweigh the variance
        bias = abs(products.mean) * 2.0**man / products.std
        count = 2 ** math.ceil(math.log2(max(64.0, 4 * bias)))
        spacing = min(spacing, products.variance / abs(products.mean))
    grid = Grid(man, -200, math.inf)
    top = top_of(products, grid, rounding, math.ceil(n)) + 4 * products.std
    first = math.floor(math.log2(spacing * count))
    fractions = np.arange(count) / count
    parts = [2.0**first * fractions]
    for k in range(first, max(math.ceil(math.log2(top)), first + 1)):
        parts.append(2.0**k * (1 + fractions))
    x = np.append(np.concatenate(parts), 2.0 ** (k + 1))
    return x[: np.searchsorted(x, top) + 2]


def _cells(products: Law, x: np.ndarray, man: int, rounding: Rounding) -> np.ndarray:
    """Drift, variance and slope of the scale function of each cell between nodes x >= 0.

    Fewer cells than nodes ask for where a power of two reflects.
    """
    binade = np.floor(np.log2((x[1:] + x[:-1]) / 2)).astype(int)
    slope, rows = 1.0, {}
    for k in range(binade[0], binade[-1] + 1):
        if k > binade[0]:
            slope *= edge_ratio(products, 2.0 ** (k - 1 - man), rounding)
        if math.isinf(slope):
            binade = binade[binade < k]
            break
        b, v = drift_and_variance(products, 2.0 ** (k - man), rounding)
        rows[k] = (b, max(v, 1e-14 * products.variance), min(slope, 1e60))
    return np.array([rows[k] for k in binade]).T


def _generator(x: np.ndarray, drift, variance, slope):
    """Rates up and down (N,) of the nearest-neighbour chain; the ends reflect.

    Central differences, whose variance is exact, where the cell is small enough for positive
    rates. Elsewhere the drift's own |b| h takes the place of the variance, which is upwind
    differencing, and the cell's mass belongs to the node upstream: a sum that the drift carries
    through takes h / b for it, once, whatever it does beyond.
    """
    h = np.diff(x)
    carried = np.sign(drift) * (np.abs(drift) * h > variance)
    variance = np.maximum(variance, np.abs(drift) * h)
    share = h / (variance * slope)  # half a cell's mass 2 / (v S')
    mass = np.append(share * (1 + carried), 0.0) + np.append(0.0, share * (1 - carried))
    mass[0], mass[-1] = max(mass[0], share[0]), max(mass[-1], share[-1])  # the ends reflect
    lean = drift * h / variance
    up = (1 + lean) / (slope * h) / mass[:-1]
    down = (1 - lean) / (slope * h) / mass[1:]
    return np.append(up, 0.0), np.append(0.0, down)


def _time_steps(products: Law, man: int, n: float, first: float) -> np.ndarray:
    """Steps that grow with time, and sum to n.

    While rounding does not matter much, the law at time t is sqrt(t) std wide: with a mean, no
    step may carry it farther than a part of that, or it would pick up negative probabilities.
    By t = 4 2^man max(1, std / |mean|) products it has widened or stalled.
    """
    ratio = abs(products.mean) / products.std if has_mean(products) else 0.0
    narrow = 4 * 2.0**man * max(1.0, 1 / ratio) if ratio else 0.0
    steps, time = [], 0.0
    while time < n:
        slow = 0.2 / (ratio * math.sqrt(max(time, 1.0))) if time < narrow else _GROWTH
        steps.append(max(first, time * min(slow, _GROWTH)))
        time += steps[-1]
    return np.array(steps) * (n / time)


def _evolve(law: np.ndarray, rates, steps: np.ndarray) -> np.ndarray:
    """The law after the steps of d law / dt = law Q."""
    up, down = rates
    for dt in steps:
        bands = np.zeros((3, len(law)))
        bands[0, 1:] = -_GAMMA * dt * down[1:]
        bands[1] = 1 + _GAMMA * dt * (up + down)
        bands[2, :-1] = -_GAMMA * dt * up[:-1]
        first_stage = solve_banded((1, 1), bands, _flow(law, up, down), check_finite=False)
        guess = law + dt * (1 - _GAMMA) * first_stage
        second = solve_banded((1, 1), bands, _flow(guess, up, down), check_finite=False)
        law = guess + dt * _GAMMA * second
    return np.maximum(law, 0.0) / np.maximum(law, 0.0).sum()


def _flow(law: np.ndarray, up: np.ndarray, down: np.ndarray) -> np.ndarray:
    """The time derivative law Q."""
    rising, falling = up * law, down * law
    change = -rising - falling
    change[1:] += rising[:-1]
    change[:-1] += falling[1:]
    return change
