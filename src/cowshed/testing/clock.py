"""A clock that a test turns by hand."""

from __future__ import annotations

import threading

from cowshed.clock import Clock


class FakeClock(Clock):
    """Stands still until :meth:`turn`; whoever sleeps or waits for a time turns it itself.

    ::

        with cowshed.clock.using(FakeClock()) as clock:
            begin_something_with_a_deadline()
            clock.turn(61)

    :param now: what ``time`` says at the beginning (seconds since the epoch)
    """

    def __init__(self, now: float = 1_000_000_000.0) -> None:
        self._now = now
        self._elapsed = 0.0
        self._lock = threading.Lock()
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self._elapsed

    def time(self) -> float:
        return self._now + self._elapsed

    def turn(self, seconds: float) -> None:
        """``seconds`` pass."""
        if seconds < 0:
            raise ValueError("time does not run backwards")
        with self._lock:
            self._elapsed += seconds

    def sleep(self, seconds: float) -> None:
        """Returns at once, that much later. ``slept`` keeps every request."""
        self.slept.append(seconds)
        self.turn(max(0.0, seconds))

    def wait(self, condition: threading.Condition, seconds: float | None) -> None:
        """Really waits a moment, so that other threads get their turn; then all of ``seconds`` are over."""
        if not condition.wait(0.01) and seconds is not None:
            self.turn(seconds)
