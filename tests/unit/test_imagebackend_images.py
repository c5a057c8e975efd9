"""The classic image API: every member, for Flat and Qcow2."""

from __future__ import annotations

import errno
import gzip
import json
import os
import stat
import subprocess
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from cowshed import imagebackend
from cowshed.config import Config, DisksSection, HostSection
from cowshed.disks import manifest
from cowshed.errors import (
    DataCorrupt,
    DiskNotFound,
    DiskTooSmall,
    ImageRejected,
    InvalidRequest,
    SnapshotNotFound,
    UnsupportedOperation,
)
from cowshed.imagebackend import Backend, Flat, Image, Qcow2
from cowshed.tools import qcow2
from cowshed.units import GiB, MiB

DATA = bytes(range(255, -1, -1)) * 2048  # 512 KiB that are no image format
SIZE = MiB
MAPPING = {"bus": "virtio", "dev": "vda", "type": "disk"}
BOTH = pytest.mark.parametrize("kind", ["flat", "qcow2"])


@dataclass(frozen=True)
class Server:
    """An instance as the classic callers have it."""

    uuid: str


class Fetch:
    """Writes ``data``, grown to ``size``, and notes where it was asked to."""

    def __init__(self, data: bytes = DATA, size: int = SIZE) -> None:
        self.data, self.size = data, size
        self.targets: list[Path] = []
        self.arguments: list[tuple[Any, ...]] = []

    def __call__(self, *args: Any, target: str, **named: Any) -> None:
        self.targets.append(Path(target))
        self.arguments.append((args, named))
        with open(target, "wb") as file:
            file.write(self.data)
            file.truncate(max(self.size, len(self.data)))


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(host=HostSection(state=str(tmp_path)))


@pytest.fixture
def backend(config: Config) -> Backend:
    return Backend(use_cow=True, config=config)


@pytest.fixture
def server() -> Server:
    return Server(str(uuid.uuid4()))


def content(image: Image, tmp_path: Path) -> bytes:
    target = tmp_path / f"out-{uuid.uuid4()}"
    image.snapshot_extract(str(target), "raw")
    return target.read_bytes()


def qcow2_file(path: Path, size: int = SIZE, **options: Any) -> None:
    """An empty qcow2 file by hand: what a guest may write at the start of its disk as well."""
    header = bytearray(65536 * 3)
    header[:8] = b"QFI\xfb\x00\x00\x00\x03"
    for offset, width, value in [
        (20, 4, 16), (24, 8, size), (36, 4, 1), (40, 8, 65536), (48, 8, 131072), (56, 4, 1), (96, 4, 4), (100, 4, 104),
    ]:  # fmt: skip
        header[offset : offset + width] = value.to_bytes(width, "big")
    path.write_bytes(bytes(header))


# --- Backend --------------------------------------------------------------------------------------


def test_types_have_their_classes(config: Config) -> None:
    for use_cow, usual in ((True, Qcow2), (False, Flat)):
        backend = Backend(use_cow, config=config)
        assert backend.BACKEND["default"] is usual
        assert backend.backend() is usual
        assert backend.backend("default") is usual
        assert backend.backend("raw") is backend.backend("flat") is Flat is imagebackend.Raw
        assert backend.backend("qcow2") is Qcow2


def test_a_configured_type_wins_over_use_cow(tmp_path: Path) -> None:
    told = Config(host=HostSection(state=str(tmp_path)), disks=DisksSection(backend="raw"))
    assert Backend(True, config=told).backend() is Flat
    told = Config(host=HostSection(state=str(tmp_path)), sources={"disks.backend": "config.toml"})
    assert Backend(False, config=told).backend() is Qcow2


def test_an_unknown_type_is_a_runtime_error_that_names_the_known_ones(backend: Backend) -> None:
    with pytest.raises(RuntimeError) as caught:
        backend.backend("tape")
    assert isinstance(caught.value, imagebackend.UnknownImageType)
    assert "qcow2" in str(caught.value.hint)


