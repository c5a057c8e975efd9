"""reset_network: a cable that was pulled is put in again, whatever happens in between."""

from __future__ import annotations

from typing import Any

import pytest

from cowshed.domain.read import PluggedInterface
from cowshed.driver import LibvirtDriver
from cowshed.driver.steps import nics
from cowshed.errors import HypervisorUnavailable
from cowshed.model.flavor import Flavor
from cowshed.model.instance import Instance, PowerState
from cowshed.units import MiB

MAC = "52:54:00:00:00:01"


class Running:
    def guest(self, uuid: str) -> Any:
        return self

    def state(self) -> PowerState:
        return PowerState.RUNNING


def test_libvirt_goes_away_while_the_cable_is_pulled(monkeypatch: pytest.MonkeyPatch) -> None:
    links: list[bool] = []

    def set_link(guest: Any, address: str, *, up: bool) -> None:
        links.append(up)
        if links == [False]:
            raise HypervisorUnavailable(uri="qemu:///system", reason="it was restarted")

    driver = LibvirtDriver()
    driver.rooms.__dict__["hypervisor"] = Running()
    one = PluggedInterface(MAC, "bridge", "br0", "vnet0", "virtio", True)
    monkeypatch.setattr(nics, "plugged", lambda guest: [one])
    monkeypatch.setattr(nics, "set_link", set_link)
    instance = Instance(uuid="u", name="web", flavor=Flavor(vcpus=1, memory=16 * MiB))
    with pytest.raises(HypervisorUnavailable):
        driver.reset_network(instance)
    assert links == [False, True]
    driver.reset_network(instance)
    assert links == [False, True, False, True]
