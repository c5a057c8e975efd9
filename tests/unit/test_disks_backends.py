"""raw and qcow2 disks: one set of promises, both backends. Content is read back without tools."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from cowshed.config import DisksSection
from cowshed.contract.storage import Backend
from cowshed.disks import BACKENDS, manifest, open_backends
from cowshed.disks.file import FileBackend, FileDisk
from cowshed.errors import (
    DataCorrupt,
    DiskNotFound,
    DiskTooSmall,
    InvalidRequest,
    NameTaken,
    NoSpace,
    NotFound,
    OperatorError,
    PermissionDenied,
)
from cowshed.model.disk import Base, DiskFormat, DiskType
from cowshed.tools import filesystem, qemu_img, sparse
from cowshed.units import GiB, MiB

DATA = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture(params=sorted(BACKENDS))
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    return open_backends(tmp_path / "instances", DisksSection())[request.param]


@pytest.fixture
def base(tmp_path: Path) -> Base:
    path = tmp_path / "base"
    with path.open("wb") as file:
        file.write(DATA)
        file.truncate(8 * MiB)
    path.chmod(0o444)
    return Base(path, DiskFormat.RAW, 8 * MiB, digest="crc32-2m:aa", image_id="debian")


@pytest.fixture
def disk(backend: FileBackend) -> FileDisk:
    return backend.disk(str(uuid.uuid4()), "disk")


def content(disk: FileDisk, tmp_path: Path) -> bytes:
    target = tmp_path / f"content-{uuid.uuid4()}"
    disk.extract(target, DiskFormat.RAW)
    return target.read_bytes()


def left(disk: FileDisk) -> list[str]:
    return sorted(os.listdir(disk.directory)) if disk.directory.exists() else []


# --- create -----------------------------------------------------------------------------------


def test_a_handle_does_nothing_by_itself(backend: Backend, disk: FileDisk) -> None:
    assert not disk.exists()
    assert not disk.directory.parent.exists()


def test_a_disk_from_a_base_is_the_base_and_more(backend: Backend, disk: FileDisk, base: Base, tmp_path: Path) -> None:
    disk.create(16 * MiB, base)
    assert disk.exists()
    assert content(disk, tmp_path) == DATA + bytes(15 * MiB)
    info = disk.info()
    assert info.virtual_size == 16 * MiB
    assert info.format == disk.format == backend.traits.disk_format
    assert stat.S_IMODE(disk.data.stat().st_mode) == 0o600
    assert left(disk) == ["disk", "manifest.json"]


def test_size_none_is_the_size_of_the_base(disk: FileDisk, base: Base) -> None:
    disk.create(0, base)
    assert disk.info().virtual_size == base.virtual_size


def test_a_blank_disk_is_zero_and_takes_no_room(disk: FileDisk, tmp_path: Path) -> None:
    disk.create(32 * MiB)
    assert content(disk, tmp_path) == bytes(32 * MiB)
    assert disk.info().allocated < MiB


def test_sizes_are_whole_sectors(disk: FileDisk) -> None:
    disk.create(MiB + 1)
    assert disk.info().virtual_size == MiB + 512


def test_what_is_created_is_written_down(disk: FileDisk, base: Base) -> None:
    disk.create(GiB, base)
    entry = manifest.require(disk.directory, "disk")
    assert (entry.backend, entry.format, entry.virtual_size) == (disk.backend, disk.format, GiB)
    assert (entry.base_digest, entry.image_id) == ("crc32-2m:aa", "debian")


def test_the_source_names_every_format(backend: Backend, disk: FileDisk, base: Base) -> None:
    disk.create(GiB, base)
    source = disk.source()
    assert (source.type, source.format, source.path) == (DiskType.FILE, disk.format, disk.data)
    if backend.name == "qcow2":
        assert source.backing is not None
        assert (source.backing.path, source.backing.format, source.backing.backing) == (base.path, "raw", None)
    else:
        assert source.backing is None
        assert manifest.require(disk.directory, "disk").base_path is None  # the base may go


def test_a_disk_smaller_than_its_base_is_refused_before_anything_is_made(disk: FileDisk, base: Base) -> None:
    with pytest.raises(DiskTooSmall) as caught:
        disk.create(4 * MiB, base)
    assert (caught.value.size, caught.value.needed) == (4 * MiB, 8 * MiB)
    assert not disk.directory.exists()


@pytest.mark.parametrize("size", [0, -1])
def test_a_disk_needs_a_size(disk: FileDisk, size: int) -> None:
    with pytest.raises(InvalidRequest):
        disk.create(size)
    assert not disk.directory.exists()


def test_a_disk_that_is_there_is_left_as_it_is(disk: FileDisk, base: Base) -> None:
    disk.create(0, base)
    disk.data.write_bytes(b"the guest's")
    entry = manifest.require(disk.directory, "disk")
    with pytest.raises(NameTaken):
        disk.create(GiB)
    assert disk.data.read_bytes() == b"the guest's"
    assert manifest.require(disk.directory, "disk") == entry


def test_a_base_that_is_gone(disk: FileDisk, base: Base) -> None:
    base.path.unlink()
    with pytest.raises(NotFound):
        disk.create(GiB, base)
    assert not disk.exists()
    assert left(disk) == []


def test_a_base_in_a_format_that_cannot_be_one(disk: FileDisk, base: Base) -> None:
    strange = Base(base.path, DiskFormat.AKI, base.virtual_size)
    with pytest.raises(InvalidRequest):
        disk.create(GiB, strange)
    assert not disk.directory.exists()


def test_the_base_is_never_written(disk: FileDisk, base: Base) -> None:
    before = (base.path.read_bytes(), base.path.stat().st_mtime_ns)
    disk.create(GiB, base)
    disk.resize(2 * GiB)
    disk.delete()
    assert (base.path.read_bytes(), base.path.stat().st_mtime_ns) == before


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", ".hidden", "manifest.json", "x\n", "x y", "a" * 129])
def test_names_that_cannot_be(backend: Backend, name: str) -> None:
    with pytest.raises(InvalidRequest):
        backend.disk(str(uuid.uuid4()), name)
    if name != "manifest.json":
        with pytest.raises(InvalidRequest):
            backend.disk(name, "disk")


@pytest.mark.parametrize("name", ["disk", "disk.local", "disk.eph0", "disk.swap", "disk.config.rescue", "kernel"])
def test_the_classic_names(backend: Backend, name: str) -> None:
    assert backend.disk(str(uuid.uuid4()), name).name == name


# --- failure and retry ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "number", "kind"),
    [
        ("fsync", errno.EIO, OperatorError),
        ("fsync", errno.ENOSPC, NoSpace),
        ("ftruncate", errno.ENOSPC, NoSpace),
        ("link", errno.EIO, OperatorError),
        ("rename", errno.EIO, OperatorError),
        ("pwrite", errno.ENOSPC, NoSpace),
        ("open", errno.EACCES, PermissionDenied),
    ],
)
def test_each_call_may_fail_and_nothing_is_left(
    disk: FileDisk, base: Base, tmp_path: Path, call: str, number: int, kind: type[Exception]
) -> None:
    """Fail the first, second, ... such call until there is none left to fail; then the disk is there."""
    real = getattr(os, call)
    made = 0
    for failing in range(20):
        calls = 0

        def fail(*args: object, **more: object) -> object:
            nonlocal calls
            calls += 1
            if calls == failing + 1:  # noqa: B023
                raise OSError(number, os.strerror(number))
            return real(*args, **more)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, call, fail)
            try:
                disk.create(16 * MiB, base)
                made += 1
            except kind:
                assert calls > failing
        if made:
            break
        assert not disk.exists()
        assert not disk.directory.exists()
    assert made == 1
    assert failing > 0  # at least one failure was tried
    assert content(disk, tmp_path)[: len(DATA)] == DATA


def test_an_interruption_leaves_nothing_and_a_retry_works(
    disk: FileDisk, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sparse, "start_writing", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            disk.create(GiB, base)
    assert not disk.directory.exists()
    disk.create(16 * MiB, base)
    assert content(disk, tmp_path)[: len(DATA)] == DATA


def test_two_creators_of_one_disk(backend: FileBackend, base: Base, tmp_path: Path) -> None:
    for _ in range(20):
        instance = str(uuid.uuid4())
        results: list[object] = []
        start = threading.Barrier(4)

        def work(size: int) -> None:
            start.wait()  # noqa: B023
            try:
                backend.disk(instance, "disk").create(size, base)  # noqa: B023
                results.append(size)  # noqa: B023
            except NameTaken as error:
                results.append(error)  # noqa: B023

        threads = [threading.Thread(target=work, args=(number * GiB,)) for number in (1, 2, 3, 4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (winner,) = [result for result in results if isinstance(result, int)]
        disk = backend.disk(instance, "disk")
        assert disk.info().virtual_size == winner  # the record is the winner's, not the last one's
        assert left(disk) == ["disk", "manifest.json"]


def test_disks_of_one_instance_at_once(backend: FileBackend, base: Base) -> None:
    instance = str(uuid.uuid4())
    threads = [
        threading.Thread(target=backend.disk(instance, f"disk.eph{number}").create, args=(GiB, base))
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(disk.name for disk in backend.disks(instance)) == [f"disk.eph{number}" for number in range(8)]


# --- resize -----------------------------------------------------------------------------------


def test_growing_a_disk_of_a_kind_that_is_not_shrunk(disk: FileDisk, base: Base) -> None:
    disk.create(GiB, base)
    with pytest.raises(DiskTooSmall):
        disk.resize(GiB - 512)
    disk.resize(GiB)
    assert disk.info().virtual_size == GiB


def test_growing_what_is_not_there(disk: FileDisk) -> None:
    with pytest.raises(DiskNotFound):
        disk.resize(GiB)
    assert not disk.directory.exists()


def test_raw_grows_and_keeps_its_bytes(tmp_path: Path, base: Base) -> None:
    disk = open_backends(tmp_path / "instances", DisksSection())["raw"].disk(str(uuid.uuid4()), "disk")
    assert isinstance(disk, FileDisk)
    disk.create(0, base)
    disk.resize(64 * MiB)
    assert disk.data.stat().st_size == disk.info().virtual_size == 64 * MiB
    assert content(disk, tmp_path)[: 8 * MiB] == base.path.read_bytes()


def test_raw_that_cannot_grow_stays_as_it_was(tmp_path: Path, base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = open_backends(tmp_path / "i", DisksSection(preallocation="falloc"))["raw"].disk(str(uuid.uuid4()), "disk")
    assert isinstance(disk, FileDisk)
    disk.create(0, base)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(NoSpace):
        disk.resize(64 * MiB)
    assert disk.data.stat().st_size == disk.info().virtual_size == 8 * MiB


# --- preallocation ----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["falloc", "full"])
def test_preallocated_raw_disks_have_all_their_blocks(tmp_path: Path, base: Base, how: str) -> None:
    disk = open_backends(tmp_path / "i", DisksSection(preallocation=how))["raw"].disk(str(uuid.uuid4()), "disk")
    assert isinstance(disk, FileDisk)
    disk.create(16 * MiB, base)
    assert disk.info().allocated >= 16 * MiB
    assert content(disk, tmp_path) == DATA + bytes(15 * MiB)
    disk.resize(24 * MiB)
    assert disk.info().allocated >= 24 * MiB


@pytest.mark.parametrize("kind", sorted(BACKENDS))
@pytest.mark.parametrize("how", ["falloc", "full"])
def test_preallocation_is_refused_when_there_is_no_room(tmp_path: Path, base: Base, kind: str, how: str) -> None:
    disk = open_backends(tmp_path / "i", DisksSection(preallocation=how))[kind].disk(str(uuid.uuid4()), "disk")
    assert isinstance(disk, FileDisk)
    for parent in (None, base):
        with pytest.raises(NoSpace) as caught:
            disk.create(1 << 50, parent)
        assert caught.value.needed >= 1 << 49
        assert not disk.directory.exists()


def test_a_preallocated_overlay_keeps_blocks_and_still_shows_its_base(tmp_path: Path, base: Base) -> None:
    disk = open_backends(tmp_path / "i", DisksSection(preallocation="falloc"))["qcow2"].disk(str(uuid.uuid4()), "disk")
    assert isinstance(disk, FileDisk)
    disk.create(16 * MiB, base)
    assert disk.info().allocated >= 16 * MiB
    assert content(disk, tmp_path) == DATA + bytes(15 * MiB)


# --- the record -------------------------------------------------------------------------------


def test_guest_bytes_decide_nothing(tmp_path: Path, base: Base) -> None:
    """A guest writes a qcow2 header that names a host file into its raw disk: it stays raw and its size."""
    from cowshed.tools.qcow2 import create_overlay

    secret = tmp_path / "secret"
    secret.write_bytes(b"root:x:0:0" + bytes(502))
    disk = open_backends(tmp_path / "i", DisksSection())["raw"].disk(str(uuid.uuid4()), "disk")
    assert isinstance(disk, FileDisk)
    disk.create(8 * MiB, base)
    fd = os.open(disk.data, os.O_RDWR)
    create_overlay(fd, size=GiB, backing_path=secret, backing_format=DiskFormat.RAW)
    os.ftruncate(fd, 8 * MiB)
    os.close(fd)
    assert disk.info().format == DiskFormat.RAW
    assert disk.info().virtual_size == 8 * MiB
    assert disk.source().backing is None
    disk.resize(16 * MiB)
    assert disk.data.stat().st_size == 16 * MiB
    data = content(disk, tmp_path)
    assert data.startswith(b"QFI\xfb")
    assert b"root:x" not in data


def test_a_missing_record_stops_everything_but_deletes_nothing(disk: FileDisk, base: Base, tmp_path: Path) -> None:
    disk.create(GiB, base)
    (disk.directory / manifest.FILE).unlink()
    for call in (disk.info, disk.source, lambda: disk.resize(2 * GiB)):
        with pytest.raises(DataCorrupt):
            call()
    with pytest.raises(DataCorrupt):
        disk.extract(tmp_path / "out", DiskFormat.RAW)
    with pytest.raises(NameTaken):
        disk.create(GiB, base)
    assert disk.data.exists()
    assert not (tmp_path / "out").exists()


def test_a_record_without_a_file_means_nothing(backend: FileBackend, disk: FileDisk, base: Base) -> None:
    disk.create(GiB, base)
    shutil.rmtree(disk.path) if disk.path.is_dir() else disk.path.unlink()
    assert not disk.exists()
    assert backend.disks(disk.instance) == []
    with pytest.raises(DiskNotFound):
        disk.info()
    disk.create(2 * GiB, base)  # what a crash between record and name leaves is no obstacle
    assert disk.info().virtual_size == 2 * GiB


def test_another_configuration_does_not_change_a_disk(tmp_path: Path, base: Base) -> None:
    instance = str(uuid.uuid4())
    open_backends(tmp_path / "i", DisksSection())["qcow2"].disk(instance, "disk").create(GiB, base)
    later = open_backends(tmp_path / "i", DisksSection(backend="raw", cluster_size=1 << 20, preallocation="full"))
    assert later["raw"].disk(instance, "disk").source().format == DiskFormat.QCOW2
    assert later["raw"].disks(instance) == []
    assert [disk.name for disk in later["qcow2"].disks(instance)] == ["disk"]


# --- delete -----------------------------------------------------------------------------------


def test_deleting_twice_and_what_was_never_there(disk: FileDisk, base: Base) -> None:
    disk.delete()
    assert not disk.directory.exists()
    disk.create(GiB, base)
    disk.delete()
    disk.delete()
    assert not disk.exists()
    assert manifest.load(disk.directory).disks == {}
    disk.create(GiB, base)
    assert disk.exists()


def test_deleting_one_disk_leaves_the_others(backend: FileBackend, disk: FileDisk, base: Base) -> None:
    disk.create(GiB, base)
    other = backend.disk(disk.instance, "disk.local")
    other.create(GiB)
    disk.delete()
    assert [found.name for found in backend.disks(disk.instance)] == ["disk.local"]
    assert other.info().virtual_size == GiB


def test_a_half_deleted_disk_is_deleted(disk: FileDisk, base: Base) -> None:
    disk.create(GiB, base)
    disk.data.unlink()
    disk.delete()
    assert manifest.load(disk.directory).disks == {}


def test_a_large_disk_that_is_written_in_full_gets_the_time_that_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []

    def run(command: list[str], *, timeout: float, **_: object) -> None:
        given.append(timeout)

    monkeypatch.setattr(filesystem, "check_space", lambda *_: None)
    monkeypatch.setattr(sparse, "reserve", lambda *_: None)
    made = open_backends(tmp_path / "instances", DisksSection())["qcow2"].disk(str(uuid.uuid4()), "disk")
    made.create(GiB)
    monkeypatch.setattr(qemu_img, "run", run)
    full = open_backends(tmp_path / "instances", DisksSection(preallocation="full"))["qcow2"]
    full.disk(made.instance, "disk").resize(1024 * GiB)
    full.disk(made.instance, "other").create(1024 * GiB)
    assert len(given) == 2
    assert min(given) > 1024 * GiB / (50 * MiB)  # a disk of the slower kind


def test_what_a_killed_create_left_under_a_name_goes_in_time(
    backend: FileBackend, disk: FileDisk, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the file system knows no files without a name."""
    monkeypatch.setattr(filesystem, "_open_unnamed", lambda *_: None)

    def killed(*_: object, **__: object) -> None:
        os._exit(9)

    if (child := os.fork()) == 0:
        sparse.start_writing = killed
        disk.create(16 * MiB, base)
    os.waitpid(child, 0)
    parts = list(disk.directory.rglob("*.part"))
    assert parts
    disk.create(16 * MiB, base)
    backend.clean()
    if disk.backend != "ploop":  # whose folders say by a lock that nobody makes them any more
        assert all(path.exists() for path in parts)
    for path in parts:
        if path.exists():
            os.utime(path, (0, 0))
    backend.clean()
    assert [path for path in parts if path.exists()] == []
    assert disk.info().virtual_size == 16 * MiB


