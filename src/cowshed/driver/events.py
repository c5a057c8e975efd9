"""Events: what libvirt says of instances becomes the contract's lifecycle events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cowshed.contract.callbacks import EventListener
from cowshed.contract.events import Events as EventsContract
from cowshed.driver.rooms import Rooms
from cowshed.model.event import LifecycleEvent

if TYPE_CHECKING:
    from cowshed.hypervisor import GuestEvent


class Events(EventsContract):
    rooms: Rooms

    def register_event_listener(self, callback: EventListener | None) -> None:
        """``callback`` hears of every instance from now on; it replaces the one before."""
        super().register_event_listener(callback)
        if callback is not None:
            self.rooms.hypervisor.listen(self._heard)

    def _heard(self, event: GuestEvent) -> None:
        if event.transition is not None:
            self.emit_event(LifecycleEvent(event.uuid, event.transition, event.detail, timestamp=event.timestamp))
