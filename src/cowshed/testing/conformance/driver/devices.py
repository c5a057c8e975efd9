"""Promises of volumes, interfaces and packet filters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cowshed.errors import InstanceNotFound, NotFound
from cowshed.model.instance import Instance, PowerState
from cowshed.model.vif import Vif
from cowshed.testing.conformance.driver.suite import DriverSuite, promise
from cowshed.testing.conformance.expect import refuses

MAC = "52:54:00:c0:4f:02"


class DevicePromises(DriverSuite):
    def _volumes(self, instance: Instance) -> list[str]:
        """By what the driver tells of their use."""
        bdms = [{"device_name": "/dev/vdy", "volume_id": "first"}, {"device_name": "/dev/vdz", "volume_id": "second"}]
        found = self.driver.get_all_volume_usage(None, [{"instance": instance, "instance_bdms": bdms}])
        return [entry["volume"] for entry in found]

    def _volume(self, name: str) -> Mapping[str, Any]:
        """What is connected nowhere, where the driver looks at nothing."""
        nothing = {"driver_volume_type": "file", "serial": name, "data": {"path": f"/{name}", "format": "raw"}}
        return self.volume(name) if self.volume else nothing

    @promise("attach_volume", "detach_volume", "swap_volume", "get_all_volume_usage")
    def test_volumes_come_and_go_while_it_is_off(self) -> None:
        instance = self.lasting()
        first, second = self._volume("first"), self._volume("second")
        self.driver.power_off(instance)
        self.driver.attach_volume(None, first, instance, "/dev/vdy")
        with refuses(*self.refusals):
            self.driver.attach_volume(None, second, instance, "/dev/vdy")
        self.driver.swap_volume(first, second, instance, "/dev/vdy", 0)
        with refuses(*self.refusals):
            self.driver.attach_volume(None, second, instance, "/dev/vdx")
        self.driver.power_on(None, instance, [])
        self._is(instance, PowerState.RUNNING)
        for entry in self.driver.get_all_volume_usage(
            None, [{"instance": instance, "instance_bdms": [{"device_name": "/dev/vdy", "volume_id": "second"}]}]
        ):
            assert entry["volume"] == "second"
            assert min(entry[key] for key in ("rd_req", "rd_bytes", "wr_req", "wr_bytes")) >= 0
        self.driver.power_off(instance)
        for _ in range(2):
            self.driver.detach_volume(second, instance, "/dev/vdy")
        self.driver.detach_volume(second, self.unknown(), "/dev/vdy")
        self.driver.power_on(None, instance, [])
        self._is(instance, PowerState.RUNNING)

    @promise("attach_volume", "detach_volume")
    def test_volumes_come_and_go_while_it_runs(self) -> None:
        instance, volume = self.lasting(), self._volume("first")
        self.driver.attach_volume(None, volume, instance, "/dev/vdy")
        with refuses(*self.refusals):
            self.driver.attach_volume(None, volume, instance, "/dev/vdy")
        for _ in range(2):
            self.driver.detach_volume(volume, instance, "/dev/vdy")
        self.driver.attach_volume(None, volume, instance, "/dev/vdy")  # it is free again
        self.driver.detach_volume(volume, instance, "/dev/vdy")
        self._is(instance, PowerState.RUNNING)

    @promise("attach_volume", "swap_volume")
    def test_volumes_of_nobody(self) -> None:
        instance, volume = self.unknown(), self._volume("nobodys")
        with refuses(InstanceNotFound):
            self.driver.attach_volume(None, volume, instance, "/dev/vdb")
        with refuses(InstanceNotFound):
            self.driver.swap_volume(volume, volume, instance, "/dev/vdb", 0)

    @promise("volume_snapshot_create")
    def test_a_snapshot_of_nobodys_volume(self) -> None:
        instance = self.unknown()
        facts = {"snapshot_id": "s", "type": "qcow2", "new_file": "nobodys.s"}
        with refuses(NotFound):
            self.driver.volume_snapshot_create(None, instance, "nobodys", facts)

    @promise("volume_snapshot_delete")
    def test_nobodys_snapshot_of_a_volume_is_not_merged(self) -> None:
        instance = self.unknown()
        merge = {"type": "qcow2", "file_to_merge": "nobodys.s", "merge_target_file": None}
        with refuses(NotFound):
            self.driver.volume_snapshot_delete(None, instance, "nobodys", "s", merge)

    @promise("get_volume_connector")
    def test_volumes_are_told_who_connects(self) -> None:
        for asked in (self.unknown(), {"id": "conform"}):
            assert self.driver.get_volume_connector(asked).keys() >= {"ip", "initiator", "host"}  # type: ignore[arg-type]

    @promise("attach_interface", "detach_interface", "get_all_bw_counters")
    def test_interfaces_come_and_go_while_it_is_off(self) -> None:
        instance, vif = self.lasting(), Vif("conform", MAC)
        self.driver.power_off(instance)
        self.driver.attach_interface(instance, self.image, vif)
        with refuses(*self.refusals):
            self.driver.attach_interface(instance, self.image, vif)
        self.driver.power_on(None, instance, [vif])
        self._is(instance, PowerState.RUNNING)
        macs = [one["mac_address"] for one in self.driver.get_all_bw_counters([instance])]
        assert macs in ([MAC], []), "counted where the network has a host side"
        self.driver.power_off(instance)
        for _ in range(2):
            self.driver.detach_interface(instance, vif)
        self.driver.detach_interface(self.unknown(), vif)
        with refuses(InstanceNotFound):
            self.driver.attach_interface(self.unknown(), self.image, vif)
        self.driver.power_on(None, instance, [])
        assert self.driver.get_all_bw_counters([instance]) == []

    @promise("plug_vifs", "unplug_vifs", "inject_network_info", "reset_network")
    def test_the_host_side_of_interfaces_may_be_made_twice(self) -> None:
        instance, vifs = self.lasting(), [Vif("conform", MAC)]
        for _ in range(2):
            self.driver.plug_vifs(instance, vifs)
        for _ in range(2):
            self.driver.unplug_vifs(instance, vifs)
        self.driver.inject_network_info(instance, [])
        self.driver.inject_network_info(self.unknown(), vifs)
        self.driver.reset_network(instance)

    @promise(
        "macs_for_instance", "dhcp_options_for_instance", "network_binding_host_id", "deallocate_networks_on_reschedule"
    )
    def test_networks_know_what_they_need(self) -> None:
        instance = self.unknown()
        assert self.driver.macs_for_instance(instance) is None
        assert self.driver.dhcp_options_for_instance(instance) is None
        assert self.driver.network_binding_host_id(None, instance) == "here"
        assert self.driver.deallocate_networks_on_reschedule(instance) is False

    @promise(
        "ensure_filtering_rules_for_instance", "unfilter_instance", "filter_defer_apply_on", "filter_defer_apply_off"
    )
    def test_an_instance_without_groups_needs_no_filter(self) -> None:
        instance = self.lasting()
        for _ in range(2):
            self.driver.ensure_filtering_rules_for_instance(instance, [])
        for _ in range(2):
            self.driver.unfilter_instance(instance, [])
        self.driver.filter_defer_apply_on()
        self.driver.filter_defer_apply_off()
        self._is(instance, PowerState.RUNNING)

    @promise("refresh_security_group_rules", "refresh_instance_security_rules")
    def test_groups_that_nobody_has_change_nothing(self) -> None:
        self.driver.refresh_security_group_rules("nobodys")
        self.driver.refresh_instance_security_rules(self.lasting())
