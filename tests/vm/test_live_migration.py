"""Live migration between two real libvirt hosts on this machine, in namespaces."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cowshed.config import ConsoleSection, GuestSection, MigrationSection
from cowshed.contract.callbacks import NoProgress
from cowshed.errors import CowshedError, HostUnsuitable, Interrupted, InvalidRequest, InvalidState, NameTaken
from cowshed.hypervisor import migrate
from cowshed.model.image import Image
from cowshed.model.instance import Instance, PowerState
from cowshed.model.vif import Vif
from cowshed.units import MiB
from tests.vm.machines import MAC, Machines, forwarded
from tests.vm.two_hosts import Host

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("migration")]


# Counts aloud, and on its disk.
TICKER = """#!/bin/sh
(i=0; while :; do i=$((i+1)); echo "tick $i" >/dev/console; echo $i >/data/ticks; sync; usleep 300000; done) &
"""


class Side(Machines):
    """A driver on one of the two hosts."""

    host: Host

    @property
    def uuids(self) -> list[str]:
        return self.driver.list_instance_uuids()

    def directory(self, instance: Instance) -> Path:
        return self.state / "instances" / instance.uuid


def side(host: Host, guest_dir: Path, state: str = "state", **migration: Any) -> Side:
    place = host.place / state
    place.mkdir(exist_ok=True)
    settings = {"uri": "qemu+tcp://%s/system", "unsafe": True, "stall": 60.0} | migration
    made = Side(
        host.uri,
        guest_dir,
        place,
        guest=GuestSection(config_drive=True, cpu_mode="qemu64"),
        migration=MigrationSection(address=host.address, **settings),
        console=ConsoleSection(vnc=True),
    )
    made.host = host
    return made


@pytest.fixture(scope="module")
def apart(hosts: tuple[Host, Host], guest_dir: Path) -> Iterator[tuple[Side, Side]]:
    """Two hosts with an image service in common, and nothing else."""
    with ExitStack() as stack:
        yield _pair(stack, hosts, guest_dir, "state", ("images",))


def _pair(
    stack: ExitStack, hosts: tuple[Host, Host], guest_dir: Path, state: str, common: tuple[str, ...], **migration: Any
) -> tuple[Side, Side]:
    for name in common:
        for number, host in enumerate(hosts):
            place = host.place / state
            place.mkdir(exist_ok=True)
            if number == 0:
                (place / name).mkdir(exist_ok=True)
            elif not (place / name).exists():
                (place / name).symlink_to(hosts[0].place / state / name)
    one, other = (side(host, guest_dir, state, **migration) for host in hosts)
    stack.callback(other.driver.cleanup_host, "there")
    stack.callback(one.driver.cleanup_host, "here")
    return one, other


@pytest.fixture(scope="module")
def image(apart: tuple[Side, Side]) -> Image:
    return apart[0].image()


class Calls:
    """The two call-backs of a migration, of which exactly one is called."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.data: dict[str, Any] = {}

    def post(self, context: Any, instance: Instance, dest: str, block: bool, data: dict[str, Any]) -> None:
        self.made.append("post")
        self.data = data

    def recover(
        self, context: Any, instance: Instance, dest: str, data: dict[str, Any], migration_status: str = "error"
    ) -> None:
        self.made.append(migration_status)
        self.data = data


def checks(source: Side, target: Side, instance: Instance, block: bool | None = None, **options: Any) -> dict[str, Any]:
    """What a manager does before; the migrate data goes through JSON as between two hosts."""
    found = target.driver.check_can_live_migrate_destination(None, instance, {}, {}, block, **options)
    try:
        return source.driver.check_can_live_migrate_source(None, instance, json.loads(json.dumps(found)))
    finally:
        target.driver.check_can_live_migrate_destination_cleanup(None, found)
        assert not list((target.state / "instances").glob(".shared-*"))


def prepared(source: Side, target: Side, instance: Instance, vifs: list[Vif] | None = None) -> dict[str, Any]:
    data = json.loads(json.dumps(checks(source, target, instance)))
    return json.loads(json.dumps(target.driver.pre_live_migration(None, instance, None, vifs or [], None, data)))


