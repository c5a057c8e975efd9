"""A lock that all hosts of a cluster see, kept alive by its holder and free again soon after it dies."""

from __future__ import annotations

import os
import socket
import threading
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from cowshed import clock, log
from cowshed.contract.callbacks import SILENT, Progress
from cowshed.errors import Busy, CowshedError
from cowshed.tools.rbd import errors
from cowshed.tools.rbd.pool import Pool

_log = log.logger(__name__)

OBJECT: Final = "cowshed.locks"  # never removed: somebody may be waiting on it
LIFE = 30.0  # seconds a lock outlives its holder
_MUST_RENEW: Final = 2  # LIBRADOS_LOCK_FLAG_MUST_RENEW
_PAUSE: Final = 0.5

# Threads of this process wait here, not by asking the cluster over and over.
_local: defaultdict[tuple[str, str, str, str], threading.Lock] = defaultdict(threading.Lock)


class Held:
    """A lock that is held. Its renewal may fail: who is about to do what needs it asks :meth:`check`."""

    def __init__(self, pool: Pool, name: str, what: str, life: float) -> None:
        self._pool, self._name, self._what, self._life = pool, name, what, life
        self._cookie = uuid.uuid4().hex
        self._lost = False
        self._ended = threading.Event()
        self._renewing = threading.Thread(target=self._renew, daemon=True, name="rbd-lock")
        self._until = 0.0

    def take(self) -> bool:
        rados, _ = errors.bindings()
        with self._pool.ioctx() as ioctx, self._pool.cluster.errors_of("lock", self._what, kind="base"):
            try:
                self._lock(ioctx, 0)
            except rados.ObjectBusy:
                return False
            ioctx.set_xattr(OBJECT, f"holder.{self._name}", _me().encode())
        self._renewing.start()
        return True

    def _lock(self, ioctx: Any, flags: int) -> None:
        before = clock.current().monotonic()
        ioctx.lock_exclusive(OBJECT, self._name, self._cookie, _me(), int(self._life), flags)
        self._until = before + self._life

    def _renew(self) -> None:
        while not self._ended.wait(self._life / 3):
            try:
                with self._pool.ioctx() as ioctx, self._pool.cluster.errors_of("lock", self._what, kind="base"):
                    self._lock(ioctx, _MUST_RENEW)
            except CowshedError as error:
                _log.warning("the lock of %s could not be renewed: %s", self._what, error)
                if not isinstance(error, Busy) and clock.current().monotonic() < self._until:
                    continue  # the cluster may come back in time
                self._lost = True
                return

    def check(self) -> None:
        """:raises Busy: it was lost to somebody else meanwhile"""
        if self._lost or clock.current().monotonic() >= self._until:
            raise Busy(what=self._what, holder="another host, since this one could not reach the cluster in time")

    def release(self) -> None:
        self._ended.set()
        self._renewing.join()
        rados, _ = errors.bindings()
        with suppress(CowshedError, rados.Error), self._pool.ioctx() as ioctx:
            with suppress(rados.ObjectNotFound):
                ioctx.rm_xattr(OBJECT, f"holder.{self._name}")
            ioctx.unlock(OBJECT, self._name, self._cookie)


@contextmanager
def lock(
    pool: Pool, name: str, *, timeout: float, what: str, progress: Progress = SILENT, life: float | None = None
) -> Iterator[Held]:
    """Hold the lock ``name`` of the pool for the block.

    :param timeout: seconds to wait; 0: do not wait
    :param life: whole seconds after which the lock of a holder that died is free; None: ``LIFE``
    :raises Busy: somebody else held it all the time
    """
    deadline = clock.Deadline(timeout, what)
    here = _local[(pool.cluster.fsid, pool.name, pool.namespace, name)]
    while not here.acquire(timeout=min(deadline.remaining() or 0.0, _PAUSE)):
        progress.check()
        if deadline.passed:
            raise Busy(what=what, holder=f"another thread of {_me()}")
    try:
        held = Held(pool, name, what, life or LIFE)
        while not held.take():
            progress.check()
            if deadline.passed:
                raise Busy(what=what, holder=_holder(pool, name), hint="try again when it is done")
            clock.current().sleep(_PAUSE)
        try:
            yield held
        finally:
            held.release()
    finally:
        here.release()


def _me() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _holder(pool: Pool, name: str) -> str:
    rados, _ = errors.bindings()
    with suppress(rados.Error), pool.ioctx() as ioctx:
        return str(ioctx.get_xattr(OBJECT, f"holder.{name}").decode())
    return "another host"
