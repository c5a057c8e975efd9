"""Disks from images: clone, kept base or cached base; per disk backends; what goes wrong on the way. No libvirt."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import threading
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cowshed.config import Config, DisksSection, GuestSection, HostSection, LvmSection
from cowshed.contract.callbacks import NoProgress
from cowshed.disks import manifest, open_backends
from cowshed.driver import LibvirtDriver
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import bases, layout, locate, provision, shown, sweep, teardown
from cowshed.errors import (
    ConfigError,
    DigestMismatch,
    DiskTooSmall,
    Interrupted,
    InvalidRequest,
    NameTaken,
    NoSpace,
    NotFound,
    ToolFailed,
)
from cowshed.images import pull
from cowshed.images.cache import name_of
from cowshed.model.disk import Base, DiskFormat
from cowshed.model.flavor import Flavor
from cowshed.model.image import Image, Location
from cowshed.model.instance import Instance
from cowshed.testing import MemoryCluster
from cowshed.tools import privilege, run
from cowshed.undo import Undo, is_complete
from cowshed.units import MiB

SIZE = 4 * MiB


def config(state: Path, **disks: Any) -> Config:
    return Config(
        host=HostSection(state=str(state)), guest=GuestSection(config_drive=False), disks=DisksSection(**disks)
    )


def house(state: Path, **disks: Any) -> Rooms:
    """The rooms of a host with a cluster in memory as its backend ``rbd``."""
    rooms = Rooms(config(state, **disks))
    cluster = MemoryCluster("rbd", instances=rooms.instances)
    rooms.__dict__["backends"] = {**rooms.backends, "rbd": cluster}
    return rooms


@pytest.fixture
def rooms(tmp_path: Path) -> Rooms:
    return house(tmp_path / "state")


@pytest.fixture
def cluster(rooms: Rooms) -> MemoryCluster:
    found = rooms.backends["rbd"]
    assert isinstance(found, MemoryCluster)
    return found


def content() -> bytes:
    return os.urandom(MiB) + bytes(SIZE - MiB)


@pytest.fixture
def debian(rooms: Rooms, tmp_path: Path) -> Image:
    path = tmp_path / "debian.raw"
    path.write_bytes(content())
    return pull.pull(rooms.images, str(path), name="debian", format=DiskFormat.RAW)


def instance(**fields: Any) -> Instance:
    flavor = fields.pop("flavor", Flavor(root=2 * SIZE))
    return Instance(uuid=str(uuid.uuid4()), name="cow", flavor=flavor, backend=fields.pop("backend", "rbd"), **fields)


def make(rooms: Rooms, who: Instance, image: Image, devices: Any = None) -> None:
    """As ``spawn`` does."""
    with Undo() as undo:
        plan = layout.plan(rooms, who, image, devices)
        provision.directory(rooms, who, undo)
        layout.remember(rooms, who, plan)
        provision.disks(rooms, who, image, plan, undo)


def read(rooms: Rooms, who: Instance, name: str, tmp_path: Path) -> bytes:
    entry = manifest.require(rooms.directory(who.uuid).path, name)
    target = tmp_path / f"out-{uuid.uuid4()}"
    rooms.backend(entry.backend).disk(who.uuid, name).extract(target, DiskFormat.RAW)
    return target.read_bytes()


def stored(rooms: Rooms, image: Image) -> bytes:
    return rooms.images.local_path(image).read_bytes()


def where(rooms: Rooms, who: Instance) -> dict[str, str]:
    disks = manifest.load(rooms.directory(who.uuid).path).disks
    return {name: entry.backend for name, entry in disks.items()}


# --- where the content comes from -----------------------------------------------------------------


def test_an_image_goes_into_the_storage_once_and_never_to_local_disk(
    rooms: Rooms, cluster: MemoryCluster, debian: Image, tmp_path: Path
) -> None:
    first, second = instance(), instance()
    for who in (first, second):
        make(rooms, who, debian)
        assert read(rooms, who, "disk", tmp_path) == stored(rooms, debian) + bytes(SIZE)
    assert cluster.filled == [name_of(debian.id)]
    assert rooms.cache.bases() == []
    local = [path for path in rooms.cache.root.rglob("*") if path.is_file() and path.stat().st_size > 4096]
    assert local == []


def test_however_many_ask_one_fills(rooms: Rooms, cluster: MemoryCluster, debian: Image) -> None:
    failed: list[BaseException] = []

    def one() -> None:
        try:
            make(rooms, instance(), debian)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed
    assert len(cluster.filled) == 1
    assert cluster.bases()[0].users == 8


def located(monkeypatch: pytest.MonkeyPatch, rooms: Rooms, *found: Location) -> None:
    monkeypatch.setattr(type(rooms.images), "locations", lambda self, image: found)


def test_an_image_in_the_storage_is_cloned_in_place(
    rooms: Rooms, cluster: MemoryCluster, debian: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = Location("memory://another/debian")
    located(monkeypatch, rooms, elsewhere, cluster.add_image("debian", stored(rooms, debian)))
    who = instance()
    make(rooms, who, debian)
    assert read(rooms, who, "disk", tmp_path) == stored(rooms, debian) + bytes(SIZE)
    assert cluster.filled == []
    assert rooms.cache.bases() == []


@pytest.mark.parametrize("there", ["cached", "kept"])
def test_a_base_that_is_there_never_prevents_a_clone(
    rooms: Rooms, cluster: MemoryCluster, debian: Image, monkeypatch: pytest.MonkeyPatch, there: str
) -> None:
    """imagebackend P9: a cached local file turned every later boot into a full import."""
    if there == "cached":
        bases.cached(rooms, rooms.backends["raw"], debian)
    else:
        bases.keep(rooms, cluster, debian)
    location = cluster.add_image("debian", stored(rooms, debian))
    located(monkeypatch, rooms, location)
    who = instance()
    make(rooms, who, debian)
    assert list(cluster.parents.values()) == [location.url]


def test_an_image_in_another_format_or_storage_is_not_cloned(
    rooms: Rooms, cluster: MemoryCluster, debian: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    located(monkeypatch, rooms, Location("memory://another/debian"))
    make(rooms, instance(), debian)
    assert cluster.filled == [name_of(debian.id)]
    located(monkeypatch, rooms, cluster.add_image("debian", b"Q" * 512))
    assert bases.cloneable(rooms, cluster, replace(debian, disk_format=DiskFormat.QCOW2)) is None


def test_a_kept_base_serves_also_when_the_image_service_does_not(
    rooms: Rooms, cluster: MemoryCluster, debian: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(rooms, instance(), debian)
    rooms.images.delete(debian.id)
    make(rooms, instance(), debian)
    with pytest.raises(NotFound):
        make(rooms, instance(), replace(debian, id=str(uuid.uuid4())))
    assert len(cluster.table) == 2


def test_a_base_that_another_host_removed_a_moment_before_is_made_again(
    rooms: Rooms, cluster: MemoryCluster, debian: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, lost = cluster.add_base, []

    def adding(*words: Any, **more: Any) -> Base:
        base = add(*words, **more)
        if not lost:
            lost.append(cluster.kept.pop(base.location))
        return base

    monkeypatch.setattr(cluster, "add_base", adding)
    who = instance()
    make(rooms, who, debian)
    assert read(rooms, who, "disk", tmp_path)[:SIZE] == stored(rooms, debian)
    assert len(cluster.filled) == 2


def test_a_kept_base_of_other_bytes_is_refused(rooms: Rooms, cluster: MemoryCluster, debian: Image) -> None:
    """imagebackend S1: a check that lives in the download alone is skipped by whoever comes second."""
    unchecked = replace(debian, os_hash_algo="sha256", os_hash_value="")
    make(rooms, instance(), unchecked)
    wrong = replace(debian, os_hash_algo="sha256", os_hash_value=hashlib.sha256(b"another").hexdigest())
    who = instance()
    with pytest.raises(DigestMismatch):
        make(rooms, who, wrong)
    assert not rooms.directory(who.uuid).path.exists()
    assert len(cluster.table) == 1


def test_bytes_that_are_not_those_of_the_record_make_no_base(
    rooms: Rooms, cluster: MemoryCluster, debian: Image
) -> None:
    wrong = replace(debian, os_hash_value=hashlib.sha256(b"another").hexdigest())
    with pytest.raises(DigestMismatch):
        make(rooms, instance(), wrong)
    assert (cluster.kept, cluster.table) == ({}, {})


def test_a_pre_cached_image_lies_where_its_disks_will(rooms: Rooms, tmp_path: Path, debian: Image) -> None:
    driver = LibvirtDriver(rooms=house(tmp_path / "state", backend="rbd"))
    assert driver.cache_image(None, debian.id)
    assert not driver.cache_image(None, debian.id)
    assert driver.cache.bases() == []
    assert [(backend, base.name) for backend, base in driver.kept_bases()] == [("rbd", name_of(debian.id))]


def test_a_pre_cached_image_that_can_be_cloned_is_ready_as_it_is(
    tmp_path: Path, rooms: Rooms, debian: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = LibvirtDriver(rooms=house(tmp_path / "state", backend="rbd"))
    cluster = driver.rooms.backends["rbd"]
    assert isinstance(cluster, MemoryCluster)
    located(monkeypatch, driver.rooms, cluster.add_image("debian", stored(rooms, debian)))
    assert not driver.cache_image(None, debian.id)
    assert cluster.filled == []


# --- blank disks ----------------------------------------------------------------------------------


@pytest.mark.skipif(run.find("mkswap") is None or run.find("mkfs.ext4") is None, reason="needs mkswap and mkfs.ext4")
def test_blank_disks_are_imported_where_disks_are_no_files(rooms: Rooms, debian: Image, tmp_path: Path) -> None:
    who = instance(flavor=Flavor(root=SIZE, ephemeral=8 * MiB, swap=2 * MiB))
    make(rooms, who, debian)
    assert read(rooms, who, "disk.swap", tmp_path)[4086:4096] == b"SWAPSPACE2"
    ephemeral = read(rooms, who, "disk.local", tmp_path)
    assert len(ephemeral) == 8 * MiB
    assert ephemeral[1080:1082] == b"\x53\xef"
    assert sorted(path.name for path in rooms.directory(who.uuid).path.iterdir()) == ["layout.json", "manifest.json"]


# --- what goes wrong ------------------------------------------------------------------------------


class Stopping(NoProgress):
    def phase(self, name: str, total: int | None = None) -> None:
        raise Interrupted(what=name)


def test_a_failure_at_any_disk_leaves_nothing(
    rooms: Rooms, cluster: MemoryCluster, debian: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    who = instance(flavor=Flavor(root=SIZE, ephemeral=8 * MiB, swap=2 * MiB), disk_backends={"ephemeral": "raw"})
    monkeypatch.setattr(type(cluster.disk(who.uuid, "x")), "import_file", _full)
    with pytest.raises(NoSpace):
        make(rooms, who, debian)
    assert cluster.table == {}
    assert not rooms.directory(who.uuid).path.exists()


def _full(self: Any, path: Path, **more: Any) -> None:
    raise NoSpace(place="pool", needed=1, free=0)


def test_a_full_storage_leaves_nothing(rooms: Rooms, debian: Image) -> None:
    small = MemoryCluster("rbd", instances=rooms.instances, size=MiB // 2)
    rooms.backends["rbd"] = small  # type: ignore[index]
    with pytest.raises(NoSpace):
        make(rooms, instance(), debian)
    assert (small.kept, small.table) == ({}, {})
    assert list(rooms.instances.iterdir()) == []


def test_a_stop_in_the_middle_of_a_fill_leaves_nothing(rooms: Rooms, cluster: MemoryCluster, debian: Image) -> None:
    rooms.progress = Stopping()
    with pytest.raises(Interrupted):
        make(rooms, instance(), debian)
    assert (cluster.kept, cluster.table) == ({}, {})
    assert list(rooms.instances.iterdir()) == []


@pytest.mark.parametrize("seen", [True, False])
def test_somebody_elses_volume_of_that_name_is_never_removed(
    rooms: Rooms, cluster: MemoryCluster, debian: Image, monkeypatch: pytest.MonkeyPatch, seen: bool
) -> None:
    """imagebackend D1: the error path of a create that found a volume removed it."""
    who = instance()
    other = cluster.disk(who.uuid, "disk")
    other.fill(b"precious" * 64)
    shutil.rmtree(rooms.directory(who.uuid).path)
    if not seen:  # it comes between the look and the create
        monkeypatch.setattr(type(other), "exists", lambda self: False)
    with pytest.raises(NameTaken):
        make(rooms, who, debian)
    monkeypatch.undo()
    assert list(cluster.table) == [other._key]
    assert other.read() == b"precious" * 64


def test_a_disk_too_small_for_the_image_is_refused_before_it_is_fetched(
    rooms: Rooms, cluster: MemoryCluster, debian: Image
) -> None:
    with pytest.raises(DiskTooSmall):
        make(rooms, instance(flavor=Flavor(root=SIZE // 2)), debian)
    assert cluster.filled == []
    assert not rooms.instances.exists()


# --- choosing a backend ---------------------------------------------------------------------------


def test_each_disk_is_where_it_was_asked_for(rooms: Rooms, debian: Image) -> None:
    who = instance(
        flavor=Flavor(root=SIZE, ephemeral=8 * MiB, swap=2 * MiB),
        backend="qcow2",
        disk_backends={"root": "rbd", "swap": "raw"},
    )
    make(rooms, who, debian)
    assert where(rooms, who) == {"disk": "rbd", "disk.local": "qcow2", "disk.swap": "raw"}
    devices = {"ephemerals": [{"size": 1}, {"size": 1}]}
    plan = layout.plan(rooms, replace(who, disk_backends={"eph1": "rbd"}), debian, devices)
    assert [(one.spec.name, one.spec.backend) for one in plan.disks][:3] == [
        ("disk", "qcow2"), ("disk.eph0", "qcow2"), ("disk.eph1", "rbd"),
    ]  # fmt: skip


def test_kernel_ramdisk_and_config_drive_are_local_files_whatever_is_asked(rooms: Rooms, debian: Image) -> None:
    who = instance(kernel_id=debian.id, ramdisk_id=debian.id, config_drive=True)
    plan = layout.plan(rooms, who, debian, None)
    assert {one.spec.name: one.spec.backend for one in plan.disks} == {
        "kernel": "raw", "ramdisk": "raw", "disk": "rbd", "disk.config": "raw",
    }  # fmt: skip


def test_a_backend_for_a_disk_that_is_not_asked_for_is_refused(rooms: Rooms, debian: Image) -> None:
    for word in ("swap", "eph0", "tape"):
        with pytest.raises(InvalidRequest, match="no such disk"):
            make(rooms, instance(disk_backends={word: "raw"}), debian)
    assert not rooms.instances.exists()


@pytest.mark.parametrize(("backend", "key"), [("lvm", "[lvm] volume_group"), ("rbd", "[rbd] pool")])
@pytest.mark.parametrize("how", ["default", "instance", "disk"])
def test_a_backend_that_is_not_configured_names_the_key_to_set(
    tmp_path: Path, debian: Image, backend: str, key: str, how: str
) -> None:
    rooms = Rooms(config(tmp_path / "other", **({"backend": backend} if how == "default" else {})))
    rooms.__dict__["backends"] = {name: one for name, one in rooms.backends.items() if name not in ("lvm", "rbd")}
    fields = {"instance": {"backend": backend}, "disk": {"backend": "", "disk_backends": {"root": backend}}}
    with pytest.raises(ConfigError) as caught:
        make(rooms, instance(**fields.get(how, {"backend": ""})), debian)
    assert key in str(caught.value)
    assert f"COWSHED_{backend.upper()}_" in str(caught.value.hint)
    assert not rooms.instances.exists()


def test_another_default_breaks_no_instance(
    rooms: Rooms, cluster: MemoryCluster, debian: Image, tmp_path: Path
) -> None:
    who = instance(flavor=Flavor(root=SIZE, swap=2 * MiB), backend="qcow2", disk_backends={"swap": "rbd"})
    make(rooms, who, debian)
    later = Rooms(config(tmp_path / "state", backend="raw", cluster_size=2 * MiB, preallocation="falloc"))
    later.__dict__["backends"] = {**later.backends, "rbd": cluster}
    cluster.pool = "another"
    sources = {disk.target: disk.source for disk in shown.attached(later, who)}
    assert sources["vda"].format == DiskFormat.QCOW2
    assert [(name, disk.name) for name, disk in locate.disks(later, who.uuid)] == [
        ("qcow2", "disk"), ("rbd", "disk.swap"),
    ]  # fmt: skip
    assert read(later, who, "disk", tmp_path)[:MiB] == stored(rooms, debian)[:MiB]
    assert layout.root_exists(later, who)
    teardown.delete_disks(later, who)
    assert cluster.table == {}
    assert where(later, who) == {}


def test_disks_on_a_backend_that_is_configured_no_more_are_not_forgotten(
    rooms: Rooms, cluster: MemoryCluster, debian: Image
) -> None:
    """Else the directory would go, and with it the only record of the disk in the storage."""
    who = instance(flavor=Flavor(root=SIZE, swap=2 * MiB), disk_backends={"swap": "qcow2"})
    make(rooms, who, debian)
    rooms.__dict__["backends"] = {name: one for name, one in rooms.backends.items() if name != "rbd"}
    driver = LibvirtDriver(rooms=rooms)
    for call in (shown.attached, teardown.delete_disks):
        with pytest.raises(ConfigError, match=r"\[rbd\] pool"):
            call(rooms, who)
    assert where(rooms, who) == {"disk": "rbd"}
    assert len(cluster.table) == 1
    assert driver._disk_infos([who.uuid]) == []  # and what the host has left can be told all the same


def test_a_damaged_manifest_does_not_keep_an_instance_from_being_removed(rooms: Rooms, debian: Image) -> None:
    who = instance(backend="qcow2")
    make(rooms, who, debian)
    (rooms.directory(who.uuid).path / manifest.FILE).write_text("{")
    teardown.delete_disks(rooms, who)


# --- what nobody needs any more -------------------------------------------------------------------


def prune(rooms: Rooms, **options: Any) -> Sequence[tuple[str, str]]:
    return [(one.place, one.name) for one in LibvirtDriver(rooms=rooms).sweep_cache(**options)]


def test_kept_bases_that_no_disk_needs_are_pruned(rooms: Rooms, cluster: MemoryCluster, debian: Image) -> None:
    who, name = instance(), name_of(debian.id)
    make(rooms, who, debian)
    assert prune(rooms, all_unused=True) == []
    teardown.delete_disks(rooms, who)
    assert prune(rooms, all_unused=True, dry_run=True) == [("rbd", name)]
    assert len(cluster.kept) == 1
    assert prune(rooms, all_unused=True) == [("rbd", name)]
    assert cluster.kept == {}
    assert list((rooms.cache.root / "kept").iterdir()) == []


def test_kept_bases_age_from_their_last_use(rooms: Rooms, cluster: MemoryCluster, debian: Image) -> None:
    bases.keep(rooms, cluster, debian)
    (note,) = (rooms.cache.root / "kept").iterdir()
    assert prune(rooms) == []
    os.utime(note, (0, 0))
    assert prune(rooms) == [("rbd", name_of(debian.id))]


def test_a_kept_base_that_this_host_has_not_seen_before_begins_to_age_now(
    rooms: Rooms, cluster: MemoryCluster, debian: Image
) -> None:
    bases.keep(rooms, cluster, debian)
    shutil.rmtree(rooms.cache.root / "kept")
    assert prune(rooms) == []
    assert len(list((rooms.cache.root / "kept").iterdir())) == 1


def test_a_storage_that_does_not_answer_stops_no_sweep(
    rooms: Rooms, cluster: MemoryCluster, debian: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    bases.cached(rooms, rooms.backends["raw"], debian)

    def unreachable() -> None:
        raise NotFound(kind="pool", name="rbd")

    monkeypatch.setattr(cluster, "bases", unreachable)
    monkeypatch.setattr(cluster, "clean", unreachable)
    assert prune(rooms, all_unused=True) == [("cache", name_of(debian.id))]
    sweep.leftovers(rooms)


def test_every_backend_clears_up_at_the_start_and_with_each_sweep(rooms: Rooms, cluster: MemoryCluster) -> None:
    sweep.leftovers(rooms)
    assert cluster.cleaned == 1
    prune(rooms, dry_run=True)
    assert cluster.cleaned == 1
    prune(rooms)
    assert cluster.cleaned == 2


def test_the_base_of_every_disk_of_an_instance_is_in_use(rooms: Rooms, debian: Image, tmp_path: Path) -> None:
    """imagebackend D2 and D3: the second ephemeral's base and a rescue image were swept under a live overlay."""
    who = instance(backend="qcow2")
    make(rooms, who, debian)
    for name in ("disk.eph0", "disk.eph1", "disk.rescue"):
        path = tmp_path / f"{name}.raw"
        path.write_bytes(os.urandom(MiB))
        other = pull.pull(rooms.images, str(path), name=name, format=DiskFormat.RAW)
        bases.make(rooms, rooms.backends["qcow2"], rooms.backends["qcow2"].disk(who.uuid, name), other, 0)
    assert prune(rooms, all_unused=True) == []
    assert len(rooms.cache.bases()) == 4
    for name in ("disk", "disk.eph1"):
        rooms.backends["qcow2"].disk(who.uuid, name).delete()
    assert len(prune(rooms, all_unused=True)) == 2
    for name in ("disk.eph0", "disk.rescue"):
        assert len(read(rooms, who, name, tmp_path)) == MiB


