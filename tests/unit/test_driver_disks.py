"""The verbs of an instance's disks on real files and a cluster in memory; the guest is pretended."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cowshed.contract.callbacks import NoProgress
from cowshed.contract.storage import Disk, Traits
from cowshed.disks import manifest
from cowshed.disks.file import FileDisk
from cowshed.driver import LibvirtDriver
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import layout, moving, named, opening, placing, replacing, shown, teardown
from cowshed.errors import (
    ConfigError,
    Conflict,
    CowshedError,
    DataCorrupt,
    DiskNotFound,
    DiskTooSmall,
    Interrupted,
    InvalidRequest,
    InvalidState,
    NameTaken,
    NoSpace,
    SnapshotNotFound,
    UnsupportedOperation,
)
from cowshed.model.disk import DiskFormat, Encryption, EncryptionFormat
from cowshed.model.flavor import Flavor
from cowshed.model.image import Image
from cowshed.model.instance import Instance, PowerState
from cowshed.testing import MemoryCluster
from cowshed.tools import filesystem
from cowshed.units import MiB
from tests.unit.test_driver_provision import house

SIZE = 8 * MiB
KINDS = ("qcow2", "raw", "ploop", "rbd")


class Guest:
    """What the driver asks of a guest; ``resized`` are libvirt's block resizes."""

    def __init__(self, state: PowerState = PowerState.SHUTDOWN, *, saved: bool = False) -> None:
        self.power, self.saved = state, saved
        self.resized: list[tuple[str, int]] = []
        self.grow: Callable[[str, int], None] = lambda target, size: None

    def state(self) -> PowerState:
        return self.power

    def has_saved(self) -> bool:
        return self.saved

    def call(self, action: str, function: Callable[[Any], Any]) -> Any:
        def block_resize(target: str, size: int, flags: int) -> None:
            assert flags == 1  # bytes, not KiB
            self.grow(target, size)
            self.resized.append((target, size))

        return function(SimpleNamespace(blockResize=block_resize))


class Host:
    """A driver with one instance whose disks are made as ``spawn`` makes them."""

    def __init__(self, state: Path) -> None:
        self.rooms = house(state)
        self.guest = Guest()
        self.rooms.__dict__["hypervisor"] = SimpleNamespace(find=lambda uuid: self.guest)
        self.driver = LibvirtDriver(rooms=self.rooms)
        self.content = os.urandom(2 * MiB) + bytes(SIZE - 2 * MiB)

    @property
    def cluster(self) -> MemoryCluster:
        found = self.rooms.backends["rbd"]
        assert isinstance(found, MemoryCluster)
        return found

    def web(self, backend: str = "qcow2", **fields: Any) -> Instance:
        who = Instance(uuid=str(uuid.uuid4()), name="web", flavor=Flavor(root=SIZE), backend=backend, **fields)
        plan = layout.plan(self.rooms, replace(who, config_drive=True), Image("image"), None)
        self.rooms.directory(who.uuid).create()
        layout.remember(self.rooms, who, plan)
        self.put(who, "disk", backend)
        self.rooms.backends["raw"].disk(who.uuid, "disk.config").create(MiB)
        return who

    def put(self, who: Instance, name: str, backend: str, content: bytes | None = None) -> None:
        path = self.rooms.state / f"new-{uuid.uuid4()}"
        path.write_bytes(self.content if content is None else content)
        disk = self.rooms.backends[backend].disk(who.uuid, name)
        disk.import_file(path)  # type: ignore[attr-defined]

    def with_data(self, who: Instance, backend: str) -> Instance:
        """It has a second disk, on ``backend``."""
        self.put(who, "disk.local", backend, os.urandom(MiB))
        places = placing.remembered(self.rooms, who)
        planned = [layout.Planned(SimpleNamespace(name=name), place) for name, place in places.items()]  # type: ignore[arg-type]
        planned.append(layout.Planned(SimpleNamespace(name="disk.local"), replace(places["disk"], target="vdx")))  # type: ignore[arg-type]
        layout.remember(self.rooms, who, layout.Plan(tuple(planned)))
        return who

    def disk(self, who: Instance, name: str = "disk") -> Disk:
        entry = manifest.require(self.rooms.directory(who.uuid).path, name)
        return self.rooms.backends[entry.backend].disk(who.uuid, name)

    def read(self, who: Instance, name: str = "disk") -> bytes:
        target = self.rooms.state / f"read-{uuid.uuid4()}"
        self.disk(who, name).extract(target, DiskFormat.RAW)
        try:
            return target.read_bytes()
        finally:
            target.unlink()

    def files(self, who: Instance) -> list[str]:
        return sorted(path.name for path in self.rooms.directory(who.uuid).path.iterdir() if path.name != ".snapshots")

    def backends(self, who: Instance) -> dict[str, str]:
        entries = manifest.load(self.rooms.directory(who.uuid).path).disks
        return {name: entry.backend for name, entry in entries.items()}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    (tmp_path / "state").mkdir()
    return Host(tmp_path / "state")


