"""The driver contract on the driver that is shipped for tests; tests/vm runs it on libvirt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cowshed.contract.compute import CAPABILITIES, ComputeDriver
from cowshed.errors import CowshedError
from cowshed.model.instance import Instance, PowerState
from cowshed.testing import FakeDriver
from cowshed.testing.conformance import DriverConformance
from cowshed.testing.conformance.driver import ALWAYS_HOLLOW, MOVING, DriverSuite, SharePromises, promise
from cowshed.units import MiB


class TestFake(DriverConformance, SharePromises):
    may_be_hollow = ALWAYS_HOLLOW | MOVING

    @pytest.fixture(autouse=True)
    def made(self, request: pytest.FixtureRequest) -> Iterator[None]:
        fake = FakeDriver()
        fake.init_host("here")
        self.driver: ComputeDriver = fake
        self.image = fake.images.add("tiny", b"boot" * 256 + bytes(MiB))
        yield
        request.node.user_properties += [("hollow", f"fake: {call}") for _, call in getattr(self, "hollow", [])]
        self.clean()
        self.finish()
        assert not fake.guests
        assert not any(backend.table for backend in fake.backends.values())


def _nothing(self: Any, *_: Any, **__: Any) -> None:
    """A call that says that it has done something."""


def _off_first(self: Any, context: Any, instance: Instance, *rest: Any, **more: Any) -> None:
    self.guests[instance.uuid].state = PowerState.SHUTDOWN
    FakeDriver.power_on(self, context, instance, [])


def _stays_on(self: Any, instance: Instance, timeout: float = 0, retry_interval: float = 0) -> None:
    if not timeout:
        FakeDriver.power_off(self, instance)


def _told_only(self: Any, context: Any, instance: Instance, image_id: str, update_task_state: Any) -> None:
    self.guest(instance.uuid)
    update_task_state(task_state="image_pending_upload")
    update_task_state(task_state="image_uploading", expected_state="image_pending_upload")


def _cold(self: Any, context: Any, instance: Instance, image_id: str, update_task_state: Any) -> None:
    FakeDriver.snapshot(self, context, instance, image_id, update_task_state)
    FakeDriver.power_off(self, instance)


def _those_that_run(self: Any) -> list[str]:
    return [guest.name for guest in self.guests.values() if guest.running]


def _forgetful(self: Any, context: Any, instance: Instance, *rest: Any, **more: Any) -> None:
    self.guest(instance.uuid).saved = False
    FakeDriver.resume_state_on_host_boot(self, context, instance, [])


@pytest.mark.parametrize(
    ("call", "broken", "test"),
    [
        ("pause", _nothing, "pause_and_unpause_may_be_repeated"),
        ("power_on", _off_first, "off_and_on_may_be_repeated"),
        ("power_off", _stays_on, "a_guest_that_does_not_listen_is_off_when_its_time_is_over"),
        ("resume_state_on_host_boot", _off_first, "after_the_host_booted_what_was_off_runs"),
        ("resume_state_on_host_boot", _forgetful, "after_the_host_booted_what_was_off_runs"),
        ("list_instances", _those_that_run, "what_must_not_start_does_not"),
        ("get_console_output", _nothing, "an_unknown_instance_is_said_to_be_unknown"),
        ("attach_volume", _nothing, "volumes_come_and_go_while_it_runs"),
        ("detach_volume", _nothing, "volumes_come_and_go_while_it_runs"),
        ("swap_volume", _nothing, "volumes_come_and_go_while_it_is_off"),
        ("attach_interface", _nothing, "interfaces_come_and_go_while_it_is_off"),
        ("detach_interface", _nothing, "interfaces_come_and_go_while_it_is_off"),
        ("snapshot", _told_only, "a_stopped_instance_becomes_an_image"),
        ("snapshot", _cold, "a_running_instance_becomes_an_image_and_runs_on"),
        ("rescue", _nothing, "rescue_and_back"),
        ("unrescue", _nothing, "rescue_and_back"),
        ("rebuild", _nothing, "a_rebuilt_instance_runs_and_calls_back_once"),
        ("live_migration", _nothing, "a_move_to_nowhere_calls_back_once_and_the_guest_stays"),
    ],
)
def test_a_broken_promise_is_noticed(call: str, broken: Any, test: str) -> None:
    suite = DriverConformance()
    suite.driver = fake = type("Broken", (FakeDriver,), {call: broken})()
    suite.image = fake.images.add("tiny", b"boot" * 256 + bytes(MiB))
    with pytest.raises((AssertionError, CowshedError)):
        getattr(suite, f"test_{test}")()


def test_every_call_of_the_contract_is_promised() -> None:
    """Moving for real needs two hosts: tests/vm has them."""
    tests = [getattr(DriverConformance, name) for name in dir(DriverConformance) if name.startswith("test_")]
    promised = {call for test in tests for call in getattr(test, "promises", ())}
    calls = {name for capability in CAPABILITIES for name in vars(capability) if not name.startswith("_")}
    assert promised <= calls
    assert calls - promised <= MOVING


class Refusing(DriverSuite):
    def __init__(self, *known: str) -> None:
        self.may_be_hollow = known

    @promise("spawn", "destroy")
    def test_it(self) -> None:
        raise NotImplementedError("no")


def test_a_hollow_pass_is_counted_and_no_other_call_may_be_hollow() -> None:
    suite = Refusing("destroy")
    suite.test_it()
    assert suite.hollow == [("test_it", "destroy")]
    with pytest.raises(AssertionError, match="test_it is hollow: no"):
        Refusing().test_it()
