"""Files of locks go with the instance or the volume they were for. No libvirt."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import capture_note, replacing, sweep, transit, volumes
from cowshed.model.instance import Instance
from tests.unit.test_driver_disks import Host


@pytest.fixture
def host(tmp_path: Path) -> Host:
    made = Host(tmp_path / "state")
    made.rooms.__dict__["hypervisor"] = SimpleNamespace(find=lambda uuid: None)
    return made


def use(rooms: Rooms, who: Instance) -> None:
    """Every lock of an instance, once."""
    with replacing.busy(rooms, who.uuid), capture_note.alone(rooms, who):
        for way in transit.Way:
            with transit.busy(rooms, who.uuid, way):
                pass


def files(rooms: Rooms, who: Instance) -> list[str]:
    return [name for name in os.listdir(rooms.state / "locks") if who.uuid in name]


@pytest.mark.parametrize("destroy_disks", [True, False])
def test_they_go_with_the_instance(host: Host, destroy_disks: bool) -> None:
    who, other = host.web("raw"), host.web("raw")
    use(host.rooms, who)
    use(host.rooms, other)
    assert len(files(host.rooms, who)) == 4
    host.driver.destroy(None, who, [], destroy_disks=destroy_disks)
    assert len(files(host.rooms, who)) == (0 if destroy_disks else 4)
    assert len(files(host.rooms, other)) == 4


def test_those_of_instances_that_are_gone_are_swept(host: Host) -> None:
    here, gone = host.web("raw"), host.web("raw")
    use(host.rooms, here)
    use(host.rooms, gone)
    host.rooms.directory(gone.uuid).delete()
    others = [host.rooms.state / "locks" / name for name in ("groups", "instance-web", "volume-" + gone.uuid)]
    for path in others:
        path.touch()
    with replacing.busy(host.rooms, gone.uuid):
        sweep.leftovers(host.rooms)
        assert sorted(files(host.rooms, gone)) == [f"replacing-{gone.uuid}", f"volume-{gone.uuid}"]
    sweep.leftovers(host.rooms)
    assert files(host.rooms, gone) == [f"volume-{gone.uuid}"]
    assert len(files(host.rooms, here)) == 4
    assert all(path.exists() for path in others)


def test_that_of_a_volume_stays_while_somebody_works_with_it(host: Host) -> None:
    with volumes.held(host.rooms, "data"):
        volumes.forget_lock(host.rooms, "data")
        assert os.listdir(host.rooms.state / "locks") == ["volume-data"]
    volumes.forget_lock(host.rooms, "data")
    assert os.listdir(host.rooms.state / "locks") == []
