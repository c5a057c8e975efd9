"""Promises of the host, and of calls that a driver does not have."""

from __future__ import annotations

import inspect

from cowshed.contract.promise import is_fulfilled
from cowshed.errors import HostUnsuitable, UnsupportedOperation
from cowshed.model.instance import PowerState, RebootType
from cowshed.testing.conformance.driver.suite import CALLS, DriverSuite, promise
from cowshed.testing.conformance.expect import refuses


class HostPromises(DriverSuite):
    @promise("init_host", "cleanup_host")
    def test_it_may_be_stopped_and_started_again(self) -> None:
        instance = self.lasting()
        for _ in range(2):
            self.driver.cleanup_host("here")
        for _ in range(2):
            self.driver.init_host("here")
        self._is(instance, PowerState.RUNNING)

    @promise("set_host_enabled")
    def test_a_disabled_host_takes_no_instance(self) -> None:
        instance = self.unknown()
        try:
            for _ in range(2):
                assert self.driver.set_host_enabled(False) == "disabled"
            with refuses(HostUnsuitable):
                self.driver.spawn(None, instance, self.image, [], None)
            assert not self.driver.instance_on_disk(instance)
        finally:
            assert self.driver.set_host_enabled(True) == "enabled"

    @promise("host_maintenance_mode")
    def test_a_host_with_guests_that_cannot_go_is_not_in_maintenance(self) -> None:
        (node,) = self.driver.get_available_nodes()
        instance = self.lasting()
        with refuses(HostUnsuitable) as caught:
            self.driver.host_maintenance_mode(node, True)
        assert instance.name in str(caught.error)
        self._is(instance, PowerState.RUNNING)
        self.driver.power_off(instance)
        try:
            for _ in range(2):
                assert self.driver.host_maintenance_mode(node, True) == "on_maintenance"
            with refuses(HostUnsuitable):
                self.driver.spawn(None, self.unknown(), self.image, [], None)
        finally:
            for _ in range(2):
                assert self.driver.host_maintenance_mode(node, False) == "off_maintenance"

    @promise("host_power_action")
    def test_a_host_that_is_off_can_be_started(self) -> None:
        assert self.driver.host_power_action("startup")

    @promise("add_to_aggregate", "remove_from_aggregate", "undo_aggregate_operation")
    def test_membership_of_pools_may_be_said_twice(self) -> None:
        (node,) = self.driver.get_available_nodes()
        pool = {"id": 7, "name": "conform", "metadata": {}}
        for _ in range(2):
            self.driver.add_to_aggregate(None, pool, node)
        undone: list[str] = []
        self.driver.undo_aggregate_operation(None, undone.append, pool, node)
        assert undone == [node]
        for _ in range(2):
            self.driver.remove_from_aggregate(None, pool, node)

    @promise("manage_image_cache")
    def test_the_cache_may_be_swept_any_time(self) -> None:
        instance = self.lasting()
        for _ in range(2):
            self.driver.manage_image_cache(None, [instance])
        self.driver.reboot(None, instance, [], RebootType.HARD)
        self._is(instance, PowerState.RUNNING)

    def test_what_is_not_fulfilled_says_so(self) -> None:
        missing = [name for name in sorted(CALLS) if not is_fulfilled(type(self.driver), name)]
        for name in missing:
            method = getattr(self.driver, name)
            wanted = [
                parameter
                for parameter in inspect.signature(method).parameters.values()
                if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
            ]
            with refuses(NotImplementedError) as caught:
                method(**{parameter.name: None for parameter in wanted})
            assert isinstance(caught.error, UnsupportedOperation)
            assert name in str(caught.error)
        self.count_missing("test_what_is_not_fulfilled_says_so", missing)
