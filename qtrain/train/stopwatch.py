"""The time that a run spends in its steps: without compilation, evaluation and checkpoints."""

from __future__ import annotations

import time
from typing import Any


class Stopwatch:
    """Seconds and steps of a run, over all its sittings."""

    def __init__(self) -> None:
        self._seconds, self._steps = 0.0, 0  # in rows of metrics
        self._new_seconds, self._new_steps = 0.0, 0  # since the last row
        self._start = time.perf_counter()

    def resume(self, rows: list[dict[str, Any]]) -> None:
        """Counts what earlier sittings wrote: metrics of kind "time"."""
        for row in rows:
            self._seconds += row["seconds"]
            self._steps += row["steps"]

    def start(self) -> None:
        """Starts again at 0: what went before was no step."""
        self._start = time.perf_counter()

    def running(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start

    def lap(self, steps: int) -> None:
        """Counts `steps` steps since the start, and starts again."""
        self._new_seconds += self.running()
        self._new_steps += steps
        self.start()

    def row(self) -> dict[str, Any] | None:
        """What came since the last row, for the metrics; None if that is no step."""
        if not self._new_steps:
            return None
        row = {"seconds": self._new_seconds, "steps": self._new_steps}
        self._new_seconds, self._new_steps = 0.0, 0
        self.resume([row])
        return row

    @property
    def mean(self) -> float | None:
        """Seconds per step, or None before the first."""
        steps = self._steps + self._new_steps
        return (self._seconds + self._new_seconds) / steps if steps else None
