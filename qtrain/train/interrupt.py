"""Ctrl-C: among imports the end, in the loop a request that is answered between two steps."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, Self


def leave_on_interrupt(line: str) -> None:
    """From now on SIGINT prints `line` and ends the process with status 130.

    For the time of imports, in which KeyboardInterrupt may come back as another error.
    """

    def leave(number: int, frame: object) -> None:
        del number, frame
        print(f"\n{line}", file=sys.stderr, flush=True)  # noqa: T201
        os._exit(130)

    _handle_interrupt(leave)


def raise_on_interrupt() -> None:
    """From now on SIGINT raises KeyboardInterrupt, as Python does by itself."""
    _handle_interrupt(signal.default_int_handler)


def _handle_interrupt(handler: Callable[..., Any]) -> None:
    """Not where the signal is ignored, as it is in the background of a shell."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, handler)


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
