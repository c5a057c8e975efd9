"""What is told of a live migration: how far it is, and what went wrong once."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cowshed import clock, log
from cowshed.config import Config, HostSection, MigrationSection
from cowshed.driver import LibvirtDriver
from cowshed.driver.steps import (
    arriving,
    awaiting,
    connect,
    launch,
    leaving,
    locate,
    settling,
    transit,
    volumes,
)
from cowshed.errors import Busy, HostUnsuitable, HypervisorError, InstanceNotFound
from cowshed.hypervisor import migrate
from cowshed.hypervisor.migrate import Statistics
from cowshed.model.disk import Bus
from cowshed.model.flavor import Flavor
from cowshed.model.instance import Instance, PowerState
from cowshed.model.volume import AttachedVolume, VolumeState
from cowshed.testing import FakeClock
from cowshed.units import MiB
from cowshed.volumes import record
from cowshed.volumes.local import File
from tests.unit.test_driver_disks import Host
from tests.unit.test_driver_provision import house

INSTANCE = Instance(uuid="11111111-2222-3333-4444-555555555555", name="web", flavor=Flavor(vcpus=1, memory=64 * MiB))


class Told:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.words: list[Any] = []

    def phase(self, name: str, total: int | None = None) -> None:
        self.words.append((name, total))

    def update(self, done: int) -> None:
        self.words.append(done)

    def check(self) -> None:
        pass


def followed(monkeypatch: pytest.MonkeyPatch, looks: list[Statistics | None]) -> tuple[tuple[bool, int], list[Any]]:
    """How a migration ended that was looked at so often, and what the progress was told."""
    monkeypatch.setattr(migrate, "set_downtime", lambda *_: None)
    waits = iter([False] * len(looks) + [True])
    migration: Any = SimpleNamespace(wait=lambda _: next(waits), statistics=iter(looks).__next__)
    rooms: Any = SimpleNamespace(progress=Told())
    monitor: Any = SimpleNamespace(downtime=300, next=lambda _: None)
    guest: Any = SimpleNamespace(name="web")
    return leaving.follow(rooms, guest, migration, monitor), rooms.progress.words


def test_the_total_is_told_when_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = [None, Statistics(), Statistics(total=100, processed=10), Statistics(total=100, processed=60)]
    assert followed(monkeypatch, looks) == ((False, 60), [("migrate", 100), 10, 50])


def test_the_memory_is_a_phase_of_its_own_after_the_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else more would be done than there is. What the guest dirties meanwhile begins none."""
    looks = [
        Statistics(total=100, processed=10),
        Statistics(total=100, processed=100),
        Statistics(total=300, processed=150, iteration=1),
        Statistics(total=310, processed=200, iteration=2),
    ]
    assert followed(monkeypatch, looks) == ((False, 200), [("migrate", 100), 10, 90, ("migrate", 200), 50, 50])