def go(
    source: Side, target: Side, instance: Instance, data: dict[str, Any], meanwhile: threading.Thread | None = None
) -> Calls:
    """The move; whatever it comes to, the other side's part of the end too."""
    calls = Calls()
    source.driver.live_migration(None, instance, target.host.address, calls.post, calls.recover, True, data)
    if meanwhile:
        meanwhile.join()
    if calls.made == ["post"]:
        source.driver.post_live_migration(None, instance, None, calls.data)
        source.driver.post_live_migration_at_source(None, instance, [])
        source.driver.cleanup(None, instance, [], migrate_data=calls.data)
        target.driver.post_live_migration_at_destination(None, instance, [], True)
    else:
        target.driver.rollback_live_migration_at_destination(None, instance, [], None, migrate_data=data)
        target.driver.rollback_live_migration_at_destination(None, instance, [], None, migrate_data=data)
    return calls


def one_guest(instance: Instance, *sides: Side) -> list[Side]:
    """The sides it runs on."""
    return [one for one in sides if instance.uuid in one.uuids and one.state_of(instance) == PowerState.RUNNING]


def booted(source: Side, image: Image, **fields: Any) -> Instance:
    instance = source.spawn(image, user_data=fields.pop("user_data", TICKER), **fields)
    source.wait(instance, "tick 1")
    return instance


def goes_on(where: Side, instance: Instance) -> None:
    """The guest itself says something new."""
    seen = len(where.log(instance))
    deadline = time.monotonic() + 60
    while "tick" not in where.log(instance)[seen:]:
        assert time.monotonic() < deadline, where.log(instance)[-500:]
        time.sleep(0.1)


def nothing_at(side: Side, instance: Instance) -> None:
    assert instance.uuid not in side.uuids
    assert not list((side.state / "instances").glob(f"{instance.uuid}*"))
    assert not list((side.state / "transit").glob("*"))


@pytest.mark.parametrize("backend", ["qcow2", "raw"])
def test_disks_are_copied_and_the_guest_goes_on(apart: tuple[Side, Side], image: Image, backend: str) -> None:
    source, target = apart
    # Two kinds of user networks: libvirt's own, and one that is given to QEMU directly for its forwards.
    vifs = forwarded(2222) if backend == "raw" else [Vif("user", MAC)]
    instance = booted(source, image, vifs=vifs, backend=backend)
    try:
        data = prepared(source, target, instance, vifs)
        assert data["block_migration"] and list(data["copied"].values()) == ["vda"]
        assert data["shallow"] == (backend == "qcow2")  # the base is fetched there, only the overlay is sent
        begun = time.monotonic()
        calls = go(source, target, instance, data)
        assert calls.made == ["post"], calls.data.get("error")
        print(f"{backend}: {time.monotonic() - begun:.1f} s, {calls.data['statistics']}")
        assert one_guest(instance, source, target) == [target]
        goes_on(target, instance)
        nothing_at(source, instance)
        assert not list((target.state / "transit").glob("*"))
        # It is that host's as if it had begun there: its definition, its paths, its config drive.
        assert str(source.state) not in target.driver.rooms.hypervisor.guest(instance.uuid).xml()
        assert (target.directory(instance) / "disk.config").stat().st_size > 0
        if backend == "raw":  # all of it was copied
            target.driver.power_off(instance)
            target.driver.power_on(None, instance, vifs)
            target.wait(instance, "cowshed-guest: boot 2")
    finally:
        target.driver.destroy(None, instance, [])
        source.driver.destroy(None, instance, [])


@pytest.fixture(scope="module")
def together(hosts: tuple[Host, Host], guest_dir: Path) -> Iterator[tuple[Side, Side]]:
    """Two hosts with the instances' directories and the cache in common."""
    with ExitStack() as stack:
        common = ("images", "instances", "cache")
        yield _pair(stack, hosts, guest_dir, "shared", common, parallel=2, auto_converge=True)


def test_a_common_directory_is_left_as_it_is(together: tuple[Side, Side], hosts: tuple[Host, Host]) -> None:
    """With a volume that both hosts see, over several connections."""
    source, target = together
    instance = booted(source, source.image())
    volume = hosts[0].place / "volume.raw"
    volume.write_bytes(bytes(4 * MiB))
    info = {"driver_volume_type": "file", "serial": "data-volume", "data": {"path": str(volume), "format": "raw"}}
    source.driver.attach_volume(None, info, instance, "/dev/vdz")
    source.wait(instance, "disk vd. 4194304 rw serial data-volume")
    try:
        with pytest.raises(InvalidRequest, match="nothing to copy"):
            checks(source, target, instance, block=True)
        data = prepared(source, target, instance)
        assert not data["block_migration"] and not data["copied"]
        target.driver.rollback_live_migration_at_destination(None, instance, [], None, migrate_data=data)
        assert source.directory(instance).exists()  # what both see is not removed with what was prepared

        data = prepared(source, target, instance)
        calls = go(source, target, instance, data)
        assert calls.made == ["post"], calls.data.get("error")
        assert one_guest(instance, source, target) == [target]
        assert (target.directory(instance) / "disk").exists()
        goes_on(target, instance)
        assert [one.id for one in target.driver.volumes(instance)] == ["data-volume"]
        target.driver.detach_volume(info, instance, "/dev/vdz")
        target.wait(instance, "disk vd. gone")
    finally:
        target.driver.destroy(None, instance, [])
        source.driver.destroy(None, instance, [])


