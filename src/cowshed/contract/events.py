"""What happens to instances without being asked."""

from __future__ import annotations

from cowshed import log
from cowshed.contract.callbacks import EventListener
from cowshed.model.event import Event

_log = log.logger(__name__)


class Events:
    """What happens to instances without being asked."""

    _listener: EventListener | None

    def register_event_listener(self, callback: EventListener | None) -> None:
        """``callback`` hears of every event from now on; it replaces the one before; None: nobody."""
        self._listener = callback

    def emit_event(self, event: Event) -> None:
        """Hand ``event`` to the listener; what the listener raises is logged and goes no further.

        :raises ValueError: it is not an Event
        """
        if not isinstance(event, Event):
            raise ValueError(f"{event!r} is not an event")  # noqa: TRY004 - the contract's error
        if self._listener is None:
            return
        try:
            self._listener(event)
        except Exception:  # noqa: BLE001 - a listener's failure is not ours
            _log.exception("the event listener failed on %s", event)