# --- which disk -----------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["", "disk", "root", "vda", "/dev/vda"])
def test_the_root_disk_has_many_names(host: Host, word: str) -> None:
    who = host.web()
    assert host.driver.show_disk(who, word).name == "disk"


def test_a_disk_that_is_not_there_is_answered_with_those_that_are(host: Host) -> None:
    who = host.web()
    with pytest.raises(DiskNotFound) as caught:
        host.driver.show_disk(who, "swap")
    assert "disk, disk.config" in str(caught.value.hint)


def test_disks_are_described(host: Host) -> None:
    who = host.with_data(host.web("rbd"), "raw")
    host.driver.take_disk_snapshot(who, "before", "root")
    root, config, data = host.driver.list_disks(who)
    assert (root.name, root.backend, root.format, root.virtual_size) == ("disk", "rbd", DiskFormat.RAW, SIZE)
    assert (root.target, root.bus, root.device, root.readonly) == ("vda", "virtio", "disk", False)
    assert [point.name for point in root.snapshots] == ["before"]
    assert (config.name, config.readonly) == ("disk.config", True)
    assert (data.name, data.backend) == ("disk.local", "raw")
    assert data.location == str(host.rooms.directory(who.uuid).path / "disk.local")


# --- resize ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", KINDS)
def test_a_stopped_instances_disk_grows(host: Host, backend: str) -> None:
    who = host.web(backend)
    assert host.driver.resize_disk(who, 2 * SIZE - 7) == 2 * SIZE
    assert host.driver.show_disk(who).virtual_size == 2 * SIZE
    assert host.read(who) == host.content + bytes(SIZE)
    assert host.guest.resized == []
    with pytest.raises(DiskTooSmall):
        host.driver.resize_disk(who, SIZE)
    assert host.driver.show_disk(who).virtual_size == 2 * SIZE


@pytest.mark.parametrize("backend", ["raw", "rbd"])
def test_storage_that_grows_online_is_grown_before_the_guest_is_told(host: Host, backend: str) -> None:
    who = host.web(backend)
    seen: list[int] = []
    host.guest.grow = lambda target, size: seen.append(host.disk(who).info().virtual_size)
    for state in (PowerState.RUNNING, PowerState.PAUSED):
        host.guest.power = state
        host.driver.resize_disk(who, 2 * SIZE)
    assert seen == [2 * SIZE, 2 * SIZE]
    assert host.guest.resized == [("vda", 2 * SIZE)] * 2


def test_a_qcow2_file_is_grown_by_the_qemu_that_has_it_open(host: Host) -> None:
    from cowshed.tools import qemu_img

    who = host.web("qcow2")
    path = host.rooms.directory(who.uuid).path / "disk"
    host.guest.power = PowerState.RUNNING
    host.guest.grow = lambda target, size: qemu_img.resize(path, DiskFormat.QCOW2, size)
    host.driver.resize_disk(who, 2 * SIZE)
    assert host.guest.resized == [("vda", 2 * SIZE)]
    assert host.driver.show_disk(who).virtual_size == 2 * SIZE
    assert host.read(who) == host.content + bytes(SIZE)


