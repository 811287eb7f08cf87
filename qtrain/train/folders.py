"""Folders and files that runs share: made if need be, held by one at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has none, and does without
    fcntl = None  # type: ignore[assignment]


def made(folder: Path, *, what: str, remedy: str) -> Path:
    """The folder, which exists then.

    Raises:
      OSError: it cannot be made: "cannot write WHAT: why; REMEDY".
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot write {what}: {error.strerror}; {remedy}") from None
    return folder


@contextlib.contextmanager
def locked(path: Path, busy: Callable[[], None]) -> Iterator[None]:
    """Holds the lock of a file, which is made if need be and stays; it ends with the process.

    Where another holds it, `busy` is called, which may raise; then this waits. Without effect
    where the system has no such locks.
    """
    if fcntl is None:
        yield
        return
    with path.open("a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            busy()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
