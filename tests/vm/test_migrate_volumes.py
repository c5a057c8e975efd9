"""A guest goes to the other host with its volumes: it reads and writes them there, and nobody holds them here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from cowshed.errors import InvalidRequest
from cowshed.model.image import Image
from tests.vm.doors import Doors, doors
from tests.vm.sides import Side, at_source, booted, checks, go, goes_on, nothing_at, one_guest, pair, prepared
from tests.vm.two_hosts import Host
from tests.volume_servers import Target, iscsi, nbd, raw_file, text_at, until

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("moves"), pytest.mark.timeout(300)]

# Says aloud what it can write, and goes on when a device comes late.
WRITER = """#!/bin/sh
(i=0; while :; do i=$((i+1)); echo "tick $i" >/dev/console
for disk in /dev/vd[b-z]; do echo "tick $i" | dd of=$disk bs=512 seek=2048 conv=notrunc,sync,fsync 2>/dev/null; done
usleep 300000; done) &
"""


class Volumes:
    """One of each kind, by the name of its file."""

    def __init__(self, place: Path, port: int, target: Target) -> None:
        self.files = {name: place / name for name in ("file", "nbd", "iscsi")}
        self.infos: dict[str, dict[str, Any]] = {
            "file": {"driver_volume_type": "file", "data": {"path": str(self.files["file"]), "format": "raw"}},
            "nbd": {"driver_volume_type": "nbd", "data": {"host": "127.0.0.1", "port": port, "export": "disk"}},
            "iscsi": {"driver_volume_type": "iscsi", "data": target.data()},
        }
        for name, info in self.infos.items():
            info["serial"] = f"volume-{name}"

    def block_devices(self, *, password: bool = True) -> dict[str, Any]:
        """What a control plane says at the destination."""
        infos = dict(self.infos)
        if not password:
            data = {name: value for name, value in infos["iscsi"]["data"].items() if name != "auth_password"}
            infos["iscsi"] = {**infos["iscsi"], "data": data}
        devices = zip(infos.values(), ("/dev/vdx", "/dev/vdy", "/dev/vdz"), strict=True)
        return {"block_device_mapping": [{"connection_info": info, "mount_device": name} for info, name in devices]}

    def written(self) -> None:
        """The guest writes all of them, now."""
        for path in self.files.values():
            before = text_at(path)
            until(lambda path=path, before=before: text_at(path) not in ("", before), f"{path.name} written")  # type: ignore[misc]


@pytest.fixture
def volumes(hosts: tuple[Host, Host]) -> Iterator[tuple[Volumes, Doors, list[int]]]:
    place = hosts[0].place
    for name in ("file", "nbd", "iscsi"):
        raw_file(place / name)
    with nbd(place / "nbd") as port, iscsi(place / "iscsi") as target:
        ports = [port, target.port]
        with doors(hosts, *ports) as opened:
            yield Volumes(place, port, target), opened, ports


@pytest.fixture
def sides(hosts: tuple[Host, Host], guest_dir: Path) -> Iterator[tuple[Side, Side]]:
    with ExitStack() as stack:
        yield pair(stack, hosts, guest_dir, "volumes", ("images",))


def test_volumes_go_with_it(
    sides: tuple[Side, Side], hosts: tuple[Host, Host], volumes: tuple[Volumes, Doors, list[int]]
) -> None:
    (source, target), (there, opened, ports) = sides, volumes
    image: Image = source.image()
    disks = there.block_devices()
    instance = booted(source, image, user_data=WRITER, disks=disks)

    def held(host: Host) -> list[bool]:
        return [opened.open[host.name, port] > 0 for port in ports]

    def secrets(side: Side) -> int:
        return len(side.driver.rooms.hypervisor.call("list", lambda c: c.listSecrets()))

    try:
        there.written()
        assert held(hosts[0]) == [True, True] and secrets(source) == 1
        data = checks(source, target, instance)
        assert list(data["copied"].values()) == ["vda"] and len(data["volumes"]) == 3
        assert "chap-secret" not in str(data)
        # The password of CHAP is the control plane's to give.
        with pytest.raises(InvalidRequest, match="password"):
            target.driver.pre_live_migration(None, instance, there.block_devices(password=False), [], None, data)
        at_source(source, target, instance)

        data = prepared(source, target, instance, disks=disks)
        target.driver.rollback_live_migration_at_destination(None, instance, [], disks, migrate_data=data)
        at_source(source, target, instance)
        assert secrets(target) == 0 and secrets(source) == 1
        there.written()

        data = prepared(source, target, instance, disks=disks)
        calls = go(source, target, instance, data, disks=disks)
        assert calls.made == ["post"], calls.data.get("error")
        assert one_guest(instance, source, target) == [target]
        goes_on(target, instance)
        there.written()
        nothing_at(source, instance)
        until(lambda: held(hosts[0]) == [False, False], "the connections of the source closed")
        assert held(hosts[1]) == [True, True]
        assert secrets(source) == 0 and secrets(target) == 1
        assert len(target.driver.volumes(instance)) == 3

        # Cold back, and taken back: the password goes along, and nobody has to say it again.
        target.driver.migrate_disk_and_power_off(None, instance, source.host.address, instance.flavor, [])
        assert secrets(source) == 1 and secrets(target) == 1 and held(hosts[1]) == [False, False]
        assert "chap-secret" not in (source.directory(instance) / "volumes.json").read_text()
        source.driver.discard_received(instance)
        assert secrets(source) == 0
        nothing_at(source, instance)
        target.driver.finish_revert_migration(None, instance, [])
        target.wait(instance, "cowshed-guest: up")
        there.written()
        for info in there.infos.values():
            target.driver.detach_volume(info, instance, "")
        until(lambda: held(hosts[1]) == [False, False], "detached")
        assert target.driver.volumes(instance) == ()
    finally:
        target.driver.destroy(None, instance, [])
        source.driver.destroy(None, instance, [])
    assert secrets(target) == 0
