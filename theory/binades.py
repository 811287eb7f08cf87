"""What a narrow accumulator does far from 0, binade by binade, as a diffusion sees it.

Inside a binade with spacing u the sum is a random walk on u Z: per addition a drift b(u) and a
variance v(u). At a power of two the spacing doubles, and the walk's local martingale bends
there: its slope changes by a factor, the edge ratio, that no b and v can express.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from theory.addition import Grid, Rounding, add
from theory.products import (
    Discrete,
    Gaussian,
    Gridded,
    Law,
    Sparse,
    Uniform,
    discrete,
    is_symmetric,
)
from theory.transitions import cell_probabilities, truncate_law

_FINE = 64  # u = std / _FINE: from here on down, the leading terms in u suffice for atomless laws
_REACH = 4.0  # standard deviations on either side of an edge until its influence has died out


def mirrored(law: Law) -> Law:
    """The law of -p."""
    if isinstance(law, Discrete):
        return Discrete(-law.values[::-1], law.probs[::-1])
    if isinstance(law, Sparse):
        return Sparse(mirrored(law.base), law.nzr)
    if isinstance(law, Gridded):
        return Gridded(mirrored(law.base), law.man)
    return type(law)(mean=-law.mean, std=law.std)


@functools.lru_cache(maxsize=8192)
def drift_and_variance(law: Law, ulp: float, rounding: Rounding) -> tuple[float, float]:
    """b(u) and v(u): long-run mean and variance per addition, for a positive sum s >> |p|.

    Nearest rounding of atoms that lie on ties depends on whether s is an even multiple of u;
    the long-run values are those of the walk modulated by this parity.
    """
    if isinstance(law, Sparse):
        b, v = drift_and_variance(law.base, ulp, rounding)
        return law.nzr * b, law.nzr * (v + b * b) - (law.nzr * b) ** 2
    if isinstance(law, Gridded):
        return _gridded_drift_and_variance(law, ulp, rounding)
    if not isinstance(law, Discrete) and ulp < law.std / _FINE:
        return _fine_drift_and_variance(law, ulp, rounding)
    if ulp <= quantum(law):
        return law.mean, law.variance  # every sum is exact
    if rounding == "stochastic":
        return law.mean, law.variance + _stochastic_variance(law, ulp)
    if isinstance(law, Discrete):
        place, start = law.values / ulp, np.array([[0.0], [1.0]])  # an even and an odd one
        if rounding == "nearest":
            target = np.rint(start + place)
        else:
            target = start + (np.floor(place) if rounding == "toward_zero" else np.trunc(place))
        probs, steps = np.broadcast_to(law.probs, target.shape), (target - start) * ulp
        return _modulated_walk(probs, steps, target)
    count = math.ceil(max(map(abs, law.support)) / ulp) + 2
    grid, edge = _local_grid(ulp, count * ulp)
    steps = np.arange(-count, count + 2) * ulp
    rows = 0.75 * edge + np.array([0.0, ulp])
    probs = local_kernel(rows, 0.75 * edge + steps, law, grid, rounding)
    parity = np.broadcast_to(np.arange(len(steps)) + count, probs.shape)
    return _modulated_walk(probs, steps - np.array([[0.0], [ulp]]), parity)


def _modulated_walk(probs, steps, target) -> tuple[float, float]:
    """Mean and variance per step (Green-Kubo) of a walk whose law depends on its parity.

    probs, steps, target: (2, C), the law from an even and from an odd place, and where to, in
    ulps (up to an even number).
    """
    odd = target % 2
    to_odd = (probs * odd).sum(axis=1)
    leave, back = to_odd[0], 1 - to_odd[1]
    share = back / (leave + back) if leave + back > 1e-15 else 1.0  # of even places; starts at 0
    weights = np.array([share, 1 - share])
    means = (probs * steps).sum(axis=1)
    b = weights @ means
    centred = steps - b
    v = weights @ (probs * centred**2).sum(axis=1)
    if leave + back > 1e-15:  # sum over later steps of E[step - b | parity], odd minus even
        later = (means[1] - means[0]) / (leave + back)
        v += 2 * later * (weights @ (probs * centred * odd).sum(axis=1))
    return float(b), float(max(v, 0.0))


def _stochastic_variance(law, ulp: float) -> float:
    """E[u^2 f (1 - f)], f the fraction of p / u."""
    if isinstance(law, Discrete):
        f = law.values / ulp - np.floor(law.values / ulp)
        return float(ulp**2 * (law.probs @ (f * (1 - f))))
    count = math.ceil(max(map(abs, law.support)) / ulp) + 1
    x = np.arange(-count, count + 1) * ulp
    below, first, second = law.partial_moments(x)
    # sum over cells [x, x + u) of E[(p - x)(x + u - p)]
    m0, m1, m2 = np.diff(below), np.diff(first), np.diff(second)
    return float(((2 * x[:-1] + ulp) * m1 - m2 - x[:-1] * (x[:-1] + ulp) * m0).sum())


def _gridded_drift_and_variance(law: Gridded, ulp: float, rounding: Rounding):
    """Truncating multiples of q loses (u - q)+ / 2 on average, not u / 2."""
    b, v = drift_and_variance(law.base, ulp, rounding)
    plain, signed, size = law.mean_spacing(ulp)
    if rounding == "toward_zero":
        return b + plain / 2, v
    if rounding == "align":  # E[(|p| - (u - q)/2)^2] to leading order
        second = v + b * b + size
        return b + signed / 2, max(second - (b + signed / 2) ** 2, 0.0)
    return b, v


def _fine_drift_and_variance(law: Gaussian | Uniform, ulp: float, rounding: Rounding):
    """Leading terms for u << std, where p / u mod 1 is uniform but for O(u/std)^2 at most."""
    noise = ulp**2 / 12
    if rounding == "nearest":
        return law.mean, law.variance + noise
    if rounding == "stochastic":
        return law.mean, law.variance + 2 * noise
    if rounding == "toward_zero":
        return law.mean - ulp / 2, law.variance + noise
    below, negative, _ = (float(x) for x in law.partial_moments(np.float64(0.0)))
    b = law.mean - ulp / 2 * (1 - 2 * below)
    second = law.variance + law.mean**2 - ulp * (law.mean - 2 * negative) + ulp**2 / 3
    return b, second - b * b


@functools.lru_cache(maxsize=8192)
def edge_ratio(law: Law, ulp: float, rounding: Rounding) -> float:
    """Slope above / slope below a power of two of the walk's local martingale; `ulp` is below.

    Solves E[h(s')|s] = h(s) exactly near the edge, h given outside. For atomless laws and
    u << std it is 1 + u^2 / (4 Var p) to nearest, 1 + u E|p| / (2 Var p) for align (see
    `regimes.edge_terms`). Stochastic rounding is a martingale already: 1. Toward zero, 1 is
    taken: where its drift lets the sum get to, u << std, and drift is continuous there. Where
    a drift dominates, the ratio is that of p with a random sign: the sum crosses an edge once,
    and is moved by less than an ulp there. Infinite where the edge reflects.
    """
    if rounding in ("stochastic", "toward_zero") or ulp < quantum(law):
        return 1.0
    if isinstance(law, Gridded):
        return edge_ratio(law.base, ulp, rounding)
    fine = law.std / (16 if rounding == "align" else 8)
    if ulp < fine:
        return _fine_edge_ratio(law, ulp, rounding, 2.0 ** math.ceil(math.log2(fine)))
    if drift_and_variance(law, 2 * ulp, rounding)[1] < 1e-12 * law.variance:
        # Frozen above. To nearest, |p| <= u then: no sum passes the edge, and one at it can go
        # back. Aligned, a sum at the edge already has the spacing 2u, and stays.
        return math.inf if rounding == "nearest" else 1.0
    zone = 2 * _REACH * law.std + 24 * ulp
    sides = [drift_and_variance(law, spacing, rounding) for spacing in (ulp, 2 * ulp)]
    if not is_symmetric(law) and max(abs(b) / v for b, v in sides) * zone > 0.3:
        return edge_ratio(_symmetrized(law), ulp, rounding)
    grid, edge = _local_grid(ulp, 2 * zone)
    below = edge - np.arange(math.ceil(2 * zone / ulp), 0, -1) * ulp
    columns = np.concatenate([below, edge + np.arange(math.ceil(zone / ulp) + 1) * 2 * ulp])
    inside = np.abs(columns - edge) < zone
    probs = local_kernel(columns[inside], columns, law, grid, rounding)
    value, x = _harmonic(probs, columns - edge, inside), columns[inside] - edge
    slopes = []
    for side, (b, v) in zip((-1, 1), sides, strict=True):
        middle = (side * x > 0.3 * zone) & (side * x < 0.7 * zone)
        slope = np.polyfit(x[middle] / zone, value[middle], 1)[0]
        slopes.append(slope * math.exp(b / v * side * zone))  # at the edge: h' ~ exp(-2 b x / v)
    return float(slopes[1] / slopes[0])


@functools.lru_cache(maxsize=64)
def _symmetrized(law: Law) -> Law:
    """The law of p with a random sign; of the same mean square for atomless laws."""
    if isinstance(law, Discrete):
        other = mirrored(law)
        return discrete(np.append(law.values, other.values), np.append(law.probs, other.probs) / 2)
    if isinstance(law, Sparse):
        return Sparse(_symmetrized(law.base), law.nzr)
    return type(law)(std=math.hypot(law.std, law.mean), mean=0.0)


def _fine_edge_ratio(law: Law, ulp: float, rounding: Rounding, solved: float) -> float:
    """Linear (quadratic, to nearest) in u down from `solved`, which is solved for."""
    if rounding == "nearest" and not isinstance(law, Discrete):
        return 1 + ulp**2 / (4 * law.variance)
    share = ulp / solved if rounding == "align" else (ulp / solved) ** 2
    return 1 + (edge_ratio(law, solved, rounding) - 1) * share


def quantum(law: Law) -> float:
    """The largest power of two that all products are multiples of; 0 for atomless laws."""
    if not isinstance(law, Discrete):
        return 0.0
    steps = law.values[law.values != 0]
    if not len(steps):
        return math.inf
    mantissas, exponents = np.frexp(steps)
    whole = np.abs(np.ldexp(mantissas, 53)).astype(np.int64)
    return float(np.ldexp((whole & -whole).astype(float), exponents - 53).min())


def _harmonic(probs: np.ndarray, x: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """H on the inside columns; outside, h is the position x (any values would do)."""
    matrix, known = np.eye(len(probs)) - probs[:, inside], probs[:, ~inside] @ x[~inside]
    try:
        return np.linalg.solve(matrix, known)
    except np.linalg.LinAlgError:  # places that are never left: any value there
        return np.linalg.lstsq(matrix, known, rcond=None)[0]


def _local_grid(ulp: float, room: float) -> tuple[Grid, float]:
    """A grid with spacing `ulp` below an edge (a power of two) that has `room` on both sides."""
    man = max(3, math.ceil(math.log2(4 * room / ulp)))
    edge = ulp * 2.0 ** (man + 1)
    return Grid(man, int(math.log2(edge)) - 4, math.inf), edge


def local_kernel(rows, columns, law: Law, grid: Grid, rounding: Rounding) -> np.ndarray:
    """P(s -> s'), (R, C), for positive s; what lies beyond the columns goes to their ends."""
    if isinstance(law, Sparse):
        stay = (rows[:, None] == columns) * (1 - law.nzr)
        return law.nzr * local_kernel(rows, columns, law.base, grid, rounding) + stay
    if not isinstance(law, Discrete):
        if rounding != "align":
            return cell_probabilities(rows, columns, law, rounding)[0]
        ulps = grid.ulp(rows)
        parts = [
            local_kernel(rows[ulps == u], columns, truncate_law(law, u, grid), grid, rounding)
            for u in np.unique(ulps)
        ]
        return np.concatenate(parts)
    lower, upper, weight = add(rows[:, None], law.values, grid, rounding)
    size, found = len(columns), np.zeros(len(rows) * len(columns))
    for target, share in ((lower, 1 - weight), (upper, weight)):
        column = np.minimum(np.searchsorted(columns, target), size - 1)
        place = np.arange(len(rows))[:, None] * size + column
        found += np.bincount(place.ravel(), (law.probs * share).ravel(), len(found))
    return found.reshape(len(rows), size)
