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

    Negative zeros are left out: their code means nothing. With an offset, it is the least level.
    The number of steps that a row spans is the least for which some scale gives all its bits.
    """
    if not np.isfinite(levels).all():
        return None
    origin = (
        np.where(levels[:, :1] == 0, 0, levels[:, :1]) if offset else np.zeros((len(levels), 1))
    )
    distance = levels.astype(np.float64) - origin
    reach = np.abs(distance).max(axis=1, keepdims=True)
    scale = np.zeros(len(levels), np.float32)
    steps = np.zeros(levels.shape, np.int64)
    open_rows = reach[:, 0] > 0
    largest = np.abs(levels).max(axis=1, keepdims=True)
    for span in range(1, REACH + 1):
        if not open_rows.any():
            break
        rows = np.flatnonzero(open_rows)
        exact = distance[rows] * (span / reach[rows])
        # roundings of a level, of the largest one and of the offset, in steps
        doubt = span * 2.0**-22 * largest[rows] / reach[rows]
        likely = (np.abs(exact - np.rint(exact)) <= doubt).all(axis=1)
        for row, ideal in zip(rows[likely], np.rint(exact[likely]).astype(np.int64), strict=True):
            found = _scale(levels[row], ideal, origin[row], reach[row, 0] / span, offset)
            if found is not None:
                scale[row], steps[row], open_rows[row] = found, ideal, False
    first = int(steps.min())
    if open_rows.any() or int(steps.max()) - first > REACH:
        return None
    arrays = {"scale": scale}
    if offset:
        arrays["offset"] = origin[:, 0].astype(np.float32)
    return Grid(codes=steps - first, first=first, arrays=arrays)


def _scale(levels, steps, origin, ideal: float, offset: bool) -> np.float32 | None:
    """The scale near the ideal one that gives the bits of one row of levels, if there is one."""
    middle = np.float32(ideal).view(np.int32)
    tried = middle + np.arange(-_NEARBY[offset], _NEARBY[offset] + 1, dtype=np.int32)
    scales = tried[tried > 0].view(np.float32)
    with np.errstate(all="ignore"):
        values = scales[:, None] * steps.astype(np.float32)
        if offset:
            values = values + origin.astype(np.float32)
    minus_zero = levels.view(np.uint32) == 0x80000000
    same = (values.view(np.uint32) == levels.view(np.uint32)) | minus_zero
    good = np.flatnonzero(same.all(axis=1))
    return scales[good[0]] if len(good) else None
