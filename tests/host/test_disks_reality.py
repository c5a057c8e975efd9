"""Disks on real file systems, judged by qemu-img; full disks; reflinks; what a blank disk holds."""

from __future__ import annotations

import os
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from cowshed import clock
from cowshed.config import DisksSection
from cowshed.disks import BACKENDS, blank, config_drive, manifest, open_backends
from cowshed.disks.file import FileDisk
from cowshed.errors import Busy, InvalidRequest, NameTaken, NoSpace, SnapshotNotFound, ToolFailed
from cowshed.model.disk import Base, DiskFormat
from cowshed.tools import filesystem, qemu_img, sparse
from cowshed.units import GiB, KiB, MiB

KINDS = pytest.mark.parametrize("kind", sorted(BACKENDS))


def make_disk(place: Path, kind: str, **section: object) -> FileDisk:
    backend = open_backends(place / "instances", DisksSection(**section))[kind]  # type: ignore[arg-type]
    disk = backend.disk(str(uuid.uuid4()), "disk")
    assert isinstance(disk, FileDisk)
    return disk


def make_base(place: Path, data: int = 2 * MiB, size: int = 16 * MiB) -> Base:
    path = place / "base"
    with path.open("wb") as file:
        for position in range(0, data, MiB):
            file.seek(position * 2)
            file.write(os.urandom(MiB))
        file.truncate(size)
        file.flush()
        os.fsync(file.fileno())
    return Base(path, DiskFormat.RAW, size, digest="crc32-2m:aa", image_id="image")


def same(one: Path, format: DiskFormat, other: Path, size: int) -> None:
    """qemu-img finds the same bytes up to the shorter end, and zeros behind it."""
    subprocess.run(
        ["qemu-img", "compare", "-q", "-f", qemu_img.DRIVER[format], "-F", "raw", str(one), str(other)],
        check=True,
        capture_output=True,
    )
    assert qemu_img.info(one, format)["virtual-size"] == size


# --- judged by qemu-img -----------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("how", ["off", "metadata", "falloc", "full"])
@pytest.mark.parametrize("based", [True, False], ids=["base", "blank"])
def test_every_preallocation(tmp_path: Path, kind: str, how: str, based: bool) -> None:
    base = make_base(tmp_path)
    disk = make_disk(tmp_path, kind, preallocation=how)
    disk.create(24 * MiB, base if based else None)
    empty = tmp_path / "empty"
    empty.touch()
    os.truncate(empty, 24 * MiB)
    same(disk.data, disk.format, base.path if based else empty, 24 * MiB)
    if kind == "qcow2":
        qemu_img.check(disk.data, DiskFormat.QCOW2)
    if how in ("falloc", "full"):
        assert disk.info().allocated >= 24 * MiB
    elif not (how == "metadata" and kind == "qcow2"):
        assert disk.info().allocated < 3 * MiB
    disk.resize(40 * MiB)
    assert qemu_img.info(disk.data, disk.format)["virtual-size"] == disk.info().virtual_size == 40 * MiB
    if how in ("falloc", "full"):
        assert disk.info().allocated >= 40 * MiB
    if kind == "qcow2":
        qemu_img.check(disk.data, DiskFormat.QCOW2)


@pytest.mark.parametrize("cluster_size", [512, 4 * KiB, 64 * KiB, 2 * MiB])
def test_every_cluster_size(tmp_path: Path, cluster_size: int) -> None:
    base = make_base(tmp_path)
    disk = make_disk(tmp_path, "qcow2", cluster_size=cluster_size)
    disk.create(64 * MiB, base)
    qemu_img.check(disk.data, DiskFormat.QCOW2)
    assert qemu_img.info(disk.data, DiskFormat.QCOW2)["cluster-size"] == cluster_size
    same(disk.data, DiskFormat.QCOW2, base.path, 64 * MiB)
    disk.resize(GiB)
    qemu_img.check(disk.data, DiskFormat.QCOW2)


