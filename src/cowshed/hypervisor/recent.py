"""The last bulk statistics: good for a moment, until something happens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

GOOD_FOR: Final = 0.5  # seconds

Stats = dict[str, dict[str, Any]]


class Recent:
    """One answer about all guests, for callers that ask several things about them, one after the other.

    :meth:`forget` at every change, also at those that happen while the answer is on its way.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asking = threading.Lock()
        self._changes = 0
        self._answer: Stats | None = None
        self._until = 0.0

    def forget(self) -> None:
        with self._lock:
            self._changes += 1
            self._answer = None

    def known(self) -> Stats | None:
        with self._lock:
            return self._answer if time.monotonic() < self._until else None

    def all(self, ask: Callable[[], Stats]) -> Stats:
        """The known answer, else what ``ask`` says; of several threads one asks. The values must not be changed."""
        with self._asking:
            if (answer := self.known()) is not None:
                return answer
            with self._lock:
                before = self._changes
            answer = ask()
            with self._lock:
                if self._changes == before:
                    self._answer, self._until = answer, time.monotonic() + GOOD_FOR
            return answer
