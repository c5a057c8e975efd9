"""Rescue and rebuild with real guests; the tiny guest counts the boots of each disk."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from cowshed.disks import manifest
from cowshed.errors import DiskTooSmall, HypervisorError, InvalidState
from cowshed.model.flavor import Flavor
from cowshed.model.image import Image
from cowshed.model.instance import Instance, PowerState
from cowshed.units import GiB, MiB
from tests.vm.machines import Machines


def names(house: Machines, instance: Instance) -> set[str]:
    return set(manifest.load(house.state / "instances" / instance.uuid).disks)


def boots(house: Machines, instance: Instance) -> list[str]:
    return re.findall(r"cowshed-guest: boot (\d+)", house.log(instance))


def wait_boots(house: Machines, instance: Instance, *numbers: str) -> None:
    """The log shows these boots, in this order, and the last one is up."""
    pattern = r"[\s\S]*".join(rf"boot {number}\r?\n[\s\S]*?cowshed-guest: up" for number in numbers)
    house.wait(instance, pattern)
    assert boots(house, instance) == list(numbers)


# The tiny guest counts on the first disk it finds: the rescue disk, or the old root that has kept its place.
@pytest.mark.parametrize(
    ("properties", "counts"),
    [({}, ["1", "1", "2", "2"]), ({"hw_rescue_device": "disk", "hw_rescue_bus": "virtio"}, ["1", "2", "3", "4"])],
    ids=["classic", "stable"],
)
def test_rescue_and_back(house: Machines, tiny: Image, properties: dict[str, str], counts: list[str]) -> None:
    instance = house.spawn(tiny, flavor=Flavor(vcpus=1, memory=160 * MiB, root=256 * MiB, swap=64 * MiB))
    wait_boots(house, instance, "1")
    before = names(house, instance)
    rescue = house.image(properties=properties)
    house.driver.rescue(None, instance, [], rescue, "secret")
    assert house.driver.rescued(instance)
    wait_boots(house, instance, *counts[:2])
    seen = house.log(instance).rpartition("Linux version")[2]
    sizes = dict(re.findall(r"cowshed-guest: disk (vd\w) (\d+)", seen))
    rescue_size, root = str(64 * MiB), str(256 * MiB)
    expected = (
        {"vda": root, "vdb": str(64 * MiB), "vdc": rescue_size} if properties else {"vda": rescue_size, "vdb": root}
    )
    assert expected.items() <= sizes.items()
    with pytest.raises(InvalidState, match="rescued"):
        house.driver.rescue(None, instance, [], rescue, "secret")
    house.driver.reboot(None, instance, [], "HARD")
    wait_boots(house, instance, *counts[:3])  # still the rescue disk
    house.driver.unrescue(instance, [])
    wait_boots(house, instance, *counts)
    assert names(house, instance) == before
    assert not house.driver.rescued(instance)
    house.driver.unrescue(instance, [])
    assert house.state_of(instance) == PowerState.RUNNING


def test_a_rescue_that_cannot_be_prepared_leaves_it_running(house: Machines, tiny: Image) -> None:
    instance = house.spawn(tiny)
    wait_boots(house, instance, "1")
    before = names(house, instance)
    with pytest.raises(Exception, match="does not exist"):
        house.driver.rescue(None, instance, [], Image(id="no-such-image"), "secret")
    assert house.state_of(instance) == PowerState.RUNNING
    assert names(house, instance) == before
    assert boots(house, instance) == ["1"]


def test_rebuild_keeps_what_it_shall(house: Machines, tiny: Image) -> None:
    flavor = Flavor(vcpus=1, memory=160 * MiB, root=128 * MiB, ephemeral=64 * MiB)
    instance = house.spawn(tiny, flavor=flavor)
    wait_boots(house, instance, "1")
    base = Path(manifest.require(house.state / "instances" / instance.uuid, "disk").base_path or "")
    base.unlink()  # the overlay is good on the one that is fetched in its place
    house.driver.reboot(None, instance, [], "HARD")
    wait_boots(house, instance, "1", "2")
    called: list[Any] = []
    before = manifest.load(house.state / "instances" / instance.uuid).disks
    house.driver.rebuild(
        None, instance, tiny, [], None, ["bdm"],
        lambda *words: called.append(("detach", *words)), lambda *words: called.append(("attach", *words)),
        network_info=[], preserve_ephemeral=True,
    )  # fmt: skip
    wait_boots(house, instance, "1", "2", "1")
    assert called == [("detach", None, ["bdm"]), ("attach", None, instance, ["bdm"])]
    after = manifest.load(house.state / "instances" / instance.uuid).disks
    assert after.keys() == before.keys()
    assert after["disk.local"] == before["disk.local"]
    assert after["disk"].location != before["disk"].location
    folder = house.state / "instances" / instance.uuid
    assert not [path.name for path in folder.glob("*.new-*") if path.name != after["disk"].location]
    house.driver.reboot(None, instance, [], "HARD")
    wait_boots(house, instance, "1", "2", "1", "2")
    house.driver.rebuild(None, instance, tiny, [], None, [], None, None, [])
    wait_boots(house, instance, "1", "2", "1", "2", "1")


def test_a_rebuild_that_cannot_be_leaves_everything(
    house: Machines, tiny: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = house.spawn(tiny, flavor=Flavor(vcpus=1, memory=160 * MiB, root=128 * MiB))
    wait_boots(house, instance, "1")
    before = manifest.load(house.state / "instances" / instance.uuid)
    with pytest.raises(DiskTooSmall):
        house.driver.rebuild(None, instance, Image(id="x", virtual_size=GiB), [], None, [], None, None, [])
    assert boots(house, instance) == ["1"]

    from cowshed.driver.steps import launch

    start, failing = launch.start, [HypervisorError(action="start", reason="planned")]

    def fails(*words: Any, **named: Any) -> None:
        if failing:
            raise failing.pop()
        start(*words, **named)

    monkeypatch.setattr(launch, "start", fails)
    with pytest.raises(HypervisorError, match="planned"):
        house.driver.rebuild(None, instance, tiny, [], None, [], None, None, [])
    wait_boots(house, instance, "1", "2")  # on the old disk
    assert manifest.load(house.state / "instances" / instance.uuid) == before


def test_an_instance_whose_host_has_died_is_started_on_its_disks_or_spawned_anew(
    house: Machines, tiny: Image, tmp_path: Path
) -> None:
    """``recreate``: the disks are here (as on shared storage) and libvirt knows nothing; then neither is here."""
    (tmp_path / "volume.raw").write_bytes(bytes(MiB))
    data = {
        "driver_volume_type": "file",
        "serial": "vol-1",
        "data": {"path": str(tmp_path / "volume.raw"), "format": "raw"},
    }
    volumes = {"block_device_mapping": [{"connection_info": data, "mount_device": "/dev/vdb"}]}
    instance = house.spawn(tiny)
    wait_boots(house, instance, "1")
    guest = house.driver.rooms.hypervisor.guest(instance.uuid)
    guest.destroy()
    guest.undefine()

    recreate(house, instance, tiny, volumes)
    wait_boots(house, instance, "1", "2")
    assert [volume.id for volume in house.driver.volumes(instance)] == ["vol-1"]
    assert "disk vdb 1048576" in house.log(instance)

    elsewhere = house.instance(tiny)
    recreate(house, elsewhere, tiny, None)
    wait_boots(house, elsewhere, "1")


def recreate(house: Machines, instance: Instance, image: Image, volumes: Any) -> None:
    house.driver.rebuild(None, instance, image, [], None, [], None, None, [], recreate=True, block_device_info=volumes)