@pytest.mark.parametrize("format", [DiskFormat.RAW, DiskFormat.QCOW2])
@KINDS
def test_what_a_guest_wrote_is_extracted(tmp_path: Path, kind: str, format: DiskFormat) -> None:
    base = make_base(tmp_path)
    disk = make_disk(tmp_path, kind)
    disk.create(24 * MiB, base)
    write = ["qemu-io", "-f", disk.format, "-c", "write -P 7 1M 70000", "-c", "write -z 2M 64k", str(disk.data)]
    subprocess.run(write, check=True, capture_output=True)
    disk.extract(tmp_path / "out", format)
    compare = ["qemu-img", "compare", "-q", "-f", disk.format, "-F", format, str(disk.data), str(tmp_path / "out")]
    subprocess.run(compare, check=True, capture_output=True)
    assert b"backing" not in subprocess.check_output(["qemu-img", "info", str(tmp_path / "out")])


def test_a_disk_in_use_does_not_grow_behind_the_guest(tmp_path: Path) -> None:
    disk = make_disk(tmp_path, "qcow2")
    disk.create(16 * MiB)
    with Holder(disk.data) as holder:
        with pytest.raises(Busy):
            disk.resize(32 * MiB)
        assert disk.info().virtual_size == 16 * MiB
        holder.say("truncate 48M")  # as libvirt has QEMU do for a running guest
        deadline = clock.Deadline(30, "qemu-io has grown it")
        clock.poll(lambda: qemu_img.info(disk.data, DiskFormat.QCOW2)["virtual-size"] == 48 * MiB, deadline)
        disk.resize(48 * MiB)  # is written down, and not done again
    assert disk.info().virtual_size == qemu_img.info(disk.data, DiskFormat.QCOW2)["virtual-size"] == 48 * MiB


