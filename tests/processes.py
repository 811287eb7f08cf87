"""Processes of one run on loopback: a port for their coordinator, and none outlives its test."""

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence

PATIENCE = 180  # seconds; only a hang takes that long


@contextlib.contextmanager
def coordinator() -> Iterator[str]:
    """An address that no other program gets while it is held.

    The port stays bound here, without listening. The coordinator can bind it beside: gRPC sets
    SO_REUSEPORT too, and is the one that listens.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


@contextlib.contextmanager
def running(
    commands: Sequence[Sequence[str]], environment: dict[str, str], **options
) -> Iterator[list[subprocess.Popen]]:
    """The commands at once; what still runs in the end, or after an error, is killed."""
    with contextlib.ExitStack() as stack:
        processes = []
        for command in commands:
            process = stack.enter_context(subprocess.Popen(command, env=environment, **options))
            stack.callback(process.kill)  # nothing where it has ended
            processes.append(process)
        yield processes


def statuses(processes: Sequence[subprocess.Popen], want: int = 0) -> list[int | None]:
    """Exit statuses when all have ended, or one with another status than `want`; None: runs on."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = [p.poll() for p in processes]
        if None not in found or {*found} - {None, want}:
            return found
        time.sleep(0.05)
    return [p.poll() for p in processes]
