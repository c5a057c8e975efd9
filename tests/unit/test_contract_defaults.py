"""Calls of the contract whose answer on this driver is a fixed one."""

from __future__ import annotations

from pathlib import Path

import pytest

from cowshed.config import Config, HostSection
from cowshed.driver import LibvirtDriver
from cowshed.model.flavor import Flavor
from cowshed.model.instance import Instance
from cowshed.units import MiB

INSTANCE = Instance(
    uuid="11111111-2222-3333-4444-555555555555", name="web", flavor=Flavor(memory=64 * MiB), host="here"
)


@pytest.fixture
def driver(tmp_path: Path) -> LibvirtDriver:
    return LibvirtDriver(config=Config(host=HostSection(state=str(tmp_path))))


def test_networks_are_not_bound_to_hardware(driver: LibvirtDriver) -> None:
    assert driver.macs_for_instance(INSTANCE) is None
    assert driver.dhcp_options_for_instance(INSTANCE) is None
    assert driver.network_binding_host_id(None, INSTANCE) == "here"
    assert driver.deallocate_networks_on_reschedule(INSTANCE) is False


def test_file_systems_that_can_be_made_are_known(driver: LibvirtDriver) -> None:
    assert driver.is_supported_fs_format("ext4")
    assert not driver.is_supported_fs_format("swap")
    assert not driver.is_supported_fs_format("zfs-of-the-future")


def test_no_overhead_is_claimed(driver: LibvirtDriver) -> None:
    assert driver.estimate_instance_overhead({"memory_mb": 512, "vcpus": 2}) == {"memory_mb": 0, "disk_gb": 0}
