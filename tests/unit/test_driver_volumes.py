"""Volumes and what the driver refuses of them before anything is touched; their sizes without a guest. No libvirt."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cowshed.config import Config, HostSection
from cowshed.driver import LibvirtDriver
from cowshed.driver.steps import marks, volume_checks, volume_settling, volumes
from cowshed.errors import Conflict, DataCorrupt, InvalidState, NameTaken, UnsupportedOperation
from cowshed.model.disk import Bus
from cowshed.model.flavor import Flavor
from cowshed.model.instance import Instance
from cowshed.model.volume import AttachedVolume, VolumeState
from cowshed.units import MiB
from cowshed.volumes import info as infos
from cowshed.volumes import record
from cowshed.volumes.local import File


class OffGuest:
    """Defined and stopped; nothing else may be asked of it."""

    def ended(self) -> bool:
        return True

    def has_saved(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the guest was asked to {name}")


class OneGuest:
    def find(self, uuid: str) -> OffGuest:
        return OffGuest()

    guest = find


@pytest.fixture
def driver(tmp_path: Path) -> LibvirtDriver:
    made = LibvirtDriver(config=Config(host=HostSection(state=str(tmp_path / "state"))))
    made.rooms.__dict__["hypervisor"] = OneGuest()
    return made


def cow(driver: LibvirtDriver, number: int = 1) -> Instance:
    made = Instance(f"00000000-0000-4000-8000-00000000000{number}", f"cow{number}", Flavor())
    driver.rooms.directory(made.uuid).create()
    return made


def file(path: Path, serial: str = "", **data: Any) -> dict[str, Any]:
    info = {"driver_volume_type": "file", "data": {"path": str(path), "format": "raw", **data}}
    return {**info, "serial": serial} if serial else info


def attached(driver: LibvirtDriver, who: Instance, info: dict[str, Any], target: str = "vdb") -> AttachedVolume:
    identity = infos.volume_id(info)
    one = AttachedVolume(identity, info, target, Bus.VIRTIO, serial=identity, state=VolumeState.ATTACHED)
    record.save(driver.rooms.directory(who.uuid).path, one)
    return one


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.raw"
    path.write_bytes(bytes(3 * MiB))
    return path


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_a_file_by_another_name_is_the_same_volume(driver: LibvirtDriver, data: Path, link: Any) -> None:
    first, second = cow(driver), cow(driver, 2)
    other = data.with_name("other.raw")
    link(data, other)
    attached(driver, first, file(data, "myserial"))
    with pytest.raises(NameTaken, match="volume myserial of cow1") as caught:
        driver.attach_volume(None, file(other), first, "")
    assert "vdb" in str(caught.value.hint)
    assert str(data) in str(caught.value.hint)
    with pytest.raises(Conflict, match="myserial"):
        volume_checks.refuse_used(driver.rooms, second, file(other))


def test_other_files_and_files_that_are_gone_are_other_volumes(driver: LibvirtDriver, data: Path) -> None:
    who = cow(driver)
    attached(driver, who, file(data, "myserial"))
    other = data.with_name("other.raw")
    volume_checks.refuse_used(driver.rooms, who, file(other))
    other.write_bytes(b"")
    volume_checks.refuse_used(driver.rooms, who, file(other))
    data.unlink()
    volume_checks.refuse_used(driver.rooms, who, file(other))


def test_what_is_deleted_softly_is_given_nothing(driver: LibvirtDriver, data: Path) -> None:
    who = cow(driver)
    marks.mark(driver.rooms, who.uuid, marks.Mark.SOFT_DELETED)
    with pytest.raises(InvalidState, match="is deleted"):
        driver.attach_volume(None, file(data), who, "")
    assert driver.volumes(who) == ()


def test_a_read_only_volume_is_not_grown(driver: LibvirtDriver, data: Path) -> None:
    who = cow(driver)
    attached(driver, who, file(data, "v", access_mode="ro"))
    with pytest.raises(UnsupportedOperation, match="attached read-only") as caught:
        driver.extend_volume(None, file(data, "v", access_mode="ro"), who, 8 * MiB)
    assert caught.value.hint
    assert data.stat().st_size == 3 * MiB


def test_sizes_are_told_of_a_stopped_instance_too(driver: LibvirtDriver, data: Path) -> None:
    who = cow(driver)
    attached(driver, who, file(data, "here"))
    attached(driver, who, file(data.with_name("gone"), "gone"), "vdc")
    net = {"driver_volume_type": "nbd", "serial": "net", "data": {"host": "127.0.0.1", "port": 1, "export": ""}}
    attached(driver, who, net, "vdd")
    assert driver.volume_sizes(who) == {"here": 3 * MiB}


@pytest.mark.parametrize("word", ["vdb", "/dev/vdb", "v"])
def test_the_limits_of_a_volume_are_given_when_it_is_attached(driver: LibvirtDriver, data: Path, word: str) -> None:
    who = cow(driver)
    attached(driver, who, file(data, "v"))
    with pytest.raises(UnsupportedOperation, match="volume v") as caught:
        driver.limit_disk(who, word, {"total_iops_sec": 100})
    assert "--limit" in str(caught.value.hint)


class Showing(OffGuest):
    """Stopped, and shows one disk with the alias and serial number of volume ``old``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def xml(self, *, inactive: bool = False) -> str:
        return f"""<domain type="kvm"><name>cow1</name><devices><disk type="file" device="disk">
            <driver name="qemu" type="raw"/><source file="{self.path}"/><target dev="vdb" bus="virtio"/>
            <serial>old</serial><alias name="ua-old"/></disk></devices></domain>"""


