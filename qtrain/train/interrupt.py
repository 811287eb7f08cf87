"""Ctrl-C as a request that the loop answers between two steps, so that nothing is lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any, Self


class Interrupt:
    """While active, the first SIGINT or SIGTERM sets `requested`; a second one acts at once."""

    def __init__(self, say: Callable[[str], None]):
        """`say` shows a line to the user."""
        self.requested = False
        self._say = say
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Takes over the signals, where Python lets us: in the main thread."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        """Gives them back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: object) -> None:
        del frame
        self.requested = True
        signal.signal(number, self._before[number])
        self._say("stopping after this step; once more to stop at once, without saving")
