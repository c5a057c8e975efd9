"""Trying again, within bounds: longer waits each time, a little by chance, never for ever."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from cowshed import clock, log
from cowshed.contract.callbacks import Progress
from cowshed.errors import CowshedError
from cowshed.units import format_duration

_log = log.logger(__name__)

_LONGEST_WAIT: Final = 60.0  # seconds, unless the server asks for more
_LONGEST_TOTAL: Final = 180.0
_WORTH_A_WORD: Final = 2.0
_FIRST_WAIT: Final = 0.5
_STEP: Final = 0.5  # how soon an interruption is noticed


class Transient(Exception):
    """Worth another attempt. ``wait`` is what the server asked for, in seconds."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class Attempts:
    """Counts attempts and waits between them.

    :param retries: after the first attempt
    :param what: names the thing in the log
    :param failed: makes the error of the last attempt from its reason
    :param places: servers that can be asked: only after all of them had their turn it waits and counts
    """

    def __init__(
        self, retries: int, what: str, failed: Callable[[str], CowshedError], progress: Progress, *, places: int = 1
    ) -> None:
        self._retries = retries
        self._what = what
        self._failed = failed
        self._progress = progress
        self._places = places
        self.renew()

    def renew(self) -> None:
        """Much was achieved: count anew."""
        self._left = self._retries
        self._total = 0.0
        self._turns = 0
        self._first: Transient | None = None

    def again(self, error: Transient) -> None:
        """Returns when it is time for the next attempt.

        :raises CowshedError: that was enough; it names the last reason, and the first where that was another one
        """
        self._first = self._first or error
        self._turns += 1
        if self._turns % self._places:
            _log.info("%s: %s; asking another server", self._what, error)
            return
        if not self._left:
            raise self._enough(error) from self._first
        wait = _FIRST_WAIT * 2 ** (self._retries - self._left) * random.uniform(0.75, 1.25)
        asked = error.wait or 0.0
        wait = max(min(_LONGEST_WAIT, wait), asked)
        self._left -= 1
        self._total += wait
        if self._total > _LONGEST_TOTAL:
            raise self._too_long(error, asked) from self._first
        if asked >= _WORTH_A_WORD:
            self._progress.note(f"{self._what}: {error}; the server asks to wait {format_duration(asked)}")
        _log.info("%s: %s; trying again in %.1f s", self._what, error, wait)
        while wait > 0:
            self._progress.check()
            clock.current().sleep(min(wait, _STEP))
            wait -= _STEP

    def _too_long(self, error: Transient, asked: float) -> CowshedError:
        most = format_duration(_LONGEST_TOTAL)
        wish = f"the server asks to wait {format_duration(asked)}" if asked else "it needs too much patience"
        failed = self._failed(f"{error}; {wish}, and {most} in all is the longest wait")
        failed.hint = failed.hint or "try again later"
        return failed

    def _enough(self, error: Transient) -> CowshedError:
        reason = f"{error} ({self._turns} attempts)" if self._turns > 1 else str(error)
        if self._first and str(self._first) != str(error):
            reason += f"; at first: {self._first}"
        failed = self._failed(reason)
        failed.hint = failed.hint or "try again later"
        return failed


def retry_after(text: str) -> float | None:
    """Seconds (RFC 9110, 10.2.3: a number or a date); nonsense is ignored."""
    if text.isdecimal():
        return float(text[:9])
    from email.utils import parsedate_to_datetime

    try:
        return parsedate_to_datetime(text).timestamp() - clock.current().time()
    except (ValueError, TypeError, OverflowError):
        return None
