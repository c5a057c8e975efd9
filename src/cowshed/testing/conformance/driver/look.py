"""Promises of what can be seen of an instance and of its host."""

from __future__ import annotations

import json
from typing import Any

from cowshed.testing.conformance.driver.suite import DriverSuite, promise
from cowshed.testing.conformance.expect import refuses
from cowshed.units import MiB


class LookPromises(DriverSuite):
    @promise(
        "get_console_output",
        "get_diagnostics",
        "get_instance_diagnostics",
        "get_per_instance_usage",
        "block_stats",
    )
    def test_a_running_instance_can_be_looked_at(self) -> None:
        instance = self.lasting()
        assert isinstance(self.driver.get_console_output(None, instance), bytes)
        assert "memory" in self.driver.get_diagnostics(instance)
        assert self.driver.get_instance_diagnostics(instance)["state"] == "running"
        assert self.driver.get_per_instance_usage()[instance.uuid]["memory_mb"] == self.memory // MiB
        assert self.driver.block_stats(instance, "no-such-disk") in (None, [0, 0, 0, 0, 0])

    @promise("get_instance_disk_info")
    def test_its_disks_are_described(self) -> None:
        disks = json.loads(self.driver.get_instance_disk_info(self.lasting()))
        assert disks
        for disk in disks:
            assert disk.keys() >= {"type", "path", "virt_disk_size", "backing_file", "disk_size"}
            assert disk["over_committed_disk_size"] >= 0
        assert max(disk["virt_disk_size"] for disk in disks) >= self.image.virtual_size

    @promise("default_root_device_name", "default_device_names_for_instance", "get_device_name_for_instance")
    def test_devices_get_names(self) -> None:
        instance = self.instance()
        assert self.driver.default_root_device_name(instance, self.image, {}).startswith("/dev/")
        devices: list[dict[str, Any]] = [{"device_name": None}, {"device_name": "/dev/vdc"}, {"device_name": None}]
        self.driver.default_device_names_for_instance(instance, "/dev/vda", devices[:1], [], devices[1:])
        assert [device["device_name"] for device in devices] == ["/dev/vdb", "/dev/vdc", "/dev/vdd"]
        assert self.driver.get_device_name_for_instance(instance, devices, {}) not in {
            device["device_name"] for device in devices
        }

    @promise(
        "get_available_nodes",
        "node_is_available",
        "get_available_resource",
        "get_host_cpu_stats",
        "get_host_uptime",
        "get_host_ip_addr",
    )
    def test_the_host_describes_itself(self) -> None:
        (node,) = self.driver.get_available_nodes()
        assert self.driver.node_is_available(node)
        assert not self.driver.node_is_available(node + "-not")
        resources = self.driver.get_available_resource(node)
        assert isinstance(resources["hypervisor_version"], int)
        assert resources["hypervisor_hostname"] == node
        assert resources["vcpus"] > 0
        assert resources["memory_mb"] > 0
        json.loads(resources["cpu_info"])
        assert self.driver.get_host_cpu_stats().keys() == {"kernel", "idle", "user", "iowait", "frequency"}
        assert "load average" in self.driver.get_host_uptime()
        assert self.driver.get_host_ip_addr()

    @promise("get_available_resource")
    def test_used_resources_are_counted(self) -> None:
        (node,) = self.driver.get_available_nodes()
        before = self.driver.get_available_resource(node)
        instance = self.spawned()
        during = self.driver.get_available_resource(node)
        assert during["vcpus_used"] == before["vcpus_used"] + 1
        self.driver.destroy(None, instance, [])
        assert self.driver.get_available_resource(node)["vcpus_used"] == before["vcpus_used"]

    @promise("get_all_bw_counters", "estimate_instance_overhead", "is_supported_fs_format")
    def test_counters_only_grow(self) -> None:
        instance = self.lasting()
        before, after = (self.driver.get_all_bw_counters([instance]) for _ in range(2))
        for first, second in zip(before, after, strict=True):
            assert (second["uuid"], second["mac_address"]) == (first["uuid"], first["mac_address"])
            assert second["bw_in"] >= first["bw_in"]
            assert second["bw_out"] >= first["bw_out"]
        assert self.driver.get_all_bw_counters([]) == []
        assert self.driver.estimate_instance_overhead(instance)["memory_mb"] >= 0
        assert self.driver.is_supported_fs_format("ext4")
        assert not self.driver.is_supported_fs_format("no-such-format")

    @promise("get_vnc_console")
    def test_vnc_console(self) -> None:
        console = self.driver.get_vnc_console(None, self.lasting())
        assert console.host
        assert int(console.port) > 0

    @promise("get_spice_console")
    def test_spice_console(self) -> None:
        console = self.driver.get_spice_console(None, self.lasting())
        assert console.host
        assert int(console.port) > 0
        assert console.tlsPort is None or int(console.tlsPort) > 0

    @promise("get_serial_console")
    def test_serial_console(self) -> None:
        console = self.driver.get_serial_console(None, self.lasting())
        assert console.host
        assert int(console.port) > 0

    @promise("get_console_pool_info")
    def test_a_console_pool_is_not_made_up(self) -> None:
        with refuses(NotImplementedError):
            self.driver.get_console_pool_info("no-such-console")
        assert self.driver.get_console_pool_info("vnc").keys() == {"address", "username", "password"}

    @promise("get_rdp_console")
    def test_rdp_console(self) -> None:
        assert self.driver.get_rdp_console(None, self.lasting()).host

    @promise("get_mks_console")
    def test_mks_console(self) -> None:
        assert self.driver.get_mks_console(None, self.lasting()).host