def showing(driver: LibvirtDriver, path: Path) -> None:
    guest = Showing(path)
    driver.rooms.__dict__["hypervisor"] = type(
        "One", (), {"find": lambda _, uuid: guest, "guest": lambda _, uuid: guest}
    )()


@pytest.fixture
def new(data: Path) -> Path:
    path = data.with_name("new.raw")
    path.write_bytes(b"n" * 3 * MiB)
    return path


@pytest.mark.parametrize("whose", ["its own", "another's"])
@pytest.mark.parametrize("name", ["new", "by another name"])
def test_no_volume_in_use_is_overwritten_by_an_exchange(
    driver: LibvirtDriver, data: Path, new: Path, whose: str, name: str
) -> None:
    who, other = cow(driver), cow(driver, 2)
    attached(driver, who, file(data, "old"))
    attached(driver, who if whose == "its own" else other, file(new, "new"), "vdc")
    showing(driver, data)
    before = driver.volumes(who)
    with pytest.raises(NameTaken if whose == "its own" else Conflict, match="new"):
        driver.swap_volume(file(data, "old"), file(new, name.split()[-1]), who, "/dev/vdb", 0)
    assert set(new.read_bytes()) == {ord("n")}
    assert driver.volumes(who) == before


def test_a_volume_is_not_exchanged_for_itself(driver: LibvirtDriver, data: Path) -> None:
    who = cow(driver)
    attached(driver, who, file(data, "old"))
    showing(driver, data)
    with pytest.raises(NameTaken, match="old"):
        driver.swap_volume(file(data, "old"), file(data, "other"), who, "/dev/vdb", 0)
    assert [one.id for one in driver.volumes(who)] == ["old"]


def test_a_volume_whose_serial_number_another_one_shows_is_not_attached(
    driver: LibvirtDriver, data: Path, new: Path
) -> None:
    """What failed then took the other one from the guest."""
    who = cow(driver)
    one = attached(driver, who, file(new, "new"))
    record.save(volumes.directory(driver.rooms, who), replace(one, serial="old", alias="ua-old"))
    showing(driver, new)
    with pytest.raises(NameTaken, match="serial number") as caught:
        driver.attach_volume(None, file(data, "old"), who, "")
    assert "vdb" in str(caught.value.hint)
    assert [one.id for one in driver.volumes(who)] == ["new"]


@pytest.mark.parametrize("changed_over", [False, True])
@pytest.mark.parametrize("name", ["new", "old"])
def test_a_killed_exchange_leaves_the_volume_that_the_guest_shows(
    driver: LibvirtDriver, data: Path, new: Path, changed_over: bool, name: str
) -> None:
    """A volume service that moves a volume keeps its name."""
    who = cow(driver)
    place = volumes.directory(driver.rooms, who)
    old = replace(attached(driver, who, file(data, "old")), alias="ua-old")
    record.save(place, old)
    left = replace(
        old,
        id="old.new" if name == "old" else name,
        connection_info=file(new, name),
        state=VolumeState.CONNECTING,
    )
    record.save(place, left)
    showing(driver, new if changed_over else data)
    volume_settling.recover(driver.rooms)
    (found,) = driver.volumes(who)
    assert (found.id, found.state) == (name if changed_over else "old", VolumeState.ATTACHED)
    assert found.connection_info["data"]["path"] == str(new if changed_over else data)


