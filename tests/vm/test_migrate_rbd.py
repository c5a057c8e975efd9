"""Instances on Ceph go from host to host: nothing is copied, and the image has one user at a time."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cowshed.config import RbdSection
from cowshed.errors import InvalidRequest, InvalidState
from cowshed.model.flavor import Flavor
from cowshed.model.image import Image
from cowshed.model.instance import Instance, PowerState
from cowshed.units import MiB
from tests.ceph_node import Ceph
from tests.vm.doors import doors
from tests.vm.sides import (
    Side,
    at_source,
    booted,
    capped,
    checks,
    go,
    goes_on,
    nothing_at,
    one_guest,
    pair,
    prepared,
    slowly,
)
from tests.vm.two_hosts import Host
from tests.volume_servers import until

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("moves"), pytest.mark.timeout(300)]


class Store:
    """A pool that both hosts reach, and nothing else in common but the image service."""

    def __init__(self, ceph: Ceph) -> None:
        self.ceph, self.pool = ceph, ceph.make_pool()
        self.sections = {"rbd": RbdSection(pool=self.pool, ceph_conf=str(ceph.conf), keyring=str(ceph.keyring))}

    def image(self, instance: Instance) -> dict[str, Any]:
        """What names it for good: another image under the same name would have another id."""
        found = self.ceph.rbd("info", "--format", "json", f"{self.pool}/{instance.uuid}_disk")
        return {name: found[name] for name in ("id", "size", "create_timestamp")}

    def of(self, instance: Instance) -> list[str]:
        return [name for name in self.ceph.images(self.pool) if instance.uuid in name]

    def clients(self, instance: Instance) -> list[int]:
        """Those who have it open."""
        found = self.ceph.rbd("status", "--format", "json", f"{self.pool}/{instance.uuid}_disk")["watchers"]
        return sorted(one["client"] for one in found)

    def lockers(self, instance: Instance) -> list[int]:
        found = self.ceph.rbd("lock", "ls", "--format", "json", f"{self.pool}/{instance.uuid}_disk")
        return [int(one["locker"].removeprefix("client.")) for one in found]

    def snapshots(self, instance: Instance) -> list[str]:
        return [
            one["name"] for one in self.ceph.rbd("snap", "ls", "--format", "json", f"{self.pool}/{instance.uuid}_disk")
        ]


@pytest.fixture(scope="module")
def store(hosts: tuple[Host, Host], ceph: Ceph) -> Iterator[Store]:
    said = str(ceph.command("osd", "dump")) + ceph.conf.read_text()
    ports = {int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", said) if int(port)}
    with doors(hosts, *ports):
        yield Store(ceph)


@pytest.fixture(scope="module")
def sides(hosts: tuple[Host, Host], guest_dir: Path, store: Store) -> Iterator[tuple[Side, Side]]:
    with ExitStack() as stack:
        yield pair(stack, hosts, guest_dir, "ceph", ("images",), more=store.sections)


@pytest.fixture(scope="module")
def image(sides: tuple[Side, Side]) -> Image:
    return sides[0].image()


def test_a_running_guest_goes_and_its_image_stays(
    sides: tuple[Side, Side], image: Image, store: Store, hosts: tuple[Host, Host], guest_dir: Path
) -> None:
    source, target = sides
    instance = booted(source, image, backend="rbd")
    try:
        disk, (first,) = store.image(instance), store.clients(instance)
        with pytest.raises(InvalidRequest, match="nothing to copy"):
            checks(source, target, instance, block=True)
        data = checks(source, target, instance, block=False)
        assert not data["block_migration"] and not data["copied"]  # the config drive goes with the data

        slow = capped(hosts, guest_dir, "ceph", more=store.sections)
        data = prepared(slow, target, instance)
        thread = slowly(slow, instance.uuid, lambda: slow.driver.live_migration_abort(instance))
        assert go(slow, target, instance, data, thread).made != ["post"]
        at_source(source, target, instance)
        assert store.image(instance) == disk and first in store.clients(instance)
        assert not target.driver.rooms.hypervisor.secrets.kept(source.driver.rooms.backend("rbd").secret_uuid)

        data = prepared(source, target, instance)
        calls = go(source, target, instance, data)
        assert calls.made == ["post"], calls.data.get("error")
        print(f"rbd: {calls.data['statistics']}")
        assert one_guest(instance, source, target) == [target]
        goes_on(target, instance)
        nothing_at(source, instance)
        # libvirt has killed the QEMU that waited there at first: Ceph forgets it after a while.
        until(lambda: first not in store.clients(instance) and len(store.clients(instance)) == 1, "one client")
        (second,) = store.clients(instance)
        assert store.lockers(instance) in ([], [second])
        assert store.image(instance) == disk and store.of(instance) == [f"{instance.uuid}_disk"]
    finally:
        target.driver.destroy(None, instance, [])
        source.driver.destroy(None, instance, [])
    assert store.of(instance) == []


def test_resize_and_cold_moves_copy_nothing(
    sides: tuple[Side, Side], image: Image, store: Store, hosts: tuple[Host, Host]
) -> None:
    """But the keys: the disk is encrypted."""
    source, target = sides
    small, large = Flavor(memory=160 * MiB), Flavor(vcpus=2, memory=160 * MiB, root=80 * MiB)
    instance = booted(source, image, backend="rbd", flavor=small, encrypt=True)
    moved = replace(instance, flavor=large)

    def keys(side: Side) -> list[str]:
        return sorted(path.read_text() for path in (side.state / "keys").glob("*"))

    try:
        disk, known = store.image(instance), keys(source)
        larger = {**disk, "size": disk["size"] + 16 * MiB}

        def leave(dest: str) -> str:
            info = source.driver.migrate_disk_and_power_off(None, instance, dest, large, [])
            assert store.clients(instance) == [] and store.snapshots(instance) == ["before-resize"]
            return info

        def arrive(where: Side, info: str, *, power_on: bool = False) -> None:
            remembered = where.driver.remembered_image(moved)
            where.driver.finish_migration(None, None, moved, info, [], remembered, True, power_on=power_on)
            assert store.image(instance) == larger

        for dest, where in (("localhost", source), (hosts[1].address, target)):  # reverted
            arrive(where, leave(dest))
            if where is target:
                with pytest.raises(InvalidState, match="moved to"):
                    source.driver.power_on(None, instance, [])
                # As a control plane does where the storage is shared: without the disks.
                target.driver.destroy(None, moved, [], destroy_disks=False)
                target.driver.discard_received(moved)
                target.assert_nothing_left(moved)
                assert keys(target) == []
            source.driver.finish_revert_migration(None, instance, [], power_on=False)
            assert store.image(instance) == disk and store.snapshots(instance) == []

        begun = time.monotonic()
        info = leave(hosts[1].address)
        print(f"rbd, cold: {time.monotonic() - begun:.1f} s")
        arrive(target, info, power_on=True)
        target.wait(moved, "cowshed-guest: boot 2\\n")
        assert f"disk vda {80 * MiB}" in target.log(moved)
        assert len(store.clients(instance)) == 1
        for _ in range(2):
            source.driver.confirm_migration(None, instance, [])
        nothing_at(source, instance)
        assert keys(source) == [] and keys(target) == known
        assert target.state_of(moved) == PowerState.RUNNING
        assert store.image(instance) == larger and store.snapshots(instance) == []
    finally:
        target.driver.destroy(None, instance, [])
        source.driver.destroy(None, instance, [])
    assert store.of(instance) == []