def test_a_disk_that_nobody_can_grow_online_is_left_alone(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    who = host.web("rbd")
    monkeypatch.setattr(type(host.cluster), "traits", Traits(name="rbd", grows_online=False))
    host.guest.power = PowerState.RUNNING
    with pytest.raises(UnsupportedOperation) as caught:
        host.driver.resize_disk(who, 2 * SIZE)
    assert "cowshed stop web" in str(caught.value.hint)
    assert (host.guest.resized, host.disk(who).info().virtual_size) == ([], SIZE)


def test_a_guest_that_refuses_leaves_a_qcow2_disk_as_it_was(host: Host) -> None:
    who = host.web("qcow2")
    host.guest.power = PowerState.RUNNING

    def refuse(target: str, size: int) -> None:
        raise CowshedError(reason="no")

    host.guest.grow = refuse
    with pytest.raises(CowshedError, match="no"):
        host.driver.resize_disk(who, 2 * SIZE)
    assert host.driver.show_disk(who).virtual_size == SIZE


# --- what a guest forbids -------------------------------------------------------------------------


@pytest.mark.parametrize("guest", [Guest(PowerState.RUNNING), Guest(PowerState.PAUSED), Guest(saved=True)])
@pytest.mark.parametrize(
    "act",
    [
        lambda driver, who, place: driver.move_disk(who, "raw"),
        lambda driver, who, place: driver.export_disk(who, place / "out"),
        lambda driver, who, place: driver.take_disk_snapshot(who, "a"),
        lambda driver, who, place: driver.roll_back_disks(who, "there"),
        lambda driver, who, place: driver.remove_disk_snapshot(who, "there"),
    ],
)
def test_what_needs_the_disks_alone_is_refused_while_a_guest_has_them(
    host: Host, tmp_path: Path, guest: Guest, act: Callable[[LibvirtDriver, Instance, Path], Any]
) -> None:
    who = host.web("rbd")
    host.driver.take_disk_snapshot(who, "there")
    host.guest = guest
    with pytest.raises(InvalidState, match="web"):
        act(host.driver, who, tmp_path)
    assert [point.name for _, point in host.driver.list_disk_snapshots(who)] == ["there"]
    assert host.backends(who)["disk"] == "rbd"


def test_a_suspended_guest_forbids_to_grow_its_disk(host: Host) -> None:
    who = host.web("raw")
    host.guest = Guest(saved=True)
    with pytest.raises(InvalidState, match="suspended"):
        host.driver.resize_disk(who, 2 * SIZE)


@pytest.mark.parametrize("act", ["resize", "move", "snapshot"])
def test_what_the_host_makes_for_each_start_is_left_alone(host: Host, act: str) -> None:
    who = host.web()
    with pytest.raises(InvalidRequest, match=r"disk\.config"):
        {
            "resize": lambda: host.driver.resize_disk(who, SIZE, "disk.config"),
            "move": lambda: host.driver.move_disk(who, "qcow2", "disk.config"),
            "snapshot": lambda: host.driver.take_disk_snapshot(who, "a", "disk.config"),
        }[act]()


# --- move -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", KINDS)
@pytest.mark.parametrize("backend", KINDS)
def test_a_disk_moves_with_its_content(host: Host, backend: str, to: str) -> None:
    who = host.web(backend)
    assert host.driver.move_disk(who, to) == (backend != to)
    assert host.read(who) == host.content
    assert host.backends(who) == {"disk": to, "disk.config": "raw"}
    assert host.driver.show_disk(who).virtual_size == SIZE
    attached = {disk.target: disk.source for disk in shown.attached(host.rooms, who)}
    assert attached["vda"].format == host.rooms.backends[to].traits.disk_format
    assert len(host.cluster.table) == (to == "rbd")
    disks = [name for name in host.files(who) if name.startswith((".", "disk"))]
    assert len(disks) == 1 + (to != "rbd")


def test_the_file_of_a_moved_disk_has_the_usual_name(host: Host) -> None:
    who = host.web("rbd")
    host.driver.move_disk(who, "raw")
    place = host.rooms.directory(who.uuid).path
    assert manifest.require(place, "disk").location == "disk"
    assert host.files(who) == ["disk", "disk.config", "layout.json", "manifest.json"]
    assert (place / "disk").stat().st_nlink == 1
    # Killed with both names, before or after the manifest was written.
    for location in ("disk.raw", "disk"):
        os.link(place / "disk", place / "disk.raw")
        with manifest.editing(place) as disks:
            disks["disk"] = replace(disks["disk"], location=location)
        moving.settle(host.rooms, who)
        assert host.files(who) == ["disk", "disk.config", "layout.json", "manifest.json"]
        assert host.read(who) == host.content
    # What a rebuild has put in its place.
    (place / "disk").rename(place / "disk.new-0a1b2c3d")
    with manifest.editing(place) as disks:
        disks["disk"] = replace(disks["disk"], location="disk.new-0a1b2c3d")
    moving.settle(host.rooms, who)
    assert host.files(who) == ["disk", "disk.config", "layout.json", "manifest.json"]
    # Somebody's file of the usual name is left alone.
    (place / "disk").rename(place / "disk.raw")
    (place / "disk").write_bytes(b"else")
    with manifest.editing(place) as disks:
        disks["disk"] = replace(disks["disk"], location="disk.raw")
    moving.settle(host.rooms, who)
    assert (place / "disk").read_bytes() == b"else"
    assert host.read(who) == host.content


def test_the_old_disk_of_a_second_rebuild_goes_whole(host: Host) -> None:
    """The first rebuild has left the disk under a second name, which the old disk had beside its own ever after."""
    who = host.web("raw")
    place = host.rooms.directory(who.uuid).path
    content = (place / "disk").read_bytes()
    (place / "disk").rename(place / "disk.new-0a1b2c3d")
    (place / "disk.new-11112222").write_bytes(content)
    with manifest.editing(place) as disks:
        old = replace(disks["disk"], name="disk.new-11112222", location="disk.new-0a1b2c3d")
        disks["disk"] = replace(disks["disk"], location="disk.new-11112222")
        disks[old.name] = old
    moving.settle(host.rooms, who)  # as the guest starts
    replacing.leftovers(host.rooms, who.uuid)
    assert host.files(who) == ["disk", "disk.config", "layout.json", "manifest.json"]
    assert host.read(who) == host.content


def test_a_disk_moves_all_the_way_round_and_is_deleted_wherever_it_is(host: Host) -> None:
    who = host.web("qcow2")
    for to in ("raw", "qcow2", "ploop", "rbd", "raw", "ploop", "qcow2", "rbd", "qcow2", "raw"):
        host.driver.move_disk(who, to)
        assert host.read(who) == host.content
        host.driver.resize_disk(who, host.driver.show_disk(who).virtual_size + MiB)
        host.content += bytes(MiB)
    teardown.delete_disks(host.rooms, who)
    assert host.cluster.table == {}
    assert host.files(who) == ["layout.json", "manifest.json"]


def test_a_moved_disk_stands_on_no_base(host: Host) -> None:
    base = host.driver.cache.make("base", lambda target: target.write_bytes(host.content))
    who = host.web("raw")
    host.put(who, "disk.local", "raw")
    disk = host.rooms.backends["qcow2"].disk(who.uuid, "disk.eph0")
    disk.create(2 * SIZE, base)
    host.driver.move_disk(who, "rbd", "disk.eph0")
    shutil.rmtree(host.driver.cache.root)
    assert host.read(who, "disk.eph0") == host.content + bytes(SIZE)


def test_where_the_disk_would_go_is_checked_first(host: Host) -> None:
    who = host.web()
    before = host.files(who)
    for to, kind in (("lvm", ConfigError), ("tape", InvalidRequest)):
        with pytest.raises(kind):
            host.driver.move_disk(who, to)
    assert host.files(who) == before


def test_a_place_that_is_too_small_is_told_before_anything_is_copied(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    who = host.web("raw")
    small = MemoryCluster("rbd", instances=host.rooms.instances, size=MiB)
    host.rooms.__dict__["backends"] = {**host.rooms.backends, "rbd": small}
    monkeypatch.setattr(FileDisk, "extract", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(NoSpace, match="rbd"):
        host.driver.move_disk(who, "rbd")


def test_snapshots_do_not_move_and_are_not_lost(host: Host) -> None:
    who = host.web("rbd")
    host.driver.take_disk_snapshot(who, "before", "root")
    with pytest.raises(Conflict, match="before"):
        host.driver.move_disk(who, "raw")
    assert host.backends(who)["disk"] == "rbd"


def test_an_encrypted_disk_is_not_written_out_in_plain_text(host: Host) -> None:
    who = host.web("rbd")
    with manifest.editing(host.rooms.directory(who.uuid).path) as disks:
        disks["disk"] = replace(disks["disk"], encryption=Encryption(EncryptionFormat.LUKS, str(uuid.uuid4())))
    with pytest.raises(UnsupportedOperation, match="encrypted"):
        host.driver.move_disk(who, "raw")
    assert [name for name in host.files(who) if name.startswith(".")] == []


def test_a_copy_that_reads_back_differently_is_no_copy(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    who = host.web("qcow2")
    real = type(host.cluster.disk(who.uuid, "x")).import_file

    def bad(self: Any, path: Path, **more: Any) -> None:
        real(self, path, **more)
        self.write(MiB, b"flipped")

    monkeypatch.setattr(type(host.cluster.disk(who.uuid, "x")), "import_file", bad)
    with pytest.raises(DataCorrupt, match="reads back"):
        host.driver.move_disk(who, "rbd")
    whole_and_alone(host, who, "qcow2")


def whole_and_alone(host: Host, who: Instance, backend: str) -> None:
    assert host.backends(who) == {"disk": backend, "disk.config": "raw"}
    assert host.read(who) == host.content
    assert len(host.cluster.table) == (backend == "rbd")
    assert [name for name in host.files(who) if name.startswith(".")] == []


@contextmanager
def failing(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: BaseException, *, after: bool
) -> Iterator[None]:
    """``owner.name`` fails once, before or after it has done its work."""
    real, left = getattr(owner, name), [error]

    def call(*args: Any, **more: Any) -> Any:
        if left and not after:
            raise left.pop()
        found = real(*args, **more)
        if left:
            raise left.pop()
        return found

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, call)
        yield


STEPS = [
    (FileDisk, "extract"),
    (moving, "_digest"),
    (FileDisk, "import_file"),
    (MemoryCluster, "disk"),
    (moving, "_compare"),
    (moving, "_exchange"),
    (moving, "_remove_left"),
    (filesystem, "remove_file"),
    (manifest, "_save"),
]


@pytest.mark.parametrize(
    ("after", "error"), [(False, NoSpace(place="/", needed=1, free=0)), (True, KeyboardInterrupt())]
)
@pytest.mark.parametrize(("owner", "name"), STEPS)
@pytest.mark.parametrize(("backend", "to"), [("qcow2", "raw"), ("raw", "rbd"), ("rbd", "qcow2")])
def test_a_move_that_breaks_at_any_step_leaves_one_disk_whole(
    host: Host,
    monkeypatch: pytest.MonkeyPatch,
    backend: str,
    to: str,
    owner: Any,
    name: str,
    error: BaseException,
    after: bool,
) -> None:
    who = host.web(backend)
    with failing(monkeypatch, owner, name, error, after=after):
        try:
            host.driver.move_disk(who, to)
        except (NoSpace, KeyboardInterrupt):
            pass
    there = host.backends(who)["disk"]
    assert there in (backend, to)
    assert host.read(who) == host.content
    moving.settle(host.rooms, who)
    whole_and_alone(host, who, there)
    host.driver.move_disk(who, to)
    whole_and_alone(host, who, to)


class Stop(NoProgress):
    """^C at the ``number``th look."""

    def __init__(self, number: int) -> None:
        self.left = number

    def check(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Interrupted(what="moving")


@pytest.mark.parametrize(("backend", "to"), [("qcow2", "raw"), ("raw", "rbd"), ("rbd", "qcow2")])
def test_an_interruption_in_the_middle_of_a_move_leaves_nothing(host: Host, backend: str, to: str) -> None:
    who, number = host.web(backend), 0
    while True:
        number += 1
        host.rooms.progress = Stop(number)
        try:
            host.driver.move_disk(who, to)
        except Interrupted:
            host.rooms.progress = NoProgress()
            whole_and_alone(host, who, backend)
            continue
        break
    assert number > 2
    whole_and_alone(host, who, to)


def test_what_a_killed_move_left_is_no_disk_of_the_instance(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    who = host.web("raw")
    with monkeypatch.context() as patch:
        patch.setattr(moving, "_remove_left", lambda *_: None)  # as if it had been killed after the exchange
        host.driver.move_disk(who, "rbd")
    assert set(host.backends(who)) == {"disk", "disk.config", "disk.was-raw"}
    assert [disk.name for disk in host.driver.list_disks(who)] == ["disk.config", "disk"] or [
        disk.name for disk in host.driver.list_disks(who)
    ] == ["disk", "disk.config"]
    with pytest.raises(DiskNotFound):
        named.one(host.rooms, who, "disk.was-raw")
    teardown.delete_disks(host.rooms, who)
    assert host.files(who) == ["layout.json", "manifest.json"]


# --- snapshots ------------------------------------------------------------------------------------


def test_all_disks_of_an_instance_are_taken_rolled_back_and_forgotten_together(host: Host) -> None:
    who = host.with_data(host.web("qcow2"), "rbd")
    before = host.read(who), host.read(who, "disk.local")
    assert list(host.driver.take_disk_snapshot(who, "before")) == ["disk", "disk.local"]
    for name in ("disk", "disk.local"):
        host.driver.resize_disk(who, 2 * SIZE, name)
    host.cluster.disk(who.uuid, "disk.local").write(100, b"written since")
    assert list(host.driver.roll_back_disks(who, "before")) == ["disk", "disk.local"]
    assert (host.read(who), host.read(who, "disk.local")) == before
    assert list(host.driver.remove_disk_snapshot(who, "before")) == ["disk", "disk.local"]
    assert list(host.driver.list_disk_snapshots(who)) == []


def test_a_snapshot_of_all_is_of_all_or_of_none(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    who = host.with_data(host.web("rbd"), "qcow2")
    host.driver.take_disk_snapshot(who, "taken", "disk.local")
    with pytest.raises(NameTaken):
        host.driver.take_disk_snapshot(who, "taken")
    assert [(disk, point.name) for disk, point in host.driver.list_disk_snapshots(who)] == [("disk.local", "taken")]


def test_a_roll_back_is_refused_before_it_begins_where_a_disk_lacks_the_snapshot(host: Host) -> None:
    who = host.with_data(host.web("rbd"), "qcow2")
    host.driver.take_disk_snapshot(who, "root-only", "root")
    host.cluster.disk(who.uuid, "disk").write(0, b"written since")
    with pytest.raises(SnapshotNotFound, match=r"disk\.local"):
        host.driver.roll_back_disks(who, "root-only")
    assert host.read(who)[:13] == b"written since"
    host.driver.roll_back_disks(who, "root-only", "root")
    assert host.read(who) == host.content
    with pytest.raises(SnapshotNotFound):
        host.driver.remove_disk_snapshot(who, "nobody-has-it")


# --- export ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", KINDS)
def test_a_disk_is_exported(host: Host, tmp_path: Path, backend: str) -> None:
    who = host.web(backend)
    host.driver.export_disk(who, tmp_path / "out.raw", format=DiskFormat.RAW)
    assert (tmp_path / "out.raw").read_bytes() == host.content
    host.driver.export_disk(who, tmp_path / "out.qcow2", compress=True)
    with pytest.raises(NameTaken):
        host.driver.export_disk(who, tmp_path / "out.qcow2")
    assert sorted(path.name for path in tmp_path.glob("*out*")) == ["out.qcow2", "out.raw"]


# --- before and after a guest ---------------------------------------------------------------------


def test_disks_are_made_ready_for_a_guest_and_let_go(host: Host) -> None:
    who = host.web("rbd")
    assert [disk.target for disk in opening.ready(host.rooms, who)] == ["vda", "vdb"]
    assert len(host.cluster.active) == 1
    opening.let_go(host.rooms, who)
    opening.let_go(host.rooms, who)
    assert host.cluster.active == set()


def test_letting_go_never_fails(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    who = host.web("rbd")
    host.rooms.__dict__["backends"] = {}
    opening.let_go(host.rooms, who)
    assert f"the disks of instance {who.name} are not let go" in caplog.text


def test_secrets_go_to_libvirt_before_a_guest_starts(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    who, defined = host.web("rbd"), []
    secrets = SimpleNamespace(define=lambda *words, **more: defined.append((words[0], str(words[1]), words[3], more)))
    host.rooms.__dict__["hypervisor"] = SimpleNamespace(find=lambda uuid: None, secrets=secrets)
    disk, ours = type(host.cluster.disk(who.uuid, "x")), str(uuid.uuid4())
    real = disk.source
    monkeypatch.setattr(disk, "source", lambda self: replace(real(self), secret_uuid=ours))
    monkeypatch.setattr(host.cluster, "secret", lambda wanted: ("a pool", b"key") if wanted == ours else None)
    opening.ready(host.rooms, who)
    assert [(one[:3], one[3]["ephemeral"], one[3]["private"]) for one in defined] == [
        ((ours, "ceph", b"key"), True, True)
    ]
    assert isinstance(host.rooms, Rooms)