# --- import, extract, place -------------------------------------------------------------------


def test_a_finished_file_is_taken_over(disk: FileDisk, tmp_path: Path) -> None:
    path = tmp_path / "finished"
    path.write_bytes(DATA)
    disk.import_file(path)
    assert not path.exists()
    assert content(disk, tmp_path) == DATA
    assert stat.S_IMODE(disk.data.stat().st_mode) == 0o600
    assert disk.info().virtual_size == MiB
    path.write_bytes(b"x" * 512)
    with pytest.raises(NameTaken):
        disk.import_file(path)
    assert path.exists()


def test_the_end_of_a_file_that_ends_inside_a_sector_is_not_cut_off(disk: FileDisk, tmp_path: Path) -> None:
    from cowshed.tools.qcow2 import read_header

    path = tmp_path / "finished"
    path.write_bytes(b"x" * 1000)
    disk.import_file(path)
    assert content(disk, tmp_path) == b"x" * 1000 + bytes(24)
    assert disk.info().virtual_size == 1024
    if disk.format == DiskFormat.QCOW2:  # QEMU shows whole sectors only
        with disk.data.open("rb") as file:
            assert read_header(file.fileno()).size == 1024


def test_an_import_of_nothing(disk: FileDisk, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        disk.import_file(tmp_path / "nothing")
    assert not disk.exists()


@pytest.mark.parametrize("compress", [False, True])
def test_extract_to_qcow2_stands_alone(disk: FileDisk, base: Base, tmp_path: Path, compress: bool) -> None:
    from cowshed.tools.qcow2 import read_header

    disk.create(16 * MiB, base)
    disk.extract(tmp_path / "out", DiskFormat.QCOW2, compress=compress)
    with (tmp_path / "out").open("rb") as file:
        header = read_header(file.fileno())
    assert (header.size, header.backing) == (16 * MiB, None)


def test_extract_refuses_what_it_cannot_write(disk: FileDisk, base: Base, tmp_path: Path) -> None:
    disk.create(GiB, base)
    (tmp_path / "taken").write_text("x")
    with pytest.raises(NameTaken):
        disk.extract(tmp_path / "taken", DiskFormat.RAW)
    for wanted, compress in ((DiskFormat.ISO, False), (DiskFormat.RAW, True)):
        with pytest.raises(InvalidRequest):
            disk.extract(tmp_path / "out", wanted, compress=compress)
    assert (tmp_path / "taken").read_text() == "x"
    assert not (tmp_path / "out").exists()


def test_extract_of_what_is_not_there(disk: FileDisk, tmp_path: Path) -> None:
    with pytest.raises(DiskNotFound):
        disk.extract(tmp_path / "out", DiskFormat.RAW)
    assert not (tmp_path / "out").exists()


def test_capacity_is_that_of_the_place(backend: Backend, tmp_path: Path) -> None:
    capacity = backend.capacity()
    facts = os.statvfs(tmp_path)
    assert capacity.total == facts.f_blocks * facts.f_frsize
    assert 0 < capacity.free <= capacity.total
    assert 0 <= capacity.used <= capacity.total


def test_traits_say_who_it_is(backend: Backend) -> None:
    assert backend.traits.name == backend.name
    assert backend.traits.base_format == DiskFormat.RAW
    assert backend.traits.instant_clone or backend.name in ("raw", "ploop")


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Iterator[None]:
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) <= len(before)