@BOTH
def test_the_four_look_ups_find_the_same_disk(backend: Backend, server: Server, kind: str, tmp_path: Path) -> None:
    path = str(tmp_path / "instances" / server.uuid / "disk")
    found = [
        backend.by_name(server, "disk", kind),
        backend.image(server, "disk", kind),
        backend.image({"uuid": server.uuid}, "disk", kind),
        backend.by_libvirt_path(server, path, kind),
        backend.snapshot(server, path, kind),
        backend.snapshot(path, kind),
        backend.snapshot(path, image_type=kind),
    ]
    assert {image.path for image in found} == {path}
    assert {type(image) for image in found} == {backend.backend(kind)}
    assert {image.driver_format for image in found} == {"raw" if kind == "flat" else "qcow2"}


def test_a_path_alone_is_what_the_manifest_says(backend: Backend, server: Server, config: Config) -> None:
    disk = backend.by_name(server, "disk", "raw")
    disk.cache(Fetch(), "base", image_id="one")
    assert type(backend.by_libvirt_path(server, disk.path)) is Flat
    assert type(backend.snapshot(disk.path)) is Flat


def test_an_image_needs_a_place(backend: Backend) -> None:
    with pytest.raises(InvalidRequest):
        backend.by_name(None, "disk", "raw")


@BOTH
@pytest.mark.parametrize(
    ("uuid", "name"),
    [("../../elsewhere", "disk"), ("/tmp/elsewhere", "disk"), ("..", "disk"), ("u", "../disk"), ("", "d")],
)
def test_a_place_is_within_the_state_directory(backend: Backend, kind: str, uuid: str, name: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot be the"):
        backend.by_name({"uuid": uuid}, name, kind)


def test_configure_decides_for_objects_made_afterwards(config: Config, server: Server) -> None:
    imagebackend.configure(config)
    try:
        assert Flat(server, "disk").path == str(config.state / "instances" / server.uuid / "disk")
        assert Backend(True).by_name(server, "disk").lock_path == str(config.state / "instances" / "locks")
    finally:
        imagebackend.settings._settings = None


@BOTH
def test_making_an_object_touches_nothing(backend: Backend, server: Server, kind: str, tmp_path: Path) -> None:
    image = backend.by_name(server, "disk", kind)
    assert not image.exists()
    assert not image.check_image_exists()
    image.is_file_in_instance_path()
    assert list(tmp_path.iterdir()) == []
    path = Path(image.path)
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(512))
    backend.by_name(server, "disk", kind)
    assert [one.name for one in path.parent.iterdir()] == ["disk"]


# --- cache ----------------------------------------------------------------------------------------


@BOTH
def test_cache_makes_base_and_disk_and_then_fetches_no_more(
    backend: Backend, server: Server, kind: str, tmp_path: Path
) -> None:
    fetch, disk = Fetch(), backend.by_name(server, "disk", kind)
    disk.cache(fetch, "base", 3 * MiB, "context", image_id="one", trusted=False)
    assert (tmp_path / "cache" / "base").is_file()
    assert len(fetch.targets) == 1
    assert fetch.arguments == [(("context",), {"image_id": "one", "trusted": False})]
    assert disk.get_disk_size(disk.path) == 3 * MiB
    assert disk.get_disk_size(str(tmp_path / "cache" / "base")) == SIZE
    assert content(disk, tmp_path) == DATA + bytes(3 * MiB - len(DATA))
    disk.cache(fetch, "base", 3 * MiB, image_id="one")
    backend.by_name(Server(str(uuid.uuid4())), "disk", kind).cache(fetch, "base", image_id="one")
    assert len(fetch.targets) == 1


@BOTH
@pytest.mark.parametrize("size", [None, 0])
def test_without_a_size_it_is_the_bases(backend: Backend, server: Server, kind: str, size: int | None) -> None:
    disk = backend.by_name(server, "disk", kind)
    disk.cache(Fetch(), "base", size, image_id="one")
    assert disk.get_disk_size(disk.path) == SIZE


