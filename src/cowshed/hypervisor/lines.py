"""More connections to one libvirt, for when several calls are under way at once: each has one of its own.

A daemon works on five calls of one connection (``max_client_requests``) and reads nothing more from it meanwhile, not even
the messages that keep it alive: five guests that are saved or migrated would hold up all others for as long as that takes,
or for 20 seconds, after which the connection counts as lost. And where threads share one, libvirt's client lets one of them
read for all; when that one changes, an answer now and then lies there until the next of those messages (5 s, libvirt 9.0).
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any, Final

from cowshed import log
from cowshed.errors import CowshedError

_log = log.logger(__name__)

MOST: Final = 1  # calls at once on one connection
KEPT: Final = 4  # connections that wait for the next call


def most(uri: str) -> int:
    """Calls at once on one connection. Drivers inside this process have no daemon, and a second connection may be another host."""
    return sys.maxsize if uri.startswith("test:") or "/embed" in uri else MOST


class Line:
    """A connection to make one call on, and what gives it back."""

    def __init__(self, connection: Any, give_back: Callable[[], None]) -> None:
        self.connection = connection
        self.give_back = give_back


class Lines:
    """Beside ``main``, a connection that somebody else opens and ends.

    :param dial: opens another one
    :param hang_up: ends one
    :param most: calls at once on ``main``
    """

    def __init__(self, main: Any, dial: Callable[[], Any], hang_up: Callable[[Any], None], *, most: int = MOST) -> None:
        self._main, self._most = main, most
        self._dial, self._hang_up = dial, hang_up
        self._lock = threading.Lock()
        self._busy = 0
        self._idle: list[Any] = []
        self._ended = False

    def take(self) -> Line:
        """Where there is no other to be had, the main one, however much it has to do."""
        with self._lock:
            if self._busy < self._most:
                self._busy += 1
                return Line(self._main, self._leave)
            found = self._idle.pop() if self._idle else None
        if found is None:
            try:
                found = self._dial()
            except CowshedError as error:
                _log.warning("no further connection to libvirt: %s", error)
                with self._lock:
                    self._busy += 1
                return Line(self._main, self._leave)
        return Line(found, lambda: self._keep(found))

    def _leave(self) -> None:
        with self._lock:
            self._busy -= 1

    def _keep(self, connection: Any) -> None:
        with self._lock:
            if not self._ended and len(self._idle) < KEPT and _alive(connection):
                self._idle.append(connection)
                return
        self._hang_up(connection)

    def end(self) -> None:
        """End all but the main one; those with a call under way end with it."""
        with self._lock:
            self._ended = True
            idle, self._idle = self._idle, []
        for connection in idle:
            self._hang_up(connection)


def _alive(connection: Any) -> bool:
    try:
        return bool(connection.isAlive())
    except Exception:  # noqa: BLE001 - libvirtError, which this module does not load
        return False
