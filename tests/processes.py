"""Ending processes that are not children of the tests: daemons, and the guests they have started.

A number that a test or a file has kept for minutes may be somebody else's by now: a run starts more processes and threads
than the kernel has numbers, and a signal to the number of a thread reaches the process that it belongs to.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def end(pid: int, place: Path, number: int = signal.SIGTERM, patience: float = 20) -> None:
    """Send ``number`` to the process ``pid`` if it is one of ``place``, and wait ``patience`` seconds until it is gone."""
    with _held(pid, place) as held:
        assert held is None or _gone(held, number, patience), f"process {pid} does not end"


def end_all(place: Path, patience: float = 5) -> None:
    """End what has its pid file in ``place``; what goes on after ``patience`` seconds is killed."""
    for pidfile in place.rglob("*.pid"):
        with _held(_number_in(pidfile), place) as held:
            if held is not None and not _gone(held, signal.SIGTERM, patience):
                _gone(held, signal.SIGKILL, patience)


def _number_in(pidfile: Path) -> int:
    """-1: there is none, or it went away with its process."""
    try:
        return int(pidfile.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return -1


def _gone(held: int, number: int, patience: float) -> bool:
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(held, number)
    poll = select.poll()
    poll.register(held, select.POLLIN)
    return bool(poll.poll(patience * 1000))


@contextmanager
def _held(pid: int, place: Path) -> Iterator[int | None]:
    """A descriptor of the process, looked at after it was opened: its number is not given to another meanwhile."""
    try:
        held = os.pidfd_open(pid)
    except OSError:  # gone, or a thread's number
        yield None
        return
    try:
        yield held if _is_of(pid, place) else None
    finally:
        os.close(held)


def _is_of(pid: int, place: Path) -> bool:
    """Whether its command line or its environment names ``place``, a directory that no other process is told of."""
    name = os.fsencode(place)
    try:
        return any(name in Path(f"/proc/{pid}/{what}").read_bytes() for what in ("cmdline", "environ"))
    except OSError:
        return False