@pytest.fixture(scope="module")
def guest(apart: tuple[Side, Side], image: Image) -> Iterator[Instance]:
    """One guest for all that fails: each time it must be running at the source afterwards."""
    source, target = apart
    instance = booted(source, image, backend="raw")
    yield instance
    target.driver.destroy(None, instance, [])
    source.driver.destroy(None, instance, [])


def at_source(source: Side, target: Side, instance: Instance) -> None:
    """As before, and the other host is as if nothing had been."""
    assert one_guest(instance, source, target) == [source]
    goes_on(source, instance)
    nothing_at(target, instance)
    assert not list((source.state / "transit").glob("*"))


def slowly(source: Side, uuid: str, then: Callable[[], object]) -> threading.Thread:
    """``then``, on a thread of its own, as soon as the migration is under way."""

    def work() -> None:
        guest = source.driver.rooms.hypervisor.guest(uuid)
        deadline = time.monotonic() + 60
        while (now := migrate.running(guest)) is None or not now.total:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        then()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def capped(hosts: tuple[Host, Host], guest_dir: Path, **migration: Any) -> Side:
    """A driver on the first host that sends slowly, so that there is time for things to happen."""
    return side(hosts[0], guest_dir, bandwidth=2 * MiB, **migration)


def test_abort_leaves_it_where_it_is(
    hosts: tuple[Host, Host], apart: tuple[Side, Side], guest: Instance, guest_dir: Path
) -> None:
    source, target = capped(hosts, guest_dir), apart[1]
    with pytest.raises(InvalidState):
        source.driver.live_migration_abort(guest)
    with pytest.raises(InvalidState):
        source.driver.live_migration_force_complete(guest)
    data = prepared(source, target, guest)
    thread = slowly(source, guest.uuid, lambda: source.driver.live_migration_abort(guest))
    calls = go(source, target, guest, data, thread)
    assert len(calls.made) == 1 and calls.made != ["post"]
    at_source(source, target, guest)


def test_while_it_is_on_its_way_nobody_starts_it_and_who_stops_waiting_keeps_it(
    hosts: tuple[Host, Host], apart: tuple[Side, Side], guest: Instance, guest_dir: Path
) -> None:
    source, target, said = capped(hosts, guest_dir), apart[1], []

    class Stopping(NoProgress):
        bytes = 0

        def phase(self, name: str, total: int | None = None) -> None:
            said.append(name)

        def update(self, done: int) -> None:
            self.bytes += done

        def check(self) -> None:
            if self.bytes > 2 * MiB:
                try:
                    source.driver.reboot(None, guest, [], "HARD")
                except InvalidState as error:
                    said.append(str(error))
                raise Interrupted(what="migrating")

    data = prepared(source, target, guest)
    with source.driver.reporting(Stopping()):
        calls = go(source, target, guest, data)
    assert calls.made == ["cancelled"]
    assert said[0] == "migrate" and "on its way to" in said[1]
    at_source(source, target, guest)


def test_what_the_destination_refuses(
    hosts: tuple[Host, Host], apart: tuple[Side, Side], guest: Instance, guest_dir: Path
) -> None:
    source, target = apart
    with pytest.raises(InvalidRequest, match="do not see"):
        checks(source, target, guest, block=False)
    with pytest.raises(HostUnsuitable, match="older"):
        target.driver.check_can_live_migrate_destination(None, guest, {"hypervisor_version": 999_000_000}, {}, None)

    full = side(hosts[1], guest_dir)
    full.driver.rooms.config = replace(full.config, host=replace(full.config.host, reserved_disk=1 << 60))
    with pytest.raises(HostUnsuitable, match="are free"):
        checks(source, full, guest)

    stranger = target.spawn(target.image(), name=guest.name)
    try:
        with pytest.raises(NameTaken, match=guest.name):
            checks(source, target, guest)
    finally:
        target.driver.destroy(None, stranger, [])

    data = json.loads(json.dumps(checks(source, target, guest)))
    with pytest.raises(HostUnsuitable, match="processor"):
        target.driver.pre_live_migration(
            None, guest, None, [], None, {**data, "cpu": "<cpu match='exact'><model>EPYC-Rome</model></cpu>"}
        )
    with pytest.raises(HostUnsuitable, match="machine"):
        target.driver.pre_live_migration(None, guest, None, [], None, {**data, "machine": "pc-q35-99.0"})
    nothing_at(target, guest)

    target.directory(guest).mkdir()
    with pytest.raises(NameTaken, match="instance directory"):
        target.driver.pre_live_migration(None, guest, None, [], None, data)
    assert target.directory(guest).exists()  # nobody's directory is removed on the way out
    target.directory(guest).rmdir()

    with pytest.raises(InvalidRequest, match="host name"):
        source.driver.live_migration(None, guest, "-x/..", Calls().post, Calls().recover, True, data)
    with pytest.raises(InvalidRequest, match="migrate data"):
        source.driver.live_migration(None, guest, "cow-b", Calls().post, Calls().recover, True, None)
    at_source(source, target, guest)


