"""The one clock that all waiting uses, so that a test can turn it by hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cowshed.errors import DeadlineExceeded


class Clock:
    """Real time. ``monotonic`` is for deadlines, ``time`` for what people read (seconds)."""

    def monotonic(self) -> float:
        return time.monotonic()

    def time(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def wait(self, condition: threading.Condition, seconds: float | None) -> None:
        """Wait for a notification of ``condition`` (held by the caller), at most ``seconds``."""
        condition.wait(seconds)


_clock = Clock()


def current() -> Clock:
    return _clock


@contextmanager
def using(clock: Clock) -> Iterator[Clock]:
    """Make ``clock`` the one that is used, for a test."""
    global _clock
    before, _clock = _clock, clock
    try:
        yield clock
    finally:
        _clock = before


class Deadline:
    """A point in time by which ``what`` must have happened.

    :param seconds: from now; None means no limit
    :param what: completes the sentence "... did not happen within 5 s"
    """

    def __init__(self, seconds: float | None, what: str) -> None:
        self.seconds = seconds
        self.what = what
        self._end = None if seconds is None else _clock.monotonic() + seconds

    def remaining(self) -> float | None:
        """Seconds left, never below zero; None without a limit."""
        return None if self._end is None else max(0.0, self._end - _clock.monotonic())

    @property
    def passed(self) -> bool:
        return self._end is not None and _clock.monotonic() >= self._end

    def check(self) -> None:
        """:raises DeadlineExceeded: the time is over"""
        if self.passed:
            raise DeadlineExceeded(what=self.what, seconds=self.seconds)


def poll(condition: Callable[[], bool], deadline: Deadline, *, interval: float = 0.02) -> None:
    """Return as soon as ``condition`` holds; for conditions that no event announces.

    :raises DeadlineExceeded: it did not hold in time
    """
    while not condition():
        deadline.check()
        _clock.sleep(interval)