def test_an_error_is_for_the_caller_to_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any) -> None:
        raise HypervisorError(action="migrate web", reason="no route to host")

    driver = LibvirtDriver(config=Config(host=HostSection(state=str(tmp_path))))
    monkeypatch.setattr(transit, "note", lambda *_, **__: None)
    monkeypatch.setattr(leaving, "request", refuse)
    monkeypatch.setattr(settling, "settle", lambda *_, **__: settling.Verdict.HERE)
    log.configure()
    guest: Any = SimpleNamespace(name="web", state=lambda: PowerState.RUNNING)
    found: dict[str, Any] = {}
    driver._migrate(INSTANCE, guest, "there", found)
    assert found["error"] == "libvirt refused to migrate web: no route to host"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("kind", "version", "translated", "still"),
    [
        ("qemu", (7, 2, 22), "pause", True),
        ("qemu", (8, 2, 9), "pause", True),
        ("qemu", (9, 0, 0), "pause", False),
        ("qemu", (7, 2, 22), "live", False),
        ("kvm", (7, 2, 22), "pause", False),
    ],
)
def test_who_pauses_while_it_is_copied(
    kind: str, version: tuple[int, int, int], translated: str, still: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Post-copy and auto-converge are of no use to it, and libvirt refuses the former."""
    section = MigrationSection(translated=translated, post_copy=True, auto_converge=True)
    rooms: Any = SimpleNamespace(config=Config(migration=section), hypervisor=SimpleNamespace(version=lambda: version))
    guest: Any = SimpleNamespace(xml=lambda **_: f"<domain type='{kind}'><devices><emulator/></devices></domain>")
    monkeypatch.setattr(migrate, "live_xml", lambda guest, **_: guest.xml())
    found: dict[str, Any] = {"xml": guest.xml(), "copied": {}, "still": leaving.must_stand_still(rooms, guest)}
    assert found["still"] == still
    flags = leaving.request(rooms, guest, "there", found).flags()
    optional = migrate.Flag.LIVE | migrate.Flag.POSTCOPY | migrate.Flag.AUTO_CONVERGE
    assert flags & optional == (0 if still else optional)


def test_what_libvirt_removes_at_this_moment_did_not_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source has given the migration up: the guest is found here, and gone when it is asked for more."""
    rooms, uuid, removed = house(tmp_path / "state"), "11111111-2222-3333-4444-555555555555", []
    rooms.__dict__["hypervisor"] = SimpleNamespace(find=lambda uuid: SimpleNamespace(name="web"))

    def gone(*_: Any) -> None:
        raise InstanceNotFound(name=uuid)

    monkeypatch.setattr(migrate, "running", lambda _: None)
    monkeypatch.setattr(awaiting, "arrived", gone)
    monkeypatch.setattr(arriving, "rollback", lambda rooms, instance, *_, **__: removed.append(instance.uuid))
    transit.note(rooms, uuid, transit.Way.IN, shared=False, name="web")
    arriving.recover_one(rooms, uuid)
    assert removed == [uuid]


@pytest.mark.parametrize("ends", [True, False])
def test_a_restarted_destination_removes_nothing_that_is_coming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    """Unless it ends within a moment."""
    rooms, removed, looks = house(tmp_path / "state"), [], iter([Statistics(), Statistics()])
    rooms.__dict__["hypervisor"] = SimpleNamespace(find=lambda uuid: SimpleNamespace(name="web"))
    monkeypatch.setattr(migrate, "running", lambda _: next(looks, None) if ends else Statistics())
    monkeypatch.setattr(awaiting, "arrived", lambda *_: None)
    monkeypatch.setattr(locate, "remembered_vifs", lambda *_: ())
    monkeypatch.setattr(arriving, "rollback", lambda rooms, instance, *_, **__: removed.append(instance.uuid))
    transit.note(rooms, INSTANCE.uuid, transit.Way.IN, shared=False, name="web")
    with clock.using(FakeClock()):
        arriving.recover_one(rooms, INSTANCE.uuid)
    assert removed == ([INSTANCE.uuid] if ends else [])


@pytest.mark.parametrize("shared", [True, False])
def test_a_preparation_that_fails_leaves_the_source_its_volumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    """Where both hosts see the directory of the instance, its record of volumes is that of the running guest."""
    here, volume = Host(tmp_path / "state"), tmp_path / "volume"
    who = here.web("raw")
    volume.write_bytes(bytes(MiB))
    info = {"driver_volume_type": "file", "serial": "data", "data": {"path": str(volume), "format": "raw"}}
    known = AttachedVolume("data", info, "vdb", Bus.VIRTIO, serial="data", alias="ua-data", state=VolumeState.ATTACHED)
    here.rooms.__dict__["hypervisor"] = SimpleNamespace(guests=list, find=lambda uuid: None)
    disconnected: list[Any] = []
    monkeypatch.setattr(File, "disconnect", lambda self, info: disconnected.append(info["serial"]))
    monkeypatch.setattr(arriving, "check_guest", lambda *_: None)
    monkeypatch.setattr(connect, "plug", lambda *_: ())
    monkeypatch.setattr(locate, "remembered_image", lambda *_: None)

    def refuse(*_: Any) -> str:
        raise HypervisorError(action="assemble", reason="no emulator")

    monkeypatch.setattr(launch, "assembled", refuse)
    found = {
        "is_shared_instance_path": shared,
        "volumes": [record.entry(known)],
        "disks": [],
        "copied": {},
        "records": {},
    }
    if shared:
        record.save(here.rooms.directory(who.uuid).path, known)
    else:
        here.rooms.directory(who.uuid).delete()
    with pytest.raises(HypervisorError, match="no emulator"):
        arriving.prepare(here.rooms, who, None, (), found)
    assert disconnected == ["data"]
    assert volumes.recorded(here.rooms, who) == ((known,) if shared else ())
    assert here.rooms.directory(who.uuid).exists() == shared


@pytest.mark.parametrize("here_too", [True, False])
def test_a_volume_that_another_guest_of_this_host_has_stays_connected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here_too: bool
) -> None:
    """The common directory has the other hosts' instances as well."""
    here = Host(tmp_path / "state")
    who, other = here.web("raw"), here.web("raw")
    info = {"driver_volume_type": "file", "serial": "data", "data": {"path": "/shared", "format": "raw"}}
    known = AttachedVolume("data", info, "vdb", Bus.VIRTIO, serial="data", alias="ua-data", state=VolumeState.ATTACHED)
    for one in (who, other):
        record.save(here.rooms.directory(one.uuid).path, known)
    guests = {other.uuid: SimpleNamespace(name="other")} if here_too else {}
    here.rooms.__dict__["hypervisor"] = SimpleNamespace(find=guests.get)
    disconnected: list[Any] = []
    monkeypatch.setattr(File, "disconnect", lambda self, info: disconnected.append(info["serial"]))
    leaving.disconnect(here.rooms, who, {"is_shared_instance_path": True})
    assert disconnected == ([] if here_too else ["data"])


