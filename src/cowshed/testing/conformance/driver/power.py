"""Promises of power: states are visible on return, and repetition is no error."""

from __future__ import annotations

from collections.abc import Callable

from cowshed.errors import InvalidState
from cowshed.model.instance import Instance, PowerState, RebootType
from cowshed.testing.conformance.driver.suite import DriverSuite, promise
from cowshed.testing.conformance.expect import refuses


class PowerPromises(DriverSuite):
    @promise("power_off", "power_on")
    def test_off_and_on_may_be_repeated(self) -> None:
        instance = self.lasting()
        for _ in range(2):
            self.driver.power_off(instance)
            self._is(instance, PowerState.SHUTDOWN)
        self.driver.power_on(None, instance, [])
        start = self.start_of(instance)
        self.driver.power_on(None, instance, [])
        self.goes_on(instance, start)

    @promise("power_off")
    def test_a_guest_that_does_not_listen_is_off_when_its_time_is_over(self) -> None:
        instance = self.lasting()
        self.driver.power_off(instance, timeout=1, retry_interval=1)
        self._is(instance, PowerState.SHUTDOWN)

    @promise("pause", "unpause")
    def test_pause_and_unpause_may_be_repeated(self) -> None:
        instance = self.lasting()
        self.driver.unpause(instance)
        for _ in range(2):
            self.driver.pause(instance)
            self._is(instance, PowerState.PAUSED)
        for _ in range(2):
            self.driver.unpause(instance)
            self._is(instance, PowerState.RUNNING)

    @promise("pause", "unpause", "suspend", "resume", "trigger_crash_dump", "get_diagnostics")
    def test_what_is_off_is_not_paused_suspended_or_diagnosed(self) -> None:
        instance = self.lasting()
        self.driver.power_off(instance)
        calls: list[Callable[[], object]] = [
            lambda: self.driver.pause(instance),
            lambda: self.driver.unpause(instance),
            lambda: self.driver.suspend(None, instance),
            lambda: self.driver.resume(None, instance, []),
            lambda: self.driver.trigger_crash_dump(instance),
            lambda: self.driver.get_diagnostics(instance),
        ]
        for call in calls:
            with refuses(InvalidState):
                call()
        self._is(instance, PowerState.SHUTDOWN)

    @promise("suspend", "resume")
    def test_suspend_and_resume(self) -> None:
        instance = self.lasting()
        self.driver.resume(None, instance, [])  # running already
        for _ in range(2):
            self.driver.suspend(None, instance)
            self._is(instance, PowerState.SHUTDOWN)
        self.driver.resume(None, instance, [])
        self._is(instance, PowerState.RUNNING)

    @promise("power_on", "suspend")
    def test_powering_a_suspended_instance_on_restores_it(self) -> None:
        instance = self.lasting()
        self.driver.suspend(None, instance)
        self.driver.power_on(None, instance, [])
        self._is(instance, PowerState.RUNNING)

    @promise("power_off", "suspend")
    def test_powering_a_suspended_instance_off_forgets_its_memory(self) -> None:
        instance = self.lasting()
        self.driver.suspend(None, instance)
        self.driver.power_off(instance)
        with refuses(InvalidState):
            self.driver.resume(None, instance, [])

    @promise("reboot")
    def test_a_hard_reboot_starts_whatever_state_it_finds(self) -> None:
        instance = self.lasting()
        prepares: list[Callable[[Instance], object]] = [lambda _: None, self.driver.pause, self.driver.power_off]
        for prepare in prepares:
            prepare(instance)
            self.driver.reboot(None, instance, [], RebootType.HARD)
            self._is(instance, PowerState.RUNNING)

    @promise("resume_state_on_host_boot")
    def test_after_the_host_booted_what_was_off_runs(self) -> None:
        instance = self.lasting()
        start = self.start_of(instance)
        self.driver.resume_state_on_host_boot(None, instance, [])
        self.goes_on(instance, start)
        self.driver.suspend(None, instance)
        self.driver.resume_state_on_host_boot(None, instance, [])
        self._is(instance, PowerState.SHUTDOWN)
        self.driver.resume(None, instance, [])  # its memory is still there
        self.driver.power_off(instance)
        self.driver.resume_state_on_host_boot(None, instance, [])
        self._is(instance, PowerState.RUNNING)

    @promise("poll_rebooting_instances")
    def test_a_reboot_that_hangs_is_ended(self) -> None:
        instance = self.lasting()
        self.driver.poll_rebooting_instances(60, [instance])  # it is up already
        self._is(instance, PowerState.RUNNING)
        self.driver.power_off(instance)
        self.driver.poll_rebooting_instances(60, [self.unknown(), instance])
        self._is(instance, PowerState.RUNNING)

    @promise("trigger_crash_dump")
    def test_a_crash_dump_can_be_asked_for(self) -> None:
        self.driver.trigger_crash_dump(self.spawned())