def test_the_sweep_never_looks_into_a_guests_disk(rooms: Rooms, debian: Image) -> None:
    """imagebackend S2: a malformed header in a raw disk stopped every sweep of the host."""
    who = instance(backend="raw")
    make(rooms, who, debian)
    disk = rooms.directory(who.uuid).path / "disk"
    with disk.open("r+b") as file:
        file.write(b"QFI\xfb" + b"\xff" * 508)
    assert prune(rooms, all_unused=True) == [("cache", name_of(debian.id))]


@pytest.mark.parametrize("pool", ["", "pool"])
def test_a_volume_group_that_is_not_there_is_one_error_before_anything_is_made(
    rooms: Rooms, debian: Image, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, pool: str
) -> None:
    def not_there(words: Sequence[str], **_: Any) -> Any:
        raise ToolFailed(command=words[0], status=5, output=f'Volume group "{words[-1]}" not found')

    monkeypatch.setattr(privilege, "run", not_there)
    section = LvmSection(volume_group="nowhere", thin_pool=pool)
    rooms.__dict__["backends"] = open_backends(rooms.instances, rooms.config.disks, lvm=section)
    caplog.set_level(logging.INFO, "cowshed")
    with pytest.raises(NotFound, match="volume group nowhere does not exist"):
        make(rooms, instance(backend="lvm"), debian)
    assert caplog.messages == []
    assert not rooms.instances.exists()
    assert not rooms.cache.root.exists()


def test_a_disk_elsewhere_that_could_not_be_taken_back_is_found_again(
    rooms: Rooms, cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The storage goes away while an instance is made: the manifest stays, for nothing else names the disk."""
    web = Instance(str(uuid.uuid4()), "web", Flavor(root=SIZE))

    def away(disk: Any) -> None:
        raise ToolFailed(command="rbd", status=110, output="timed out")

    with pytest.raises(NoSpace) as caught, Undo() as undo:
        provision.directory(rooms, web, undo, new=True)
        disk = cluster.disk(web.uuid, "disk")
        with provision.taken_back(undo, disk):
            disk.create(SIZE)
        monkeypatch.setattr(type(disk), "delete", away)
        raise NoSpace(place="/", needed=1, free=0)
    assert not is_complete(caught.value)
    monkeypatch.undo()
    teardown.delete_disks(rooms, web)
    assert not cluster.table
