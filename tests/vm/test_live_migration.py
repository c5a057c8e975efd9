"""Live migration between two real libvirt hosts on this machine, in namespaces."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cowshed.contract.callbacks import NoProgress
from cowshed.disks import config_drive
from cowshed.driver.steps import locate, provision, tagged
from cowshed.errors import CowshedError, HostUnsuitable, Interrupted, InvalidRequest, InvalidState, NameTaken
from cowshed.hypervisor import migrate
from cowshed.model.image import Image
from cowshed.model.instance import Instance, PowerState
from cowshed.model.vif import Vif
from cowshed.units import MiB
from tests.vm.cable import cable
from tests.vm.machines import MAC, forwarded
from tests.vm.sides import (
    Calls,
    Side,
    at_source,
    booted,
    capped,
    checks,
    go,
    goes_on,
    in_thread,
    left,
    nothing_at,
    one_guest,
    pair,
    prepared,
    side,
    slowly,
    went_on,
)
from tests.vm.two_hosts import Host
from tests.volume_servers import until

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("migration")]


@pytest.fixture(scope="module")
def apart(hosts: tuple[Host, Host], guest_dir: Path) -> Iterator[tuple[Side, Side]]:
    """Two hosts with an image service in common, and nothing else."""
    with ExitStack() as stack:
        yield pair(stack, hosts, guest_dir, "state", ("images",))


@pytest.fixture(scope="module")
def image(apart: tuple[Side, Side]) -> Image:
    return apart[0].image()


@pytest.mark.parametrize("backend", ["qcow2", "raw"])
def test_disks_are_copied_and_the_guest_goes_on(apart: tuple[Side, Side], image: Image, backend: str) -> None:
    source, target = apart
    # Two kinds of user networks: libvirt's own, and one that is given to QEMU directly for its forwards.
    vifs = forwarded(2222) if backend == "raw" else [Vif("user", MAC, tag="front")]
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
        if backend == "qcow2":  # what its config drive says of devices went along, and is as true there after a restart
            told = devices(target, instance)
            assert [(one["mac"], one["tags"]) for one in told] == [(MAC, ["front"])]
            note = target.directory(instance) / "devices.json"
            assert json.loads(note.read_text()) == {"disk.config": told}
            target.driver.reboot(None, instance, vifs, "HARD")
            found = target.driver.rooms.hypervisor.guest(instance.uuid)
            assert devices(target, instance) == tagged.described(target.driver.rooms, instance, found)
        if backend == "raw":  # all of it was copied
            target.driver.power_off(instance)
            target.driver.power_on(None, instance, vifs)
            target.wait(instance, "cowshed-guest: boot 2")
    finally:
        target.driver.destroy(None, instance, [])
        source.driver.destroy(None, instance, [])


def devices(where: Side, instance: Instance) -> list[dict[str, Any]]:
    """What the guest's config drive says of them."""
    disk = locate.disk(where.driver.rooms, instance.uuid, "disk.config")
    files, _ = config_drive.read(provision.file_of(disk))
    return list(json.loads(files["meta-data"])["devices"])


@pytest.fixture(scope="module")
def together(hosts: tuple[Host, Host], guest_dir: Path) -> Iterator[tuple[Side, Side]]:
    """Two hosts with the instances' directories and the cache in common."""
    with ExitStack() as stack:
        common = ("images", "instances", "cache")
        yield pair(stack, hosts, guest_dir, "shared", common, parallel=2, auto_converge=True, translated="live")


def test_a_common_directory_is_left_as_it_is(
    together: tuple[Side, Side], hosts: tuple[Host, Host], guest_dir: Path
) -> None:
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
        _only_one_has_the_disk(target, source, hosts, guest_dir, instance)
    finally:
        target.driver.destroy(None, instance, [])
        source.driver.destroy(None, instance, [])


def _only_one_has_the_disk(
    source: Side, target: Side, hosts: tuple[Host, Host], guest_dir: Path, instance: Instance
) -> None:
    """The source does not hear that it runs there, and would go on: QEMU's lock of the file keeps it from that."""
    with cable(target.host) as line:
        cut = side(source.host, guest_dir, "shared", uri=line.uri)
        data = prepared(source, target, instance)

        def look() -> None:
            guest = source.driver.rooms.hypervisor.guest(instance.uuid)
            assert line.cut.wait(60)
            until(lambda: migrate.running(guest) is None, "the end of the migration")
            assert one_guest(instance, source, target) == [target]
            held.append(went_on(cut, instance))
            line.mend()

        held: list[bool] = []
        calls = go(cut, target, instance, data, in_thread(look))
        assert calls.made == ["post"], calls.data
        assert held == [False] and one_guest(instance, source, target) == [target]
        goes_on(target, instance)