@BOTH
def test_a_disk_too_small_is_refused_before_it_is_made(backend: Backend, server: Server, kind: str) -> None:
    disk = backend.by_name(server, "disk", kind)
    with pytest.raises(DiskTooSmall):
        disk.cache(Fetch(), "base", SIZE // 2, image_id="one")
    assert not Path(disk.path).parent.exists()


@BOTH
def test_an_existing_disk_is_kept_and_grown(backend: Backend, server: Server, kind: str, tmp_path: Path) -> None:
    disk, fetch = backend.by_name(server, "disk", kind), Fetch()
    disk.cache(fetch, "base", image_id="one")
    inode = os.stat(disk.path).st_ino
    disk.cache(fetch, "base", 4 * MiB, image_id="one")
    assert disk.get_disk_size(disk.path) == 4 * MiB
    disk.cache(fetch, "base", 2 * MiB, image_id="one")
    assert disk.get_disk_size(disk.path) == 4 * MiB
    assert os.stat(disk.path).st_ino == inode
    assert content(disk, tmp_path)[: len(DATA)] == DATA


def test_a_generated_flat_disk_has_no_base(backend: Backend, server: Server, tmp_path: Path) -> None:
    disk, fetch = backend.by_name(server, "disk.swap", "raw"), Fetch()
    disk.cache(fetch, "swap_1", SIZE, swap_mb=1)
    assert [target.name for target in fetch.targets] == ["disk.swap"]
    assert not (tmp_path / "cache" / "swap_1").exists()
    assert Path(disk.path).read_bytes()[: len(DATA)] == DATA
    disk.cache(fetch, "swap_1", SIZE, swap_mb=1)
    assert len(fetch.targets) == 1


def test_a_generated_qcow2_disk_stands_on_a_base(backend: Backend, server: Server, tmp_path: Path) -> None:
    disk, fetch = backend.by_name(server, "disk.swap", "qcow2"), Fetch()
    disk.cache(fetch, "swap_1", SIZE, swap_mb=1)
    assert [target.name for target in fetch.targets] == ["swap_1"]
    assert content(disk, tmp_path)[: len(DATA)] == DATA


@pytest.mark.parametrize("name", ["kernel", "ramdisk"])
def test_kernel_and_ramdisk_are_plain_files_even_when_packed(backend: Backend, server: Server, name: str) -> None:
    packed = gzip.compress(DATA)
    packed += bytes(-len(packed) % 512)
    disk = backend.by_name(server, name, "raw")
    disk.cache(Fetch(packed, 0), f"base-{name}", image_id=name)
    assert Path(disk.path).read_bytes() == packed


@BOTH
def test_sixteen_threads_cause_one_fetch(backend: Backend, kind: str, tmp_path: Path) -> None:
    fetch = Fetch()
    disks = [backend.by_name(Server(str(uuid.uuid4())), "disk", kind) for _ in range(16)]
    _at_once([lambda disk=disk: disk.cache(fetch, "base", image_id="one") for disk in disks])
    assert len(fetch.targets) == 1
    assert all(disk.exists() for disk in disks)
    assert content(disks[7], tmp_path)[: len(DATA)] == DATA


@BOTH
def test_threads_that_make_the_same_disk_all_succeed(backend: Backend, server: Server, kind: str) -> None:
    fetch = Fetch()
    _at_once([lambda: backend.by_name(server, "disk", kind).cache(fetch, "base", image_id="one")] * 8)
    _at_once([lambda: backend.by_name(server, "disk.eph0", kind).cache(fetch, "eph", SIZE)] * 8)
    assert len(fetch.targets) == 2
    assert set(manifest.load(Path(backend.by_name(server, "disk", kind).path).parent).disks) == {"disk", "disk.eph0"}


def test_flat_disks_of_a_qcow2_base_become_raw_once(backend: Backend, server: Server) -> None:
    made: list[str] = []

    def fetch(*, target: str, **_: Any) -> None:
        made.append(target)
        qcow2_file(Path(target))

    _at_once([lambda: backend.by_name(server, "disk", "raw").cache(fetch, "base", 2 * MiB, image_id="one")] * 6)
    disk = backend.by_name(server, "disk", "raw")
    assert disk.driver_format == "raw"
    assert len(made) == 1
    assert Path(disk.path).read_bytes() == bytes(2 * MiB)
    assert disk.get_disk_size(disk.path) == 2 * MiB


def _at_once(calls: list[Any]) -> None:
    errors: list[BaseException] = []
    ready = threading.Barrier(len(calls))

    def run(call: Any) -> None:
        ready.wait(20)
        try:
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert not errors


@BOTH
def test_a_failed_fetch_leaves_nothing_and_a_retry_works(backend: Backend, server: Server, kind: str) -> None:
    def fail(*, target: str, **_: Any) -> None:
        Path(target).write_bytes(DATA)
        raise OSError("the line is cut")

    disk = backend.by_name(server, "disk", kind)
    ways: list[dict[str, Any]] = [{"image_id": "one"}, {}]
    for named in ways:
        with pytest.raises(OSError, match="the line is cut"):
            disk.cache(fail, "base", **named)
        assert not disk.exists()
        assert not (backend._settings.cache_directory / "base").exists()
    disk.cache(Fetch(), "base", image_id="one")
    assert disk.exists()


def test_what_a_killed_fetch_left_is_removed_by_the_next(backend: Backend, server: Server) -> None:
    disk = backend.by_name(server, "disk.swap", "raw")
    left = Path(disk.path).parent / ".fetch-disk.swap.swap_1"
    left.mkdir(parents=True)
    (left / "disk.swap").write_bytes(b"half")
    disk.cache(Fetch(), "swap_1", SIZE)
    assert not left.exists()
    assert Path(disk.path).read_bytes()[:4] != b"half"


def test_a_hostile_image_never_becomes_a_base(backend: Backend, server: Server) -> None:
    """A qcow2 file whose parent is a file of the host."""

    def fetch(*, target: str, **_: Any) -> None:
        qcow2_file(Path(target))
        with open(target, "r+b") as file:
            file.seek(8)
            file.write((512).to_bytes(8, "big") + (11).to_bytes(4, "big"))
            file.seek(512)
            file.write(b"/etc/passwd")

    disk = backend.by_name(server, "disk", "qcow2")
    with pytest.raises(ImageRejected):
        disk.cache(fetch, "base", image_id="one")
    assert not disk.exists()
    assert not (backend._settings.cache_directory / "base").exists()


@BOTH
def test_a_warm_create_starts_no_process(
    backend: Backend, server: Server, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.by_name(server, "disk", kind).cache(Fetch(), "base", image_id="one")

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr(os, "fork", refuse)
    monkeypatch.setattr(os, "posix_spawn", refuse)
    other = backend.by_name(Server(str(uuid.uuid4())), "disk", kind)
    other.cache(Fetch(), "base", 2 * MiB, image_id="one")
    assert other.exists()


def test_a_base_that_went_between_two_steps_is_fetched_again(backend: Backend, server: Server) -> None:
    fetch = Fetch()
    for kind in ("flat", "qcow2"):
        disk = backend.by_name(Server(str(uuid.uuid4())), "disk", kind)
        disk.cache(fetch, "base", image_id="one")
        backend._settings.cache.remove("base")
        backend.by_name(Server(str(uuid.uuid4())), "disk", kind).cache(fetch, "base", image_id="one")
    assert len(fetch.targets) == 3


@BOTH
@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_base_that_cannot_be_touched_is_used(
    backend: Backend, server: Server, kind: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.by_name(server, "disk", kind).cache(Fetch(), "base", image_id="one")

    def refuse(path: Any, *_: Any, **__: Any) -> None:
        raise OSError(number, "read-only", str(path))

    monkeypatch.setattr(os, "utime", refuse)
    other = backend.by_name(Server(str(uuid.uuid4())), "disk", kind)
    other.cache(Fetch(), "base", image_id="one")
    assert other.exists()


# --- disk.info ------------------------------------------------------------------------------------


@BOTH
def test_the_format_is_recorded_once(backend: Backend, server: Server, kind: str) -> None:
    disk = backend.by_name(server, "disk", kind)
    disk.cache(Fetch(), "base", image_id="one")
    backend.by_name(server, "disk.swap", "raw").cache(Fetch(), "swap", SIZE)
    assert disk.disk_info_path
    path = Path(disk.disk_info_path)
    text = path.read_text()
    assert text.count("\n") == 1
    usual = "raw" if kind == "flat" else "qcow2"
    assert json.loads(text) == {disk.path: usual, str(Path(disk.path).with_name("disk.swap")): "raw"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    before = path.stat().st_ino
    assert disk.resolve_driver_format() == usual
    assert path.stat().st_ino == before


def test_a_recorded_format_is_never_changed(backend: Backend, server: Server, tmp_path: Path) -> None:
    from cowshed.imagebackend import info

    disk = tmp_path / "instances" / server.uuid / "disk"
    info.record(disk.with_name("disk.info"), disk, "raw")
    info.record(disk.with_name("disk.info"), disk, "raw")
    with pytest.raises(DataCorrupt):
        info.record(disk.with_name("disk.info"), disk, "qcow2")
    assert info.read(disk.with_name("disk.info")) == {str(disk): "raw"}


@pytest.mark.parametrize("text", ["{", "[]", '{"/a": 1}', "\udc80"])
def test_a_damaged_record_stops_what_needs_it(backend: Backend, server: Server, text: str) -> None:
    disk = backend.by_name(server, "disk", "qcow2")
    disk.cache(Fetch(), "base", image_id="one")
    assert disk.disk_info_path
    Path(disk.disk_info_path).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataCorrupt):
        disk.resolve_driver_format()


def test_a_missing_record_is_not_replaced_by_what_the_guest_wrote(
    backend: Backend, server: Server, tmp_path: Path
) -> None:
    disk = backend.by_name(server, "disk", "raw")
    disk.cache(Fetch(), "base", image_id="one")
    qcow2_file(tmp_path / "forged", 10 * GiB)
    with open(disk.path, "r+b") as file:
        file.write((tmp_path / "forged").read_bytes())
    assert disk.disk_info_path
    again = disk
    for lost in (disk.disk_info_path, str(Path(disk.path).with_name(manifest.FILE))):
        os.unlink(lost)
        again = backend.by_name(server, "disk", "raw", MAPPING)
        assert again.driver_format == "raw"
        assert again.resolve_driver_format() == "raw"
        assert again.get_disk_size(again.path) == SIZE
        assert again.libvirt_info("none", None).driver_format == "raw"
    again.resize_image(5 * MiB)
    assert os.stat(disk.path).st_size == 5 * MiB
    assert content(again, tmp_path)[:4] == b"QFI\xfb"


def test_an_old_flat_disk_that_is_recorded_as_qcow2_stays_one(backend: Backend, server: Server, tmp_path: Path) -> None:
    from cowshed.imagebackend import info

    path = tmp_path / "instances" / server.uuid / "disk"
    path.parent.mkdir(parents=True)
    qcow2_file(path, SIZE)
    info.record(path.with_name("disk.info"), path, "qcow2")
    disk = backend.by_name(server, "disk", "raw")
    assert disk.driver_format == "qcow2"
    assert disk.get_model(None).format == "qcow2"
    assert disk.get_disk_size(disk.path) == SIZE
    disk.resize_image(3 * MiB)
    with path.open("rb") as file:
        assert qcow2.read_header(file.fileno()).size == 3 * MiB
    assert content(disk, tmp_path) == bytes(3 * MiB)


# --- sizes ----------------------------------------------------------------------------------------


@BOTH
def test_a_base_size_is_verified(backend: Backend, server: Server, kind: str) -> None:
    disk = backend.by_name(server, "disk", kind)
    disk.cache(Fetch(), "base", image_id="one")
    base = str(backend._settings.cache_directory / "base")
    disk.verify_base_size(base, None)
    disk.verify_base_size(base, SIZE)
    disk.verify_base_size(base, 0)
    disk.verify_base_size("not looked at", 5, base_size=5)
    with pytest.raises(DiskTooSmall):
        disk.verify_base_size(base, SIZE - 1)
    with pytest.raises(DiskTooSmall):
        disk.verify_base_size("not looked at", 4, base_size=5)
    with pytest.raises(DiskNotFound):
        disk.get_disk_size(base + "-not")


@BOTH
def test_resizing_grows_and_never_shrinks(backend: Backend, server: Server, kind: str, tmp_path: Path) -> None:
    disk = backend.by_name(server, "disk", kind)
    with pytest.raises(DiskNotFound):
        disk.resize_image(SIZE)
    disk.cache(Fetch(), "base", image_id="one")
    disk.resize_image(2 * MiB)
    disk.resize_image(MiB)
    assert disk.get_disk_size(disk.path) == 2 * MiB
    assert content(disk, tmp_path) == DATA + bytes(2 * MiB - len(DATA))


# --- snapshots ------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_snapshots_stand_alone(backend: Backend, server: Server, kind: str, format: str, tmp_path: Path) -> None:
    disk = backend.by_name(server, "disk", kind)
    disk.cache(Fetch(), "base", image_id="one")
    target = tmp_path / "snapshot"
    target.write_bytes(b"an older one")
    disk.snapshot_extract(str(target), format)
    if format == "raw":
        assert target.read_bytes() == DATA + bytes(SIZE - len(DATA))
        return
    with target.open("rb") as file:
        header = qcow2.read_header(file.fileno())
    assert (header.size, header.backing) == (SIZE, None)


@BOTH
def test_a_refused_snapshot_keeps_what_is_there(backend: Backend, server: Server, kind: str, tmp_path: Path) -> None:
    disk = backend.by_name(server, "disk", kind)
    target = tmp_path / "snapshot"
    target.write_bytes(b"an older one")
    with pytest.raises(DiskNotFound):
        disk.snapshot_extract(str(target), "raw")
    disk.cache(Fetch(), "base", image_id="one")
    with pytest.raises(InvalidRequest):
        disk.snapshot_extract(str(target), "vmdk")
    with pytest.raises(InvalidRequest):
        disk.snapshot_extract(disk.path, "raw")
    assert target.read_bytes() == b"an older one"
    assert content(disk, tmp_path)[: len(DATA)] == DATA


@BOTH
def test_what_files_cannot_do_says_so_and_clean_up_is_harmless(backend: Backend, server: Server, kind: str) -> None:
    disk = backend.by_name(server, "disk", kind)
    for call in (
        disk.flatten,
        lambda: disk.direct_snapshot(None, "name", "raw", "image", "base"),
    ):
        with pytest.raises(NotImplementedError) as caught:
            call()
        assert isinstance(caught.value, UnsupportedOperation)
    with pytest.raises(ImageRejected):
        disk.clone(None, "image")
    disk.cleanup_direct_snapshot(None)
    disk.cleanup_direct_snapshot({"url": "rbd://a/b/c/d"}, also_destroy_volume=True, ignore_errors=True)
    disk.remove_snap("before", ignore_errors=True)
    disk.import_file(server, "/no/such/file", "disk")
    assert not Path(disk.path).parent.exists()


@BOTH
def test_a_snapshot_is_kept_where_it_costs_nothing(backend: Backend, server: Server, kind: str, tmp_path: Path) -> None:
    disk = backend.by_name(server, "disk", kind)
    with pytest.raises(DiskNotFound):
        disk.rollback_to_snap("before")
    disk.cache(Fetch(), "image", 4 * MiB, image_id="image")
    disk.create_snap("nova-resize")
    disk.resize_image(8 * MiB)
    if disk._snapshots_are_instant():
        disk.rollback_to_snap("nova-resize")
        assert disk.get_disk_size(disk.path) == 4 * MiB
        assert content(disk, tmp_path) == DATA + bytes(4 * MiB - len(DATA))
        disk.remove_snap("nova-resize")
    with pytest.raises(SnapshotNotFound):
        disk.rollback_to_snap("nova-resize")
    disk.remove_snap("nova-resize")


# --- facts ----------------------------------------------------------------------------------------


@BOTH
def test_flags(backend: Backend, server: Server, kind: str) -> None:
    disk = backend.by_name(server, "disk", kind)
    assert (disk.SUPPORTS_CLONE, disk.SUPPORTS_LUKS, disk.is_block_dev, disk.source_type) == (
        False,
        False,
        False,
        "file",
    )
    assert disk.is_file_in_instance_path()
    assert not disk.is_shared_block_storage()
    assert disk._get_lock_name("/a/cache/base_20") == "base_20"
    assert (disk.preallocate, disk.driver_io, disk.discard_mode) == (False, None, "unmap")


@BOTH
def test_the_model_has_the_format_of_the_disk(backend: Backend, server: Server, kind: str) -> None:
    disk = backend.by_name(server, "disk", kind)
    model = disk.get_model(None)
    assert (model.path, model.format) == (disk.path, disk.driver_format)
    assert model == imagebackend.LocalFileImage(disk.path, disk.driver_format)
    assert model != imagebackend.LocalFileImage(disk.path + "x", disk.driver_format)


def test_models_check_their_format_and_hide_passwords() -> None:
    with pytest.raises(InvalidRequest):
        imagebackend.LocalFileImage("/disk", "vmdk")
    assert imagebackend.LocalBlockImage("/dev/x").format == "raw"
    model = imagebackend.RBDImage("disk", "vms", "cinder", "sEcret", ["[::1]:6789"])
    assert "sEcret" not in repr(model)
    assert (model.format, model.password, model.servers) == ("raw", "sEcret", ("[::1]:6789",))


# --- XML ------------------------------------------------------------------------------------------


def _disk_xml(config: imagebackend.DiskConfig) -> ET.Element:
    return ET.fromstring(config.to_xml())


@BOTH
def test_libvirt_info_is_the_disk_as_it_is_placed(backend: Backend, server: Server, kind: str) -> None:
    disk = backend.by_name(server, "disk", kind, {"bus": "scsi", "dev": "sda", "type": "disk"})
    disk.cache(Fetch(), "base", image_id="one")
    specs = {"quota:disk_read_bytes_sec": "1000", "quota:disk_total_iops_sec": 5, "quota:disk_size": "x", "hw:x": "y"}
    config = disk.libvirt_info("none", specs, boot_order="1", disk_unit=7)
    assert (config.source_type, config.source_path, config.driver_format) == ("file", disk.path, disk.driver_format)
    assert (config.target_dev, config.target_bus, config.boot_order, config.device_unit) == ("sda", "scsi", 1, 7)
    xml = _disk_xml(config)
    driver = xml.find("driver")
    assert driver is not None
    assert (xml.get("type"), xml.get("device")) == ("file", "disk")
    assert (driver.get("name"), driver.get("type"), driver.get("cache")) == ("qemu", disk.driver_format, "none")
    assert driver.get("discard") == "unmap"
    assert xml.findtext("iotune/read_bytes_sec") == "1000"
    assert xml.findtext("iotune/total_iops_sec") == "5"
    address = xml.find("address")
    assert address is not None
    assert (address.get("controller"), address.get("unit")) == ("0", "7")
    if kind == "qcow2":
        backing = xml.find("backingStore/source")
        assert backing is not None
        assert backing.get("file") == str(backend._settings.cache_directory / "base")


@BOTH
def test_a_disk_without_a_unit_or_limits_leaves_them_to_libvirt(backend: Backend, server: Server, kind: str) -> None:
    disk = backend.by_name(server, "disk", kind, MAPPING)
    xml = _disk_xml(disk.libvirt_info("writeback", None, disk_unit=3))
    assert xml.find("address") is None
    assert xml.find("iotune") is None
    assert xml.find("boot") is None


@BOTH
def test_a_limit_that_is_no_number_is_refused(backend: Backend, server: Server, kind: str) -> None:
    disk = backend.by_name(server, "disk", kind, MAPPING)
    for value in ("fast", -1):
        with pytest.raises(InvalidRequest):
            disk.libvirt_info("none", {"quota:disk_read_iops_sec": value})


def test_a_disk_without_a_place_has_no_xml(backend: Backend, server: Server) -> None:
    with pytest.raises(AttributeError, match="disk_info_mapping"):
        backend.by_name(server, "disk").libvirt_info("none", {})


def test_a_word_that_libvirt_does_not_know_is_refused(backend: Backend, server: Server) -> None:
    disk = backend.by_name(server, "disk", "raw", MAPPING)
    with pytest.raises(InvalidRequest, match="'sometimes' is no cache mode of a disk") as caught:
        disk.libvirt_info("sometimes", {}).to_xml()
    assert "writethrough" in (caught.value.hint or "")
    shown = disk.libvirt_info("none", {})
    shown.target_bus = "isa"
    with pytest.raises(InvalidRequest, match="'isa' is no bus of a disk"):
        shown.to_xml()


def test_native_io_needs_a_cache_mode_without_the_page_cache(tmp_path: Path, server: Server) -> None:
    config = Config(host=HostSection(state=str(tmp_path)), disks=DisksSection(preallocation="falloc"))
    disk = Backend(False, config=config).by_name(server, "disk", "raw", MAPPING)
    assert (disk.preallocate, disk.driver_io) == (True, "native")
    assert disk.libvirt_info("none", {}).driver_io == "native"
    assert disk.libvirt_info("directsync", {}).driver_io == "native"
    for mode in ("writeback", "writethrough", None):
        assert disk.libvirt_info(mode, {}).driver_io == "threads"


@pytest.mark.parametrize(
    ("kind", "given", "expected"), [("flat", None, "loop"), ("qcow2", None, "nbd"), ("flat", "x", "x")]
)
def test_file_systems_of_containers(
    backend: Backend, server: Server, kind: str, given: str | None, expected: str
) -> None:
    disk = backend.by_name(server, "disk", kind)
    config = disk.libvirt_fs_info("/", given)
    assert (config.source_type, config.source_file, config.driver_type) == ("file", disk.path, expected)
    xml = ET.fromstring(config.to_xml())
    driver, target = xml.find("driver"), xml.find("target")
    assert driver is not None
    assert target is not None
    assert (driver.get("type"), driver.get("format"), target.get("dir")) == (expected, disk.driver_format, "/")


def test_a_block_device_is_its_own_file_system(backend: Backend, server: Server) -> None:
    disk = backend.by_name(server, "disk", "raw")
    disk.is_block_dev = True
    xml = ET.fromstring(disk.libvirt_fs_info("/").to_xml())
    source = xml.find("source")
    assert source is not None
    assert (xml.get("type"), source.get("dev")) == ("block", disk.path)


# --- preallocation --------------------------------------------------------------------------------


def test_preallocated_disks_take_their_room(tmp_path: Path, server: Server) -> None:
    config = Config(host=HostSection(state=str(tmp_path)), disks=DisksSection(preallocation="falloc"))
    disk = Backend(False, config=config).by_name(server, "disk", "raw")
    disk.cache(Fetch(), "base", 4 * MiB, image_id="one")
    assert disk._can_fallocate()
    assert os.stat(disk.path).st_blocks * 512 >= 4 * MiB
    assert os.stat(disk.path).st_size == 4 * MiB


def test_disks_of_old_releases_get_their_grown_base_back(backend: Backend, server: Server, tmp_path: Path) -> None:
    """Such a disk has no manifest, and its parent is called <base>_<GiB>."""
    first = backend.by_name(Server(str(uuid.uuid4())), "disk", "qcow2")
    first.cache(Fetch(), "base", image_id="one")
    parent = backend._settings.cache_directory / "base_1"
    path = tmp_path / "instances" / server.uuid / "disk"
    path.parent.mkdir(parents=True)
    qcow2_file(path, GiB)
    with path.open("r+b") as file:
        file.seek(8)
        file.write((512).to_bytes(8, "big") + len(str(parent)).to_bytes(4, "big"))
        file.seek(512)
        file.write(str(parent).encode())
    backend.by_name(server, "disk", "qcow2").create_image(Fetch(), str(parent.with_name("base")), None)
    assert parent.stat().st_size == GiB
    assert parent.read_bytes()[: len(DATA)] == DATA


@pytest.fixture(autouse=True)
def _forget_settings() -> Iterator[None]:
    yield
    imagebackend.settings._settings = None
