"""The only room that knows libvirt: connection, guests, events, agent.

libvirt, and whatever of this room a caller does not use, are imported at first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from cowshed.hypervisor.events import EventKind, GuestEvent
    from cowshed.hypervisor.guest import Guest
    from cowshed.hypervisor.hypervisor import Hypervisor

__all__ = ["EventKind", "Guest", "GuestEvent", "Hypervisor"]

_HOMES: Final = {"Hypervisor": "hypervisor", "EventKind": "events", "GuestEvent": "events", "Guest": "guest"}


def __getattr__(name: str) -> Any:
    if home := _HOMES.get(name):
        return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
