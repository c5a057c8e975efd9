"""libvirt's statistics in the contract's shapes: what is not counted is not made up."""

from __future__ import annotations

from typing import Any

import pytest

from cowshed.driver import LibvirtDriver
from cowshed.driver.steps import counters
from cowshed.errors import InstanceNotFound
from cowshed.model.flavor import Flavor
from cowshed.model.instance import Instance, PowerState
from cowshed.units import MiB

STATS = {
    "state.state": 1,
    "vcpu.maximum": 1,
    "vcpu.0.time": 5,
    "balloon.maximum": 1024,
    "net.count": 2,
    "net.0.rx.bytes": 1,
    "net.1.name": "vnet0",
    "net.1.rx.bytes": 7,
    "block.count": 2,
    "block.0.name": "vda",
    "block.0.rd.reqs": 3,
    "block.1.name": "vdb",
}


def test_only_what_is_counted_is_told() -> None:
    """A user network has no name on this host; of a guest whose QEMU is busy libvirt does not count the disks."""
    flat = counters.flat(STATS)
    assert flat["vnet0_rx"] == 7
    assert flat["vda_read_req"] == 3
    assert not [key for key in flat if key.startswith(("None", "vdb"))]


def test_cards_have_their_addresses() -> None:
    told = counters.structured(STATS, launched_at=None, config_drive=True, addresses=["52:54:00:00:00:01"])
    assert [card["mac_address"] for card in told["nic_details"]] == ["52:54:00:00:00:01", None]
    assert told["config_drive"]


class Gone:
    """There at first."""

    def guest(self, uuid: str) -> Any:
        return self

    def state(self) -> PowerState:
        return PowerState.RUNNING

    def stats(self, uuids: list[str]) -> dict[str, Any]:
        return {}


def test_a_guest_that_goes_meanwhile() -> None:
    driver = LibvirtDriver()
    driver.rooms.__dict__["hypervisor"] = Gone()
    with pytest.raises(InstanceNotFound):
        driver.get_diagnostics(Instance(uuid="u", name="web", flavor=Flavor(vcpus=1, memory=16 * MiB)))
