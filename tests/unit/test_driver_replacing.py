"""A rebuild that was killed or interrupted: its disks go with the next start of anything. No libvirt."""

from __future__ import annotations

from pathlib import Path

import pytest

from cowshed.config import Config, DisksSection, GuestSection, HostSection
from cowshed.disks import manifest
from cowshed.driver import LibvirtDriver
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import launch, layout, replacing
from cowshed.errors import Busy
from cowshed.model.image import Image
from cowshed.model.instance import Instance
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