class Holder:
    """qemu-io with the image open, as a guest would have it."""

    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            ["qemu-io", "-f", "qcow2", str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self.say("read 0 512", "read 512/512")

    def say(self, words: str, answer: str = "") -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(words.encode() + b"\n")
        while answer and answer.encode() not in (line := self.process.stdout.readline()):
            assert line, "qemu-io ended"

    def __enter__(self) -> Holder:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()


def test_internal_snapshots_of_others_are_left_alone(tmp_path: Path) -> None:
    disk = make_disk(tmp_path, "qcow2")
    disk.create(16 * MiB)
    for name in ("one", "1", "two"):  # as virsh and qemu-img make them
        subprocess.run(["qemu-img", "snapshot", "-c", name, str(disk.data)], check=True)
    disk.take("one")
    disk.take("1")
    disk.roll_back("1")
    disk.remove("one")
    disk.remove("1")
    assert list(disk.snapshots()) == []
    found = qemu_img.info(disk.data, DiskFormat.QCOW2)["snapshots"]
    assert [snapshot["name"] for snapshot in found] == ["one", "1", "two"]
    qemu_img.check(disk.data, DiskFormat.QCOW2)


def test_a_snapshot_that_others_have_removed_does_not_take_the_disk_along(tmp_path: Path) -> None:
    disk = make_disk(tmp_path, "qcow2")
    disk.create(16 * MiB)
    disk.take("one")
    subprocess.run(["qemu-img", "snapshot", "-d", "cowshed:one", str(disk.data)], check=True)
    with pytest.raises(SnapshotNotFound, match="one"):
        disk.roll_back("one")
    assert disk.info().virtual_size == 16 * MiB
    disk.remove("one")
    assert list(disk.snapshots()) == []


# --- blank and config drive -------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("filesystem_type", ["swap", "ext4", "vfat"])
def test_blank_disks_have_file_system_and_label(tmp_path: Path, kind: str, filesystem_type: str) -> None:
    disk = make_disk(tmp_path, kind)
    blank.create(disk, 64 * MiB, filesystem_type=filesystem_type, label="ephemeral0", place=tmp_path)
    disk.extract(tmp_path / "out", DiskFormat.RAW)
    found = subprocess.check_output(["blkid", "-p", "-o", "export", tmp_path / "out"])
    assert f"TYPE={filesystem_type}\n".encode() in found
    assert b"LABEL=ephemeral0\n" in found
    assert sorted(os.listdir(disk.directory)) == ["disk", "manifest.json"]
    assert disk.info().virtual_size == 64 * MiB
    with pytest.raises(NameTaken):
        blank.create(disk, 64 * MiB, filesystem_type=filesystem_type, place=tmp_path)


@KINDS
def test_preallocated_blank_disks(tmp_path: Path, kind: str) -> None:
    disk = make_disk(tmp_path, kind, preallocation="falloc")
    blank.create(disk, 32 * MiB, filesystem_type="ext4", place=tmp_path)
    assert disk.info().allocated >= 32 * MiB


@KINDS
def test_blank_disks_that_cannot_be(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = make_disk(tmp_path, kind)
    with pytest.raises(InvalidRequest):
        blank.create(disk, 64 * MiB, filesystem_type="ntfs", place=tmp_path)
    assert not disk.directory.exists()
    fake = tmp_path / "mkfs.ext4"
    fake.write_text("#!/bin/sh\necho broken >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("COWSHED_PATH", str(tmp_path))
    with pytest.raises(ToolFailed, match="broken"):
        blank.create(disk, 64 * MiB, filesystem_type="ext4", place=tmp_path)
    assert not disk.directory.exists()
    monkeypatch.delenv("COWSHED_PATH")
    blank.create(disk, 64 * MiB, filesystem_type="ext4", place=tmp_path)


def test_a_config_drive_is_replaced_and_read_by_nobody_else(tmp_path: Path) -> None:
    disk = make_disk(tmp_path, "raw")
    config_drive.create(disk, {"user-data": b"old"}, "cidata")
    config_drive.create(disk, {"user-data": b"new", "openstack/latest/meta_data.json": b"{}"}, "config-2")
    assert disk.data.stat().st_mode & 0o777 == 0o600
    read = subprocess.run(["isoinfo", "-J", "-x", "/user-data", "-i", disk.data], capture_output=True, check=True)
    assert read.stdout == b"new"
    assert disk.source().format == DiskFormat.RAW
    assert disk.info().virtual_size == disk.data.stat().st_size


# --- file systems -----------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "size"), [("xfs", "320M"), ("btrfs", "256M")])
def test_raw_disks_share_the_blocks_of_their_base(loopfs: object, kind: str, size: str) -> None:
    place: Path = loopfs(kind, size)  # type: ignore[operator]
    base = make_base(place, data=64 * MiB, size=256 * MiB)
    backend = open_backends(place / "instances", DisksSection())["raw"]
    assert backend.traits.instant_clone
    free = filesystem.free_space(place)
    disks = []
    for _ in range(6):  # six copies of 64 MiB would not fit
        disk = backend.disk(str(uuid.uuid4()), "disk")
        disk.create(512 * MiB, base)
        disks.append(disk)
    os.sync()
    assert free - filesystem.free_space(place) < 24 * MiB
    for disk in disks[:2]:
        same(disk.source().path, DiskFormat.RAW, base.path, 512 * MiB)  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "shares"), [("ext4", False), ("xfs", True), ("btrfs", True)])
def test_the_trait_says_what_is_true_here(loopfs: object, kind: str, shares: bool) -> None:
    place: Path = loopfs(kind, "320M")  # type: ignore[operator]
    assert open_backends(place / "instances", DisksSection())["raw"].traits.instant_clone is shares
    disk = make_disk(place, "raw")
    base = make_base(place, data=8 * MiB, size=64 * MiB)
    disk.create(128 * MiB, base)
    same(disk.data, DiskFormat.RAW, base.path, 128 * MiB)
    assert sorted(os.listdir(disk.directory)) == ["disk", "manifest.json"]


def test_a_raw_disk_from_another_file_system_is_copied(loopfs: object, tmp_path: Path) -> None:
    place: Path = loopfs("xfs", "320M")  # type: ignore[operator]
    base = make_base(tmp_path)
    disk = make_disk(place, "raw")
    disk.create(64 * MiB, base)
    same(disk.data, DiskFormat.RAW, base.path, 64 * MiB)
    assert disk.info().allocated < 4 * MiB


def test_preallocated_raw_disks_are_not_shared(loopfs: object) -> None:
    """A guest that writes over a shared block needs a new one, which may not be there."""
    place: Path = loopfs("xfs", "400M")  # type: ignore[operator]
    base = make_base(place, data=32 * MiB, size=64 * MiB)
    free = filesystem.free_space(place)
    make_disk(place, "raw", preallocation="falloc").create(64 * MiB, base)
    os.sync()
    assert free - filesystem.free_space(place) >= 64 * MiB


# --- full -------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    if os.geteuid() != 0:
        pytest.skip("needs root: mounts a file system")
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8M", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@KINDS
@pytest.mark.parametrize("how", ["off", "falloc", "full"])
def test_too_little_space_is_refused_and_nothing_stays(small: Path, tmp_path: Path, kind: str, how: str) -> None:
    base = make_base(tmp_path, data=12 * MiB, size=32 * MiB)
    disk = make_disk(small, kind, preallocation=how)
    free = filesystem.free_space(small)
    if kind == "qcow2" and how == "off":
        disk.create(32 * MiB, base)  # it needs none of the base's room
        return
    with pytest.raises(NoSpace) as caught:
        disk.create(32 * MiB, base)
    assert caught.value.needed >= 12 * MiB
    assert abs(free - filesystem.free_space(small)) <= 64 * KiB
    assert not disk.directory.exists()


@KINDS
def test_space_that_runs_out_in_the_middle(small: Path, tmp_path: Path, kind: str) -> None:
    """At each of twenty fillings either the disk is whole, or nothing of it is there and a retry works."""
    base = make_base(tmp_path, data=2 * MiB, size=16 * MiB)
    made = 0
    for step in range(20):
        disk = make_disk(small, kind)
        disk.directory.mkdir(parents=True)
        filler = small / "filler"
        keep = step * 128 * KiB
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(filesystem.free_space(small) - keep, 4096))
        free = filesystem.free_space(small)
        try:
            disk.create(16 * MiB, base)
            made += 1
        except NoSpace:
            assert not disk.exists()
            assert [name for name in os.listdir(disk.directory) if name != manifest.FILE] == []
            assert abs(free - filesystem.free_space(small)) <= 64 * KiB
            filler.unlink()
            disk.create(16 * MiB, base)
        same(disk.data, disk.format, base.path, 16 * MiB)
        disk.delete()
        filler.unlink(missing_ok=True)
    assert 0 < made < 20


