"""libvirt's event loop: one per process, on a thread of its own, started before the first connection.

Keep-alive messages, streams and events of every connection need it. libvirt allows one
implementation per process; a host program that has registered its own keeps it.
"""

from __future__ import annotations

import os
import threading

from cowshed import log
from cowshed.hypervisor.binding import libvirt

_log = log.logger(__name__)
_lock = threading.Lock()
_owner: int | None = None


def ensure() -> None:
    """Start the loop of this process; again is nothing."""
    global _owner
    with _lock:
        if _owner == os.getpid():
            return
        if _owner is None:
            libvirt().virEventRegisterDefaultImpl()
        _owner = os.getpid()
        _tick()
        threading.Thread(target=_run, name="cowshed-libvirt-events", daemon=True).start()


def _run() -> None:
    module = libvirt()
    while True:
        try:
            module.virEventRunDefaultImpl()
        except module.libvirtError as error:
            _log.warning("libvirt's event loop stumbled: %s", error)


def _tick() -> None:
    """A timer that never has anything to do: without any handle or timer the loop would spin."""
    libvirt().virEventAddTimeout(3600 * 1000, _nothing, None)


def _nothing(timer: int, opaque: object) -> None:
    pass
