"""Volumes of instances that do not run: attached cold, connected at each start, booted from."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cowshed.config import VolumesSection
from cowshed.errors import CowshedError, InstanceNotFound, InvalidState, OperatorError
from cowshed.model.disk import DiskFormat
from cowshed.model.image import Image
from cowshed.model.instance import Instance, PowerState
from cowshed.volumes import chain
from tests import volume_servers as servers
from tests.vm.machines import Machines, machines


@pytest.fixture(scope="module")
def house(libvirt_uri: str, guest_dir: Path) -> Iterator[Machines]:
    with machines(libvirt_uri, guest_dir, volumes=VolumesSection(detach_timeout=10, detach_attempts=4)) as made:
        yield made


@pytest.fixture(scope="module")
def image(house: Machines) -> Image:
    return house.image()


def file_volume(store: Path, identity: str, **data: Any) -> dict[str, Any]:
    path = servers.raw_file(store / f"{identity}.raw", f"hello {identity}")
    return {"driver_volume_type": "file", "serial": identity, "data": {"path": str(path), "format": "raw", **data}}


def mapping(*volumes: dict[str, Any], root: str = "", **first: Any) -> dict[str, Any]:
    entries = [{"mount_device": "", "connection_info": one, "disk_bus": None, "boot_index": None} for one in volumes]
    if entries:
        entries[0].update(first)
    return {"root_device_name": root or None, "swap": None, "ephemerals": [], "block_device_mapping": entries}


def test_an_instance_is_made_started_and_removed_with_its_volumes(house: Machines, image: Image, store: Path) -> None:
    file = servers.raw_file(store / "chap.img", "hello v-chap")
    secrets = house.driver.rooms.hypervisor.secrets
    before = secrets.uuids()
    with servers.iscsi(file) as target:
        chap = {"driver_volume_type": "iscsi", "serial": "v-chap", "data": target.data()}
        plain = file_volume(store, "v-plain")
        instance = house.spawn(image, disks=mapping(chap, plain, mount_device="/dev/vdd"))
        house.wait(instance, rf"cowshed-guest: disk vd\w {servers.SIZE} rw serial v-chap")
        house.wait(instance, rf"cowshed-guest: disk vd\w {servers.SIZE} rw serial v-plain")
        house.wait(instance, "cowshed-guest: up")
        assert {one.id: one.target for one in house.driver.volumes(instance)} == {"v-chap": "vdd", "v-plain": "vdb"}
        record = house.state / "instances" / instance.uuid / "volumes.json"
        assert servers.PASSWORD not in record.read_text()
        assert record.stat().st_mode & 0o077 == 0

        # Neither the password nor the volumes are said again: the record and libvirt's secret know.
        house.driver.power_off(instance)
        more = file_volume(store, "v-cold")
        house.driver.attach_volume(None, more, instance, "/dev/vde")
        assert {one.id: one.size for one in house.driver.volumes(instance)} == dict.fromkeys(
            ("v-chap", "v-plain", "v-cold"), servers.SIZE
        )
        house.driver.detach_volume(plain, instance, "/dev/vdb")
        house.driver.power_on(None, instance, [])
        house.wait(instance, "boot 2\r?\n")
        house.wait(instance, rf"cowshed-guest: disk vd\w {servers.SIZE} rw serial v-cold")
        assert house.log(instance).count("serial v-chap") == 2
        assert house.log(instance).count("serial v-plain") == 1
        house.wait(instance, "up[^$]*cowshed-guest: up")

        with pytest.raises(InvalidState):  # the saved memory knows the devices of then
            house.driver.suspend(None, instance)
            house.driver.attach_volume(None, plain, instance, "/dev/vdb")
        house.driver.resume(None, instance, [])
        assert house.state_of(instance) == PowerState.RUNNING

        # What the caller says wins over the record: the cold one was detached while nobody looked.
        house.driver.reboot(None, instance, [], "HARD", mapping(chap, mount_device="/dev/vdd"))
        assert [one.id for one in house.driver.volumes(instance)] == ["v-chap"]
        house.wait(instance, "boot 3\r?\n")
    assert len(secrets.uuids()) == len(before) + 1
    _without_storage(house, instance)
    house.driver.destroy(None, instance, [])
    assert secrets.uuids() == before
    house.assert_nothing_left(instance)


def _without_storage(house: Machines, instance: Instance) -> None:
    """The target is gone: an error that says so, or a start without it where somebody listens."""
    house.driver.power_off(instance)
    assert house.driver.volume_sizes(instance) == {}  # nobody is asked
    assert [one.size for one in house.driver.volumes(instance)] == [servers.SIZE]  # what was seen last
    with pytest.raises(OperatorError) as caught:
        house.driver.power_on(None, instance, [])
    assert "iscsi" in str(caught.value)
    assert house.state_of(instance) == PowerState.SHUTDOWN
    missing: list[list[str]] = []
    house.driver.reboot(None, instance, [], "HARD", None, missing.append)
    assert missing == [["/dev/vdd"]]
    assert house.state_of(instance) == PowerState.RUNNING
    assert [one.id for one in house.driver.volumes(instance)] == ["v-chap"]


def test_an_instance_boots_from_a_volume_and_has_no_disk_of_its_own(
    house: Machines, guest_dir: Path, store: Path
) -> None:
    root = store / "root.qcow2"
    shutil.copy(guest_dir / "tiny.qcow2", root)
    root.chmod(0o666)
    what = {"driver_volume_type": "file", "serial": "v-root", "data": {"path": str(root), "format": "qcow2"}}
    data = file_volume(store, "v-data")
    nothing = Image(id="")
    instance = house.instance(nothing)
    disks = mapping(what, data, root="/dev/vda", mount_device="/dev/vda", boot_index=0)
    house.start(instance, nothing, disks=disks)
    house.wait(instance, "boot 1\r?\n")
    house.wait(instance, "cowshed-guest: up")
    assert {one.id: one.target for one in house.driver.volumes(instance)} == {"v-root": "vda", "v-data": "vdb"}
    assert not (house.state / "instances" / instance.uuid / "disk").exists()
    house.driver.power_off(instance)
    house.driver.swap_volume(data, file_volume(store, "v-data-2"), instance, "/dev/vdb", 0)
    assert servers.text_at(store / "v-data-2.raw", 0) == "hello v-data"
    house.driver.extend_volume(
        None, {"driver_volume_type": "file", "serial": "v-data-2", "data": {}}, instance, 2 * servers.SIZE
    )
    house.driver.power_on(None, instance, [])
    house.wait(instance, "boot 2\r?\n")
    house.wait(instance, rf"cowshed-guest: disk vdb {2 * servers.SIZE} rw serial v-data")
    _merge_stopped(house, instance, store)
    house.driver.rooms.hypervisor.guest(instance.uuid).undefine()  # by somebody else
    with pytest.raises(InstanceNotFound):
        house.driver.attach_volume(None, file_volume(store, "v-late"), instance, "")
    v_data = house.driver.volumes(instance)[-1]
    house.driver.detach_volume(v_data.connection_info, instance, "/dev/vdb")  # the host side goes all the same
    assert [one.id for one in house.driver.volumes(instance)] == ["v-root"]
    house.driver.destroy(None, instance, [])
    assert root.exists()
    house.assert_nothing_left(instance)


def _merge_stopped(house: Machines, instance: Instance, store: Path) -> None:
    """Snapshots that were taken while it ran are merged while it does not."""
    driver, raw = house.driver, store / "v-data-2.raw"
    for name in ("one", "two"):
        create = {"snapshot_id": name, "type": "qcow2", "new_file": f"v-data-2.{name}"}
        driver.volume_snapshot_create(None, instance, "v-data-2", create)
    driver.power_off(instance)
    with pytest.raises(InvalidState):
        driver.volume_snapshot_create(None, instance, "v-data-2", {**create, "new_file": "v-data-2.three"})
    merge = {"type": "qcow2", "file_to_merge": "v-data-2.one", "merge_target_file": raw.name}
    driver.volume_snapshot_delete(None, instance, "v-data-2", "one", merge)
    assert [path.name for path, _ in chain.layers_of(store / "v-data-2.two", DiskFormat.QCOW2)] == [
        "v-data-2.two",
        "v-data-2.raw",
    ]
    merge = {"type": "qcow2", "file_to_merge": "v-data-2.two", "merge_target_file": raw.name}
    driver.volume_snapshot_delete(None, instance, "v-data-2", "two", merge)
    defined = driver.rooms.hypervisor.guest(instance.uuid).xml(inactive=True)
    assert str(raw) in defined
    assert "v-data-2.two" not in defined
    assert servers.text_at(raw, 0) == "hello v-data"


def test_a_spawn_that_fails_disconnects_what_it_connected(house: Machines, image: Image, store: Path) -> None:
    file, before = servers.raw_file(store / "late.img"), house.driver.rooms.hypervisor.secrets.uuids()
    with servers.iscsi(file) as target:
        good = {"driver_volume_type": "iscsi", "serial": "v-good", "data": target.data()}
        gone = {
            "driver_volume_type": "nbd",
            "serial": "v-gone",
            "data": {"host": "127.0.0.1", "port": servers.free_port()},
        }
        instance = house.instance(image)
        with pytest.raises(CowshedError):
            house.start(instance, image, disks=mapping(good, gone))
        house.assert_nothing_left(instance)
        assert house.driver.rooms.hypervisor.secrets.uuids() == before