def test_a_blank_disk_that_does_not_fit(small: Path) -> None:
    disk = make_disk(small, "raw")
    with (small / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, filesystem.free_space(small) - 64 * KiB)
    with pytest.raises(NoSpace):
        blank.create(disk, 512 * MiB, filesystem_type="ext4", place=small)
    assert not disk.directory.exists()


def test_an_extract_that_does_not_fit(small: Path, tmp_path: Path) -> None:
    disk = make_disk(tmp_path, "qcow2")
    disk.create(64 * MiB, make_base(tmp_path, data=16 * MiB, size=32 * MiB))
    for wanted in (DiskFormat.RAW, DiskFormat.QCOW2):
        with pytest.raises(NoSpace):
            disk.extract(small / "out", wanted)
        assert os.listdir(small) == []


# --- speed, loosely ---------------------------------------------------------------------------


def test_an_overlay_starts_no_process_and_writes_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_base(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    before = threading.active_count()
    times = []
    for _ in range(20):
        disk = make_disk(tmp_path, "qcow2")
        filesystem.make_directory(disk.directory)
        begin = time.perf_counter()
        disk.create(100 * GiB, base)
        times.append(time.perf_counter() - begin)
        written = sum(sparse.allocated(path) for path in disk.directory.iterdir())
        assert written <= 256 * KiB
    assert threading.active_count() == before
    assert min(times) < 0.02  # a busy machine; bench measures the rest
