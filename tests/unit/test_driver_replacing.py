"""A rebuild that was killed or interrupted: its disks go with the next start of anything. No libvirt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cowshed.config import Config, DisksSection, GuestSection, HostSection
from cowshed.disks import manifest
from cowshed.disks.snapshots import RecordedSnapshots
from cowshed.driver import LibvirtDriver
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import launch, layout, locate, placing, replacing
from cowshed.errors import Busy, HypervisorError
from cowshed.model.image import Image
from cowshed.model.instance import Instance, PowerState
from cowshed.model.vif import Vif, VifType
from cowshed.undo import Undo
from cowshed.units import MiB
from tests import provisioned


@pytest.fixture
def driver(tmp_path: Path) -> LibvirtDriver:
    host = HostSection(state=str(tmp_path / "state"))
    guest = GuestSection(config_drive=False)
    return LibvirtDriver(config=Config(host=host, guest=guest, disks=DisksSection(backend="qcow2")))


@pytest.fixture
def rooms(driver: LibvirtDriver) -> Rooms:
    return driver.rooms


@pytest.fixture
def image(rooms: Rooms, tmp_path: Path) -> Image:
    return provisioned.debian(rooms, tmp_path)


@pytest.fixture
def cow(rooms: Rooms, image: Image) -> Instance:
    return provisioned.cow(rooms, image, swap=MiB)


def begun(rooms: Rooms, who: Instance, image: Image) -> replacing.Replacement:
    """The new disks are made; then the process is killed, so that nothing is taken back."""
    new = replacing.plan(rooms, who, layout.plan(rooms, who, image, None), keep_ephemeral=False)
    replacing.make(rooms, who, image, new, None, Undo())
    assert len(seconds(rooms, who)) == 2
    return new


def seconds(rooms: Rooms, who: Instance) -> list[str]:
    """Disks that the manifest knows by a second name, and files of none that it knows."""
    place = rooms.directory(who.uuid).path
    entries = manifest.load(place).disks
    known = {entry.location for entry in entries.values()}
    stray = [path.name for path in place.glob("disk*") if path.name not in known]
    return stray + [name for name in entries if replacing.is_second(name)]


@pytest.mark.parametrize("exchanged", [False, True])
@pytest.mark.parametrize("by", ["clear_leftovers", "start"])
def test_what_a_killed_rebuild_left_goes(
    driver: LibvirtDriver, rooms: Rooms, image: Image, cow: Instance, by: str, exchanged: bool
) -> None:
    new = begun(rooms, cow, image)
    if exchanged:
        replacing.exchange(rooms, cow, new)
    kept = manifest.require(rooms.directory(cow.uuid).path, "disk")
    data = (rooms.directory(cow.uuid).path / kept.location).read_bytes()
    if by == "start":
        rooms.__dict__["hypervisor"] = NoGuest()
        with pytest.raises(Reached):
            launch.relaunch(rooms, cow, [])
    else:
        driver.clear_leftovers()
    assert seconds(rooms, cow) == []
    kept = manifest.require(rooms.directory(cow.uuid).path, "disk")
    assert (rooms.directory(cow.uuid).path / kept.location).read_bytes() == data


@pytest.mark.parametrize("exchanged", [False, True])
@pytest.mark.parametrize("backend", ["raw", "ploop"])
def test_snapshots_stay_and_go_with_the_disk_they_are_of(tmp_path: Path, backend: str, exchanged: bool) -> None:
    host = HostSection(state=str(tmp_path / "state"))
    rooms = LibvirtDriver(
        config=Config(host=host, guest=GuestSection(config_drive=False), disks=DisksSection(backend=backend))
    ).rooms
    image = provisioned.debian(rooms, tmp_path)
    cow = provisioned.cow(rooms, image, swap=MiB)
    disk = rooms.backend(backend).disk(cow.uuid, "disk")
    assert isinstance(disk, RecordedSnapshots)
    disk.take("before")
    new = begun(rooms, cow, image)
    if exchanged:
        replacing.exchange(rooms, cow, new)
    replacing.leftovers(rooms, cow.uuid)
    assert [point.name for point in disk.snapshots()] == ([] if exchanged else ["before"])
    assert [path.name for path in disk.kept.iterdir()] == ([] if exchanged else ["before"])


class Reached(Exception):
    """The guest would be defined now."""


class NoGuest:
    def __getattr__(self, name: str) -> object:
        raise Reached


def test_a_rebuild_that_goes_on_loses_nothing(driver: LibvirtDriver, rooms: Rooms, image: Image, cow: Instance) -> None:
    with replacing.busy(rooms, cow.uuid):
        begun(rooms, cow, image)
        driver.clear_leftovers()
        assert len(seconds(rooms, cow)) == 2
        with pytest.raises(Busy):
            driver.rebuild(None, cow, image, [], None, [], None, None, [])
    driver.clear_leftovers()
    assert seconds(rooms, cow) == []


@pytest.mark.parametrize("exchanged", [False, True])
def test_an_interruption_at_the_exchange_keeps_the_old_disks(
    rooms: Rooms, image: Image, cow: Instance, exchanged: bool
) -> None:
    place = rooms.directory(cow.uuid).path
    before = manifest.load(place).disks
    new = begun(rooms, cow, image)
    if exchanged:
        replacing.exchange(rooms, cow, new)
    replacing.take_back(rooms, cow, new)
    assert {name: manifest.require(place, name) for name in before} == before


class RunningGuest:
    """Until it is destroyed."""

    name = "cow"
    on = True

    def has_saved(self) -> bool:
        return False

    def state(self) -> PowerState:
        return PowerState.RUNNING if self.on else PowerState.SHUTDOWN

    def ended(self) -> bool:
        return not self.on

    def destroy(self) -> None:
        self.on = False

    def wait(self, *_: Any, **__: Any) -> None:
        assert not self.on


class Caller:
    """Volumes are taken from the instance and given to it again, as the contract's call-backs do."""

    def __init__(self, guest: RunningGuest) -> None:
        self.guest = guest
        self.said: list[str] = []
        self.started: list[Any] = []

    def detach(self, context: Any, bdms: Any) -> None:
        self.said.append(f"detach {bdms} from {self.guest.state().name}")

    def attach(self, context: Any, instance: Instance, bdms: Any) -> dict[str, Any]:
        self.said.append(f"attach {bdms}")
        return {"block_device_mapping": list(bdms)}

    def relaunch(self, rooms: Rooms, instance: Instance, vifs: Any, block_devices: Any = None) -> None:
        self.started.append(block_devices)