@pytest.mark.parametrize("destroy_disks", [True, False])
def test_who_keeps_the_disks_keeps_the_record_of_volumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, destroy_disks: bool
) -> None:
    """A cold move that failed at the destination is taken back there; in a common directory it is the source's."""
    here = Host(tmp_path / "state")
    who = here.web("raw")
    info = {"driver_volume_type": "file", "serial": "data", "data": {"path": "/shared", "format": "raw"}}
    known = AttachedVolume("data", info, "vdb", Bus.VIRTIO, serial="data", alias="ua-data", state=VolumeState.ATTACHED)
    record.save(here.rooms.directory(who.uuid).path, known)
    here.rooms.__dict__["hypervisor"] = SimpleNamespace(find=lambda uuid: None)
    disconnected: list[Any] = []
    monkeypatch.setattr(File, "disconnect", lambda self, info: disconnected.append(info["serial"]))
    here.driver.destroy(None, who, [], destroy_disks=destroy_disks)
    assert disconnected == ["data"]
    assert volumes.recorded(here.rooms, who) == (() if destroy_disks else (known,))


def test_storage_that_is_not_reached_from_the_destination_makes_it_unsuitable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As before a cold move: the request is right, and this host is not."""
    here = Host(tmp_path / "state")
    who = here.web("raw")
    info = {"driver_volume_type": "file", "serial": "data", "data": {"path": "/gone", "format": "raw"}}
    known = AttachedVolume("data", info, "vdb", Bus.VIRTIO, serial="data", alias="ua-data", state=VolumeState.ATTACHED)
    here.rooms.__dict__["hypervisor"] = SimpleNamespace(guests=list, find=lambda uuid: None)
    monkeypatch.setattr(arriving, "check_guest", lambda *_: None)
    monkeypatch.setattr(awaiting, "held", lambda *_: False)
    monkeypatch.setattr(connect, "plug", lambda *_: ())
    monkeypatch.setattr(locate, "remembered_image", lambda *_: None)

    def refuse(self: File, info: Any) -> str:
        raise HypervisorError(action="open the volume", reason="connection refused")

    monkeypatch.setattr(File, "connect", refuse)
    here.rooms.directory(who.uuid).delete()
    found = {
        "is_shared_instance_path": False,
        "volumes": [record.entry(known)],
        "disks": [],
        "copied": {},
        "records": {},
    }
    with pytest.raises(HostUnsuitable, match=r"cannot be had at the destination.*connection refused"):
        arriving.prepare(here.rooms, who, None, (), found)
    assert not here.rooms.directory(who.uuid).exists()


def test_nobody_else_prepares_while_it_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second try would find what the first one is about to remove, and lose what it makes itself."""
    rooms, found = house(tmp_path / "state"), []
    rooms.__dict__["hypervisor"] = SimpleNamespace(guests=list)
    monkeypatch.setattr(arriving, "check_guest", lambda *_: None)

    def refuse(*_: Any) -> bool:
        raise HypervisorError(action="look", reason="it hangs")

    def forget(*_: Any) -> None:
        with pytest.raises(Busy), transit.busy(rooms, INSTANCE.uuid, transit.Way.IN):
            pass
        found.append("still held")

    monkeypatch.setattr(awaiting, "held", refuse)
    monkeypatch.setattr(transit, "forget", forget)
    with pytest.raises(HypervisorError):
        arriving.prepare(rooms, INSTANCE, None, (), {"is_shared_instance_path": False})
    assert found == ["still held"]
