"""Promises of events."""

from __future__ import annotations

import threading
from typing import Final

from cowshed.model.event import Event, LifecycleEvent, Transition
from cowshed.model.instance import RebootType
from cowshed.testing.conformance.driver.suite import DriverSuite, promise
from cowshed.testing.conformance.expect import refuses

_PATIENCE: Final = 20.0  # seconds for an event


class EventPromises(DriverSuite):
    @promise("register_event_listener")
    def test_starting_and_stopping_is_told(self) -> None:
        heard: list[Event] = []
        arrived = threading.Condition()

        def listen(event: Event) -> None:
            with arrived:
                heard.append(event)
                arrived.notify_all()

        instance = self.lasting()
        self.driver.register_event_listener(listen)
        try:
            self.driver.reboot(None, instance, [], RebootType.HARD)

            def transitions() -> list[Transition]:
                mine = (one for one in heard if isinstance(one, LifecycleEvent) and one.uuid == instance.uuid)
                return [one.transition for one in mine if one.transition in (Transition.STARTED, Transition.STOPPED)]

            with arrived:
                assert arrived.wait_for(lambda: len(transitions()) >= 2, _PATIENCE), heard
            assert transitions()[:2] == [Transition.STOPPED, Transition.STARTED]
        finally:
            self.driver.register_event_listener(None)

    @promise("register_event_listener", "emit_event")
    def test_events_reach_the_last_listener_in_order(self) -> None:
        first: list[Event] = []
        second: list[Event] = []
        self.driver.register_event_listener(first.append)
        self.driver.register_event_listener(second.append)
        events = [LifecycleEvent("a", Transition.STARTED), LifecycleEvent("b", Transition.STOPPED)]
        for event in events:
            self.driver.emit_event(event)
        self.driver.register_event_listener(None)
        self.driver.emit_event(events[0])
        assert [event for event in second if event in events] == events
        assert not [event for event in first if event in events]

    @promise("emit_event")
    def test_a_failing_listener_harms_nobody(self) -> None:
        def fail(event: Event) -> None:
            raise RuntimeError("the listener's own fault")

        self.driver.register_event_listener(fail)
        self.driver.emit_event(LifecycleEvent("a", Transition.STARTED))
        self.driver.register_event_listener(None)
        with refuses(ValueError):
            self.driver.emit_event({"not": "an event"})  # type: ignore[arg-type]