def _damaged(driver: LibvirtDriver, data: Path) -> Instance:
    other = cow(driver, 2)
    attached(driver, other, file(data.with_name("other.raw"), "other"))
    (volumes.directory(driver.rooms, other) / record.FILE).write_text("{")
    return other


def test_a_volume_that_is_nobody_elses_is_detached_whatever_the_record_of_another_instance_says(
    driver: LibvirtDriver, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    who, gone = cow(driver), []
    attached(driver, who, file(data, "mine"))
    _damaged(driver, data)
    driver.rooms.__dict__["hypervisor"] = type("None_", (), {"find": lambda _, uuid: None})()
    monkeypatch.setattr(File, "disconnect", lambda _, info: gone.append(infos.volume_id(info)))
    driver.detach_volume(file(data, "mine"), who, "/dev/vdb")
    assert driver.volumes(who) == ()
    assert gone == ["mine"]
    assert list((driver.rooms.state / "locks").iterdir()) == []


def test_the_lock_of_a_volume_stays_while_an_instance_has_it(driver: LibvirtDriver, data: Path) -> None:
    users = [cow(driver), cow(driver, 2)]
    driver.rooms.__dict__["hypervisor"] = type("None_", (), {"find": lambda _, uuid: None})()
    for who in users:
        attached(driver, who, file(data, "shared", multiattach=True))
    for who, left in zip(users, (["volume-shared"], []), strict=True):
        driver.detach_volume(file(data, "shared", multiattach=True), who, "/dev/vdb")
        assert os.listdir(driver.rooms.state / "locks") == left


@pytest.mark.parametrize("why", ["it is shared", "nobody has looked", "no record of it"])
def test_a_volume_that_another_instance_may_have_stays_where_that_cannot_be_told(
    driver: LibvirtDriver, data: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    who, gone = cow(driver), []
    info = file(data, "mine", multiattach=why == "it is shared")
    if why != "no record of it":
        one = attached(driver, who, info)
        state = VolumeState.CONNECTING if why == "nobody has looked" else VolumeState.ATTACHED
        record.save(volumes.directory(driver.rooms, who), replace(one, state=state))
    before, other = driver.volumes(who), _damaged(driver, data)
    monkeypatch.setattr(File, "disconnect", lambda _, info: gone.append(infos.volume_id(info)))
    with pytest.raises(DataCorrupt, match=f"{other.uuid}/{record.FILE} is damaged") as caught:
        driver.detach_volume(info, who, "/dev/vdb")  # the guest is not asked for anything
    assert f"instance {other.uuid}: restore it" in str(caught.value.hint)
    assert driver.volumes(who) == before
    assert gone == []


def test_a_volume_is_not_attached_where_another_instance_may_have_it(driver: LibvirtDriver, data: Path) -> None:
    who, other = cow(driver), _damaged(driver, data)
    with pytest.raises(DataCorrupt, match=other.uuid) as caught:
        driver.attach_volume(None, file(data, "mine"), who, "")
    assert "move the file away" in str(caught.value.hint)
    assert driver.volumes(who) == ()


def test_volumes_that_come_and_go_together_are_all_on_record(tmp_path: Path) -> None:
    """Each holds the lock of its volume, and none that of the instance."""
    one = AttachedVolume("", file(tmp_path), "vdb")

    def come_and_go(name: str) -> None:
        for number in range(10):
            record.save(tmp_path, replace(one, id=f"{name}{number}"))
            if number % 2:
                record.forget(tmp_path, f"{name}{number}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(come_and_go, "abcd"))
    assert {found.id for found in record.load(tmp_path)} == {f"{name}{n}" for name in "abcd" for n in range(0, 10, 2)}


def test_what_is_gone_is_forgotten(tmp_path: Path) -> None:
    record.forget(tmp_path, "v")
    record.forget(tmp_path / "gone", "v")
    assert list(tmp_path.iterdir()) == []
