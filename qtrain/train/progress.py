"""How a run shows itself: a live bar on a terminal, elsewhere plain lines now and then."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

PLAIN_SECONDS = 10.0


class Bar:
    """Progress of one run of `total` steps; `report` is called now and then."""

    def __init__(
        self, name: str, *, total: int, epoch: int, batch: int, unit: str = "images",
        quiet: bool = False, file: TextIO | None = None,
    ):  # fmt: skip
        """`epoch` is its length in steps, `batch` the units per step; `quiet` shows nothing."""
        self._name, self._total, self._epoch = name, total, epoch
        self._batch, self._unit = batch, unit
        self._last, self._began, self._clock = 0, 0, time.perf_counter()
        self._said = self._clock
        self._quiet = quiet
        console = Console(file=file or sys.stdout)
        self._console = console
        self._live = None
        if console.is_terminal and not quiet:
            self._live = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                TextColumn("{task.fields[numbers]}"), console=console,
            )  # fmt: skip
            self._task = self._live.add_task(name, total=total, numbers="")

    def __enter__(self) -> Self:
        """Starts the live bar."""
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Leaves the terminal as it was."""
        if self._live is not None:
            self._live.stop()

    def compiling(self) -> None:
        """Says what takes so long before the first step."""
        if self._live is not None:
            self._live.update(self._task, numbers="compiling")
        else:
            self.say(f"{self._name}  compiling")

    def start_at(self, step: int) -> None:
        """Starts the clock of the speed: `step` steps are done, the program is compiled."""
        self._last, self._began, self._clock = step, step, time.perf_counter()

    def report(self, step: int, *, loss: float, accuracy: float, overflows: int) -> None:
        """Shows the state after `step` steps; plain lines at epochs, or after `PLAIN_SECONDS`."""
        if self._quiet:
            return
        seconds = (time.perf_counter() - self._clock) / max(step - self._began, 1)
        numbers = f"loss {loss:.3f}  accuracy {accuracy:.3f}"
        if step > self._began:
            speed = f"{self._batch / seconds:,.0f} {self._unit}/s"
            numbers += f"  {speed}  {_left(seconds, self._total - step)}"
        if overflows:
            numbers += f"  {overflows} skipped"
        if self._live is not None:
            self._live.update(self._task, completed=step, numbers=numbers)
        elif self._line_due(step):
            self.say(f"{self._name}  step {step}/{self._total}  {numbers}")
            self._said = time.perf_counter()
        self._last = step

    def _line_due(self, step: int) -> bool:
        late = time.perf_counter() - self._said > PLAIN_SECONDS
        return late or step // self._epoch > self._last // self._epoch or step == self._total

    def say(self, line: str) -> None:
        """Prints one line, above the bar if there is one."""
        if not self._quiet:
            self._console.print(line, highlight=False, soft_wrap=True, markup=False)


def _left(seconds: float, steps: int) -> str:
    minutes, rest = divmod(round(seconds * steps), 60)
    return f"{minutes}:{rest:02d} left"
