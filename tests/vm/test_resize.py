"""Resize in place and cold migration between two real libvirt hosts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cowshed.config import GuestSection, MigrationSection
from cowshed.contract.callbacks import NoProgress
from cowshed.errors import CowshedError, DiskTooSmall, HostUnsuitable, InvalidState, NameTaken
from cowshed.model.flavor import Flavor
from cowshed.model.image import Image
from cowshed.model.instance import Instance, PowerState
from cowshed.units import MiB
from tests.vm.machines import Machines
from tests.vm.two_hosts import Host

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("migration")]

SMALL = Flavor(vcpus=1, memory=160 * MiB)
LARGE = Flavor(vcpus=2, memory=192 * MiB, root=80 * MiB)
SECRET = "#!/bin/sh\necho cowshed-guest: $(cat /data/secret 2>/dev/null) >/dev/console; echo kept >/data/secret; sync\n"


def side(host: Host, guest_dir: Path, other: Host | None = None) -> Machines:
    """Its driver reaches the other host's by running cowshed with that one's configuration."""
    host.state.mkdir(exist_ok=True)
    made = Machines(host.uri, guest_dir, host.state, guest=GuestSection(config_drive=True, cpu_mode="qemu64"))
    words: tuple[str, ...] = ("false",)
    if other:
        words = (
            "env", "COWSHED_CONFIG=/dev/null", f"COWSHED_HOST_STATE={other.state}", f"COWSHED_HOST_URI={other.uri}",
            f"COWSHED_HOST_ADDRESS={other.address}", "COWSHED_HOST_VIRT_TYPE=qemu", sys.executable, "-m", "cowshed.cli",
        )  # fmt: skip
    made.config = replace(
        made.config,
        host=replace(made.config.host, address=host.address),
        migration=MigrationSection(command=words, address=host.address),
    )
    made.driver.cleanup_host("here")
    made.driver = made.reopened()
    return made


@pytest.fixture(scope="module")
def sides(hosts: tuple[Host, Host], guest_dir: Path) -> Iterator[tuple[Machines, Machines]]:
    one, other = side(hosts[0], guest_dir, hosts[1]), side(hosts[1], guest_dir)
    with ExitStack() as stack:
        for made in (other, one):
            stack.callback(made.driver.cleanup_host, "here")
        yield one, other


@pytest.fixture(scope="module")
def image(sides: tuple[Machines, Machines]) -> Image:
    return sides[0].image()


def booted(source: Machines, image: Image, **fields: Any) -> Instance:
    instance = source.spawn(image, flavor=SMALL, user_data=SECRET, **fields)
    source.wait(instance, "cowshed-guest: up")
    return instance


def boots(where: Machines, instance: Instance, number: int, *, log: int = 1) -> str:
    """What it says at its boot ``number`` (by its disk), the one ``log`` of those that are in the log here."""
    where.wait(instance, "(?s)" + "cowshed-guest: up.*?" * log)
    said = where.log(instance).split("cowshed-guest: kernel")[log]
    assert f"cowshed-guest: boot {number}\n" in said, said
    return said


def kept(where: Machines, instance: Instance) -> list[Path]:
    place = where.state / "instances" / instance.uuid
    return [*place.glob("before-resize*/*"), *(place / ".snapshots").glob("*/*"), *(where.state / "transit").glob("*")]


def resize(side: Machines, instance: Instance, flavor: Flavor) -> Instance:
    info = side.driver.migrate_disk_and_power_off(None, instance, "localhost", flavor, [])
    assert side.state_of(instance) == PowerState.SHUTDOWN
    new = replace(instance, flavor=flavor)
    side.driver.finish_migration(None, None, new, info, [], side.driver.remembered_image(new), True)
    return new


@pytest.mark.parametrize("backend", ["qcow2", "raw"])
def test_resize_in_place_revert_and_confirm(sides: tuple[Machines, Machines], image: Image, backend: str) -> None:
    here = sides[0]
    instance = booted(here, image, backend=backend)
    try:
        with pytest.raises(DiskTooSmall):
            here.driver.migrate_disk_and_power_off(None, instance, "localhost", replace(LARGE, root=32 * MiB), [])
        assert here.state_of(instance) == PowerState.RUNNING  # refused before anything

        larger = resize(here, instance, LARGE)
        said = boots(here, larger, 2, log=2)
        assert f"disk vda {80 * MiB}" in said and "cpus 2" in said
        with pytest.raises(InvalidState, match="neither confirmed nor reverted"):
            here.driver.migrate_disk_and_power_off(None, larger, "localhost", LARGE, [])
        here.driver.finish_revert_migration(None, instance, [])
        said = boots(here, instance, 2, log=3)  # the second boot never was
        assert f"disk vda {64 * MiB}" in said and "cpus 1" in said
        assert not kept(here, instance)

        larger = resize(here, instance, LARGE)
        boots(here, larger, 3, log=4)
        here.driver.confirm_migration(None, larger, [])
        here.driver.confirm_migration(None, larger, [])
        assert not kept(here, larger)
        assert here.state_of(larger) == PowerState.RUNNING
        here.driver.reboot(None, larger, [], "HARD")
        assert f"disk vda {80 * MiB}" in boots(here, larger, 4, log=5)
    finally:
        here.driver.destroy(None, instance, [])
    here.assert_nothing_left(instance)


@pytest.mark.parametrize(("backend", "encrypt"), [("qcow2", False), ("raw", True)])
def test_cold_move_revert_and_confirm(
    sides: tuple[Machines, Machines], hosts: Any, image: Image, backend: str, encrypt: bool
) -> None:
    """The other host has neither the image nor its base: what is needed comes over the command, keys as well."""
    source, target = sides
    instance = booted(source, image, backend=backend, encrypt=encrypt)
    try:
        for last in (False, True):
            info = source.driver.migrate_disk_and_power_off(None, instance, hosts[1].address, LARGE, [])
            assert source.state_of(instance) == PowerState.SHUTDOWN
            with pytest.raises(InvalidState, match="moved to"):
                source.driver.power_on(None, instance, [])
            moved = replace(instance, flavor=LARGE)
            target.driver.finish_migration(
                None, None, moved, info, [], target.driver.remembered_image(moved), True, power_on=True
            )
            said = boots(target, moved, 2)
            assert f"disk vda {80 * MiB}" in said and "cowshed-guest: kept" in said and "seed" in said
            assert target.driver.show_disk(moved).base.startswith(str(target.state)) == (backend == "qcow2")
            if last:
                break
            target.driver.destroy(None, moved, [])
            assert not list((target.state / "keys").glob("*"))
            source.driver.finish_revert_migration(None, instance, [], power_on=False)
            assert not kept(source, instance)
            assert source.driver.show_disk(instance).virtual_size == 64 * MiB
        source.driver.confirm_migration(None, instance, [])
        source.driver.confirm_migration(None, instance, [])
        source.assert_nothing_left(instance)
        assert not list((source.state / "keys").glob("*"))
        assert not list((source.state / "transit").glob("*")) + list((target.state / "transit").glob("*"))
        assert target.state_of(moved) == PowerState.RUNNING
    finally:
        target.driver.destroy(None, instance, [])
        source.driver.destroy(None, instance, [])


def test_what_cannot_be_moved_goes_on_running(
    sides: tuple[Machines, Machines], hosts: tuple[Host, Host], image: Image, guest_dir: Path
) -> None:
    source, target = sides
    instance = booted(source, image)

    def refused(kind: type[CowshedError], match: str) -> None:
        with pytest.raises(kind, match=match):
            source.driver.migrate_disk_and_power_off(None, instance, hosts[1].address, SMALL, [])
        assert source.state_of(instance) == PowerState.RUNNING
        assert not kept(source, instance)

    try:
        place = target.state / "instances" / instance.uuid
        place.mkdir(parents=True)
        refused(NameTaken, "instance directory")
        place.rmdir()
        refused_by = source.driver
        try:
            words = source.config.migration.command
            full = (words[0], f"COWSHED_HOST_RESERVED_DISK={1 << 60}", *words[1:])
            source.driver = source.reopened(migration=replace(source.config.migration, command=full))
            refused(HostUnsuitable, "no space left")
            source.driver = source.reopened(migration=replace(source.config.migration, command=("false",)))
            refused(CowshedError, "false")
            # It dies when all has been agreed: the instance is started again.
            killer = ("sh", "-c", "head -c 40 >/dev/null; exit 3", "x")
            source.driver = source.reopened(migration=replace(source.config.migration, command=killer))
            refused(CowshedError, "status")
        finally:
            source.driver = refused_by
        assert not list((target.state / "instances").glob("*"))
        _moved_while_libvirt_restarts(source, target, hosts, instance)
    finally:
        target.driver.destroy(None, instance, [])
        source.driver.destroy(None, instance, [])


def _moved_while_libvirt_restarts(
    source: Machines, target: Machines, hosts: tuple[Host, Host], instance: Instance
) -> None:
    """On both hosts, while the disks are on their way: nobody needs it then, and it is there again in the end."""
    restarted = []

    class Restarting(NoProgress):
        def phase(self, name: str, total: int | None = None) -> None:
            if name == "send" and not restarted:
                for host in hosts:
                    host.kill_libvirt()
                    host.start()
                    restarted.append(host.name)

    with source.driver.reporting(Restarting()):
        info = source.driver.migrate_disk_and_power_off(None, instance, hosts[1].address, SMALL, [])
    assert len(restarted) == 2
    image = target.driver.remembered_image(instance)
    target.driver.finish_migration(None, None, instance, info, [], image, False, power_on=False)
    source.driver.confirm_migration(None, instance, [])
    source.assert_nothing_left(instance)
    assert target.state_of(instance) == PowerState.SHUTDOWN
