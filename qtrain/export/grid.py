"""Evenly spaced levels: the scale and the integers that give them back bit for bit."""

from __future__ import annotations

import dataclasses

import numpy as np

REACH = 2**8 - 1  # most steps between two levels
_NEARBY = {False: 2, True: 16}  # scales tried to either side, in ulps, without and with an offset


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """Levels (groups, n) as scale[g] j + offset[g], with integers j = codes + first."""

    codes: np.ndarray  # int64 (groups, n), from 0
    first: int
    arrays: dict[str, np.ndarray]  # scale and, where there is one, offset: float32 (groups,)


def fit(levels: np.ndarray, *, offset: bool) -> Grid | None:
    """A grid that holds every level of float32 (groups, n), each row sorted; None: not found.

    What code a negative zero has means nothing. The number of steps that a row spans is the least
    for which some scale gives all its bits. Without an offset a grid of up to 255 steps is found
    if there is one: K scale, rounded, leaves three neighbours to choose from for the scale. With
    one, which is the least level, only scales within 16 ulps are tried: enough where the levels
    are not many times as far from zero as from each other.
    """
    if not np.isfinite(levels).all():
        return None
    origin = np.zeros((len(levels), 1), np.float32)
    if offset:
        origin = np.where(levels[:, :1] == 0, np.float32(0), levels[:, :1])
    found: list[tuple[np.float32, np.ndarray]] = []
    for row, start in zip(levels, origin, strict=True):
        if (one := _row(row, start, offset)) is None:
            return None
        found.append(one)
    steps = np.stack([one[1] for one in found])
    first = int(steps.min())
    if int(steps.max()) - first > REACH:
        return None
    arrays = {"scale": np.array([one[0] for one in found], np.float32)}
    if offset:
        arrays["offset"] = origin[:, 0]
    return Grid(codes=steps - first, first=first, arrays=arrays)


def _row(
    levels: np.ndarray, origin: np.ndarray, offset: bool
) -> tuple[np.float32, np.ndarray] | None:
    """Scale and integers of one row."""
    distance = levels.astype(np.float64) - origin
    reach = np.abs(distance).max()
    if reach == 0:
        return np.float32(0), np.zeros(levels.shape, np.int64)
    spans = np.arange(1, REACH + 1)[:, None]
    exact = distance * (spans / reach)
    # at most two roundings of a level and two of the largest, in steps
    doubt = spans * (2.0**-21 * max(np.abs(levels).max() / reach, 1))
    likely = (np.abs(exact - np.rint(exact)) <= doubt).all(axis=1)
    for span in np.flatnonzero(likely) + 1:
        steps = np.rint(exact[span - 1]).astype(np.int64)
        scale = _scale(levels, steps, origin if offset else None, reach / span)
        if scale is not None:
            return scale, steps
    return None


def _scale(
    levels: np.ndarray, steps: np.ndarray, offset: np.ndarray | None, ideal: float
) -> np.float32 | None:
    """The scale near the ideal one that gives the bits of one row of levels, if there is one."""
    nearby = _NEARBY[offset is not None]
    patterns = np.float32(ideal).view(np.int32) + np.arange(-nearby, nearby + 1, dtype=np.int32)
    scales = patterns[patterns > 0].view(np.float32)
    with np.errstate(all="ignore"):
        values = scales[:, None] * steps.astype(np.float32)
        if offset is not None:
            values = values + offset
    bits = levels.view(np.uint32)
    same = (values.view(np.uint32) == bits) | (bits == 0x80000000)
    good = np.flatnonzero(same.all(axis=1))
    return scales[good[0]] if len(good) else None