@pytest.fixture
def caller(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> Caller:
    guest = RunningGuest()
    rooms.__dict__["hypervisor"] = type("One", (), {"find": lambda _, uuid: guest, "guest": lambda _, uuid: guest})()
    found = Caller(guest)
    monkeypatch.setattr(launch, "relaunch", found.relaunch)
    monkeypatch.setattr(launch, "check", lambda *_: None)
    return found


def rebuild(driver: LibvirtDriver, cow: Instance, image: Image, caller: Caller) -> None:
    driver.rebuild(None, cow, image, [], None, ["vol"], caller.detach, caller.attach, [])


def test_volumes_leave_a_stopped_guest_and_come_again_with_a_rebuild(
    driver: LibvirtDriver, image: Image, cow: Instance, caller: Caller
) -> None:
    rebuild(driver, cow, image, caller)
    assert caller.said == ["detach ['vol'] from SHUTDOWN", "attach ['vol']"]
    assert caller.started == [{"block_device_mapping": ["vol"]}]


@pytest.mark.parametrize("where", ["exchange", "attach", "start"])
def test_volumes_come_again_when_a_rebuild_fails(
    driver: LibvirtDriver, image: Image, cow: Instance, caller: Caller, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [HypervisorError(action="go on", reason="no", number=0)]

    def failing(done: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if failures:
                raise failures.pop()
            return done(*args, **kwargs)

        return call

    if where == "exchange":
        monkeypatch.setattr(replacing, "exchange", failing(replacing.exchange))
    elif where == "attach":
        monkeypatch.setattr(caller, "attach", failing(caller.attach))
    else:
        monkeypatch.setattr(launch, "relaunch", failing(caller.relaunch))
    with pytest.raises(HypervisorError):
        rebuild(driver, cow, image, caller)
    assert caller.started == [{"block_device_mapping": ["vol"]}]
    assert caller.said.count("attach ['vol']") == 1


def test_an_evacuated_instance_gets_the_volumes_as_this_host_sees_them(
    driver: LibvirtDriver, image: Image, cow: Instance, caller: Caller
) -> None:
    old = {"block_device_mapping": ["vol of the host before"]}
    driver.rebuild(
        None, cow, image, [], None, ["vol"], caller.detach, caller.attach, [], recreate=True, block_device_info=old
    )
    assert caller.said == ["attach ['vol']"]
    assert caller.started == [{"block_device_mapping": ["vol"]}]


@pytest.mark.parametrize("told", [True, False])
def test_an_unrescued_instance_keeps_its_interfaces_where_the_caller_names_none(
    driver: LibvirtDriver, rooms: Rooms, cow: Instance, caller: Caller, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    vif = Vif("port", "52:54:00:00:00:01", VifType.BRIDGE, "br0")
    seen: list[Any] = []
    monkeypatch.setattr(launch, "relaunch", lambda rooms, instance, vifs: seen.append(tuple(vifs)))
    monkeypatch.setattr(locate, "remembered_vifs", lambda rooms, guest: (vif,))
    monkeypatch.setattr(launch, "check_host", lambda rooms: None)
    placing.remember_places(rooms, cow.uuid, {}, placing.RESCUE_FILE)
    driver.unrescue(cow, [] if told else None)
    assert seen == [() if told else (vif,)]