def test_a_step_that_fails_takes_the_others_back(apart: tuple[Side, Side], guest: Instance) -> None:
    source, target = apart
    data = json.loads(json.dumps(checks(source, target, guest)))
    volume = {
        "id": "v1", "connection_info": {"driver_volume_type": "local", "serial": "v1", "data": {"device_path": "/nowhere"}},
        "target": "vdz", "bus": "virtio", "device": "disk", "state": "attached", "encryption": None,
    }  # fmt: skip
    with pytest.raises(CowshedError):
        target.driver.pre_live_migration(None, guest, None, [], None, {**data, "volumes": [volume]})
    at_source(source, target, guest)


@pytest.mark.parametrize("killed", ["target QEMU", "target libvirt", "source libvirt", "source QEMU"])
def test_a_killed_side_leaves_one_guest(
    hosts: tuple[Host, Host], apart: tuple[Side, Side], guest: Instance, guest_dir: Path, killed: str
) -> None:
    source, target = capped(hosts, guest_dir), apart[1]
    data = prepared(source, target, guest)
    where, what = killed.split()
    host = hosts[0] if where == "source" else hosts[1]

    def kill() -> None:
        if what == "QEMU":
            host.kill("qemu-system", guest.uuid)
        else:
            host.kill_libvirt()
            host.start()

    thread = slowly(source, guest.uuid, kill)
    calls = go(source, target, guest, data, thread)
    assert len(calls.made) == 1 and calls.made != ["post"], calls.data
    if killed == "source QEMU":
        assert one_guest(guest, source, target) == []
        source.driver.power_on(None, guest, [])
        source.wait(guest, "cowshed-guest: boot 2")
    at_source(source, target, guest)


def test_a_killed_driver_on_both_sides(
    hosts: tuple[Host, Host], apart: tuple[Side, Side], guest: Instance, guest_dir: Path
) -> None:
    """The one that sends dies in the middle, and the one that takes in after it."""
    source, target = capped(hosts, guest_dir), apart[1]
    data = prepared(source, target, guest)
    child = os.fork()
    if child == 0:
        try:
            own = capped(hosts, guest_dir)
            own.driver.live_migration(None, guest, hosts[1].address, Calls().post, Calls().recover, True, data)
        finally:
            os._exit(0)
    slowly(source, guest.uuid, lambda: os.kill(child, signal.SIGKILL)).join()
    os.waitpid(child, 0)
    assert list((source.state / "transit").glob("*.out.json"))

    side(hosts[0], guest_dir).driver.cleanup_host("here")  # init_host
    assert one_guest(guest, source, target) == [source]
    target.driver.rooms.arrivals.pop(guest.uuid).close()  # its process is gone as well
    side(hosts[1], guest_dir).driver.cleanup_host("there")
    at_source(source, target, guest)


@pytest.mark.parametrize("post_copy", [False, True])
def test_force_complete(
    hosts: tuple[Host, Host], apart: tuple[Side, Side], image: Image, guest_dir: Path, post_copy: bool
) -> None:
    source, target = capped(hosts, guest_dir, post_copy=post_copy), apart[1]
    instance = booted(source, image)
    try:
        data = prepared(source, target, instance)
        thread = slowly(source, instance.uuid, lambda: source.driver.live_migration_force_complete(instance))
        calls = go(source, target, instance, data, thread)
        assert calls.made == ["post"], calls.data.get("error")
        assert one_guest(instance, source, target) == [target]
        goes_on(target, instance)
        nothing_at(source, instance)
    finally:
        target.driver.destroy(None, instance, [])
        source.driver.destroy(None, instance, [])
