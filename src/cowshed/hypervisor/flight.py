"""Calls of libvirt, each on another thread than the one that waits for it.

Inside libvirt nothing reaches a thread: no ^C, no deadline, and, of several that wait on one connection, only one finds out
that the other side is silent. Who waits out here can be told all three.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextvars import copy_context
from queue import SimpleQueue
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")
Work = Callable[[], object]

KEPT: Final = 8  # threads that wait for the next call
GIVING_UP: Final = (
    30.0  # seconds an interrupted caller gives a call to end: what it does is over before it is taken back
)


class Cut(Exception):
    """The connection was lost meanwhile."""


class Late(Exception):
    """It has not returned in time; it goes on."""


class Flight(Generic[T]):
    """One call under way, from :meth:`begin` on."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._landed = threading.Event()
        self._value: Any = None
        self._error: BaseException | None = None
        self._ended = False

    def begin(self) -> Flight[T]:
        context = copy_context()  # what is logged there is about the same instance
        _hand_over(lambda: context.run(self._fly))
        return self

    def _fly(self) -> None:
        try:
            self._value = self._work()
        except BaseException as error:  # noqa: BLE001 - handed to who waits
            self._error = error
        self._ended = True
        self._landed.set()

    def cut(self) -> None:
        """Whoever waits for it is told that it will not return."""
        self._landed.set()

    def wait(self, seconds: float | None) -> T:
        """What it returns or raises. :raises Cut: :raises Late:"""
        try:
            landed = self._landed.wait(seconds)
        except BaseException:
            self._landed.wait(GIVING_UP)
            raise
        if self._ended:
            if self._error is not None:
                raise self._error
            value: T = self._value
            return value
        raise Cut if landed else Late


# --- threads, which are kept: starting one takes ten times as long as handing work to one ---------

_lock = threading.Lock()
_idle: list[SimpleQueue[Work]] = []


def _hand_over(work: Work) -> None:
    with _lock:
        tasks = _idle.pop() if _idle else None
    if tasks is None:
        tasks = SimpleQueue()
        threading.Thread(target=_serve, args=(tasks,), name="cowshed-libvirt-call", daemon=True).start()
    tasks.put(work)


def _serve(tasks: SimpleQueue[Work]) -> None:
    while True:
        tasks.get()()
        with _lock:
            if len(_idle) >= KEPT:
                return
            _idle.append(tasks)


def _forget_threads() -> None:
    """A child process has none of them."""
    global _lock
    _lock = threading.Lock()
    _idle.clear()


os.register_at_fork(after_in_child=_forget_threads)