@pytest.fixture(scope="module")
def guest(apart: tuple[Side, Side], image: Image) -> Iterator[Instance]:
    """One guest for all that fails: each time it must be running at the source afterwards."""
    source, target = apart
    instance = booted(source, image, backend="raw")
    yield instance
    target.driver.destroy(None, instance, [])
    source.driver.destroy(None, instance, [])


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
    vast = replace(guest, flavor=replace(guest.flavor, memory=1 << 50))
    with pytest.raises(HostUnsuitable, match="of memory are more than the"):
        target.driver.check_can_live_migrate_destination(None, vast, {}, {}, None)
    with pytest.raises(HostUnsuitable, match="older"):  # the source sees it, too, where nobody has told the other
        said = {"version": 1, "filename": f".shared-{'0' * 32}", "available": {}, "qemu": [2, 0, 0]}
        source.driver.check_can_live_migrate_source(None, guest, said)

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
    with pytest.raises(HostUnsuitable, match="aarch64"):
        target.driver.pre_live_migration(None, guest, None, [], None, {**data, "arch": "aarch64"})
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


def test_a_restarted_destination_lets_it_come(
    hosts: tuple[Host, Host], apart: tuple[Side, Side], image: Image, guest_dir: Path
) -> None:
    source, target = capped(hosts, guest_dir), apart[1]
    instance = booted(source, image)
    try:
        data = prepared(source, target, instance)

        def restart() -> None:
            target.driver.rooms.arrivals.pop(instance.uuid).close()  # its process is gone
            side(hosts[1], guest_dir).driver.cleanup_host("there")  # init_host
            source.driver.live_migration_force_complete(instance)

        calls = go(source, target, instance, data, slowly(source, instance.uuid, restart))
        assert calls.made == ["post"], calls.data.get("error")
        goes_on(target, instance)
        nothing_at(source, instance)
        assert not list((target.state / "transit").glob("*"))
    finally:
        target.driver.destroy(None, instance, [])
        source.driver.destroy(None, instance, [])


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


def test_the_answer_that_it_runs_there_is_lost(
    hosts: tuple[Host, Host], apart: tuple[Side, Side], guest: Instance, guest_dir: Path
) -> None:
    """The source's libvirt lets its guest go on then, although the other one may run: one is left, and it goes on."""
    source, target = apart
    address = hosts[0].address

    # Paused there for packet filters that nobody has put in force: it has gone on here, and that is the one.
    with cable(hosts[1]) as line:
        cut = side(hosts[0], guest_dir, uri=line.uri)
        data = prepared(source, target, guest)
        calls = go(cut, target, guest, {**data, "held": True}, in_thread(lambda: (line.cut.wait(60), line.mend())))
        assert line.cut.is_set() and calls.made == ["error"]
        assert "connection to qemu+tcp" in calls.data["error"]
        at_source(source, target, guest)

    # It runs there. Until that can be asked it stands still here.
    with cable(hosts[1]) as line:
        cut = side(hosts[0], guest_dir, uri=line.uri)
        data = prepared(source, target, guest)

        def look() -> None:
            assert line.cut.wait(60)
            until(lambda: went_on(cut, guest), "the end of the migration")  # paused before, by the migration
            until(lambda: source.state_of(guest) == PowerState.PAUSED, "the source held")
            seen.extend(one_guest(guest, source, target))
            with suppress(CowshedError):
                source.driver.unpause(guest)
                seen.append(source)  # it must not
            line.mend()

        seen: list[Side] = []
        calls = go(cut, target, guest, data, in_thread(look))
        assert calls.made == ["post"], calls.data
        assert seen == [target]
        at_source(target, source, guest)

    # And back, with a killed driver: until somebody looks both run.
    pids: list[int] = []
    with cable(hosts[0], then=lambda: os.kill(pids[0], signal.SIGKILL)) as line:
        data = prepared(target, source, guest)
        pids.append(os.fork())
        if pids[0] == 0:
            try:
                own = side(hosts[1], guest_dir, uri=line.uri)
                own.driver.live_migration(None, guest, address, Calls().post, Calls().recover, True, data)
            finally:
                os._exit(0)
        os.waitpid(pids[0], 0)
        assert line.cut.wait(20)
        until(lambda: len(one_guest(guest, source, target)) == 2, "both running")
        line.mend()
        cut = side(hosts[1], guest_dir, uri=line.uri)  # init_host
        assert one_guest(guest, source, target) == [source]
        assert cut.driver.left_for(guest) == address
        left(cut, source, guest, data)
        at_source(source, target, guest)
