"""The base under a disk is gone: fetched again when it is the same, refused before the guest is touched when not. No libvirt."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from cowshed.config import Config, DisksSection, GuestSection, HostSection
from cowshed.disks import manifest
from cowshed.driver import LibvirtDriver
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import standing
from cowshed.errors import DataCorrupt, DigestMismatch, DiskNotFound, ImageNotFound
from cowshed.model.image import Image
from cowshed.model.instance import Instance, PowerState
from cowshed.units import MiB
from tests import provisioned


@pytest.fixture
def rooms(tmp_path: Path) -> Rooms:
    host = HostSection(state=str(tmp_path / "state"))
    return Rooms(Config(host=host, guest=GuestSection(config_drive=False), disks=DisksSection(backend="qcow2")))


@pytest.fixture
def image(rooms: Rooms, tmp_path: Path) -> Image:
    return provisioned.debian(rooms, tmp_path)


@pytest.fixture
def cow(rooms: Rooms, image: Image) -> Instance:
    return provisioned.cow(rooms, image)


def base(rooms: Rooms, who: Instance) -> Path:
    found = manifest.require(rooms.directory(who.uuid).path, "disk").base_path
    assert found
    return Path(found)


def data(rooms: Rooms, image: Image) -> Path:
    return rooms.images.local_path(image)  # type: ignore[return-value]


def stands_on_another(rooms: Rooms, who: Instance) -> None:
    """Its disk was made on other bytes than the image gives now."""
    place = rooms.directory(who.uuid).path
    entry = manifest.require(place, "disk")
    manifest.record(place, replace(entry, base_digest=f"sha256:{'0' * 64}"))


def test_a_base_that_was_lost_is_fetched_again(rooms: Rooms, image: Image, cow: Instance) -> None:
    path = base(rooms, cow)
    before = path.read_bytes()
    path.unlink()
    standing.ready(rooms, cow)
    assert path.read_bytes() == before
    known = rooms.cache.lookup(path.name)
    assert known and known.digest == manifest.require(rooms.directory(cow.uuid).path, "disk").base_digest


def test_many_who_miss_it_fetch_once(
    rooms: Rooms, image: Image, cow: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cowshed.images import fetch

    path, calls, fill = base(rooms, cow), [], fetch.fill
    monkeypatch.setattr(fetch, "fill", lambda *words, **options: (calls.append(1), fill(*words, **options))[1])
    path.unlink()
    threads = [threading.Thread(target=standing.ready, args=(rooms, cow)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.exists()
    assert len(calls) == 1


@pytest.mark.parametrize("there", [False, True])
def test_another_base_than_the_disk_stands_on_is_refused(
    rooms: Rooms, image: Image, cow: Instance, there: bool
) -> None:
    path = base(rooms, cow)
    stands_on_another(rooms, cow)
    if not there:
        path.unlink()
    with pytest.raises(DigestMismatch, match=path.name) as caught:
        standing.ready(rooms, cow)
    assert "cowshed rebuild cow" in str(caught.value.hint)
    assert path.exists() is there


def test_a_base_that_was_cut_is_refused(rooms: Rooms, cow: Instance) -> None:
    path = base(rooms, cow)
    path.chmod(0o600)
    os.truncate(path, MiB)
    with pytest.raises(DataCorrupt):
        standing.ready(rooms, cow)


@pytest.mark.parametrize("lost", ["data", "image"])
def test_a_base_that_is_gone_for_good_is_named_with_a_way_out(
    rooms: Rooms, image: Image, cow: Instance, lost: str
) -> None:
    path = base(rooms, cow)
    path.unlink()
    if lost == "data":
        data(rooms, image).unlink()
    else:
        rooms.images.delete(image.id)
    with pytest.raises(DiskNotFound, match=r"the base under disk of cow") as caught:
        standing.ready(rooms, cow)
    assert str(path) in str(caught.value)
    assert "cowshed rebuild cow IMAGE" in str(caught.value.hint)


def test_an_image_without_its_bytes_says_so(rooms: Rooms, image: Image) -> None:
    data(rooms, image).unlink()
    with pytest.raises(ImageNotFound) as caught:
        data(rooms, image)
    assert "pull it again" in str(caught.value.hint)


class Running:
    """A guest that must not be touched."""

    def state(self) -> PowerState:
        return PowerState.RUNNING

    def has_saved(self) -> bool:
        return False

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"the guest was asked to {name}")


class OneGuest:
    def find(self, uuid: str) -> Running:
        return Running()

    guest = find


@pytest.mark.parametrize("how", ["HARD", "SOFT", "rescue", "resize"])
def test_the_guest_runs_on_when_the_base_is_gone(rooms: Rooms, image: Image, cow: Instance, how: str) -> None:
    base(rooms, cow).unlink()
    rooms.images.delete(image.id)
    driver = LibvirtDriver(config=rooms.config)
    driver.rooms.__dict__["hypervisor"] = OneGuest()
    with pytest.raises(DiskNotFound):
        if how == "rescue":
            driver.rescue(None, cow, [], image, "secret")
        elif how == "resize":
            driver.migrate_disk_and_power_off(None, cow, "localhost", cow.flavor, [])
        else:
            driver.reboot(None, cow, [], how)
