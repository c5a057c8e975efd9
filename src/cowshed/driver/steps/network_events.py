"""Interfaces that somebody else connects: their guest stands still until that is done.

A guest that asked for an address before its network is there would get none, and start without.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from cowshed import log
from cowshed.errors import DeadlineExceeded, NetworkNotConnected
from cowshed.model.instance import Instance
from cowshed.model.vif import Vif

if TYPE_CHECKING:
    from cowshed.driver.rooms import Rooms

PLUGGED: Final = "network-vif-plugged"  # the event's name, and Neutron's

_log = log.logger(__name__)


@contextmanager
def awaited(rooms: Rooms, instance: Instance, vifs: Sequence[Vif]) -> Iterator[bool]:
    """In the block the interfaces are plugged and the guest is started, paused where this says True.

    Events may come as soon as something is plugged, and so they are listened for before; leaving the block waits.

    :raises DeadlineExceeded: they are not connected in time :raises NetworkNotConnected: they will not be
    """
    section = rooms.config.network
    wanted = [vif for vif in vifs if not vif.active] if section.connect_timeout else []
    if not wanted:
        yield False
        return
    events = [(PLUGGED, vif.id) for vif in wanted]
    started = False

    def failed(event: str, about: Any) -> bool:
        if section.connect_required:
            raise NetworkNotConnected(name=instance.name, reason=f"{event} is said to have failed")
        _log.warning("%s is said to have failed for %s; it starts all the same", event, instance.name)
        return True

    try:
        with rooms.waiter.wait_for_instance_event(
            instance, events, timeout=section.connect_timeout, error_callback=failed
        ):
            yield True
            started = True
            rooms.progress.phase("network")
    except TimeoutError as error:
        if not started:  # some other time was over
            raise
        which = ", ".join(vif.address for vif in wanted)
        if section.connect_required:
            raise DeadlineExceeded(
                what=f"{PLUGGED} for {which} of {instance.name}",
                seconds=section.connect_timeout,
                hint="does what connects them run? See [network] connect_timeout and connect_required",
            ) from error
        _log.warning("%s of %s: nobody said that it is connected; it starts all the same", which, instance.name)
