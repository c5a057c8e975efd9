"""Who wants to know whether libvirt is there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

from cowshed import log

_log = log.logger(__name__)


class Link:
    """Tells a loss once, and its end once. What the listener raises is logged."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._away: Callable[[str], None] | None = None
        self._back: Callable[[], None] | None = None
        self._lost = False

    def watch(self, away: Callable[[str], None], back: Callable[[], None]) -> None:
        self._away, self._back = away, back

    @property
    def watched(self) -> bool:
        return self._away is not None

    def is_away(self, reason: str) -> None:
        with self._lock:
            if not self._lost and self._away:
                self._lost = True
                _heard(partial(self._away, reason))

    def is_back(self) -> None:
        with self._lock:
            if self._lost and self._back:
                self._lost = False
                _heard(self._back)


def _heard(call: Callable[[], object]) -> None:
    try:
        call()
    except Exception:  # noqa: BLE001 - somebody else's code; the connection does not depend on it
        _log.exception("could not tell that libvirt went or came")
