"""ploop disks judged by QEMU and by the ploop tools; crashes, broken descriptors, cut files."""

from __future__ import annotations

import os
import signal
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from cowshed.config import DisksSection
from cowshed.disks.ploop import PloopBackend, PloopDisk
from cowshed.errors import Busy, CowshedError, DataCorrupt, OperatorError
from cowshed.model.disk import Base, DiskFormat
from cowshed.tools import filesystem, ploop
from cowshed.units import GiB, MiB
from tests.conftest import LoopFs
from tests.extents import exclusive

FORMATS = pytest.mark.parametrize("format", ["raw", "expanded"])
DRIVER = {DiskFormat.RAW: "raw", DiskFormat.PLOOP: "parallels"}


def make(place: Path, format: str, **section: str) -> PloopDisk:
    backend = PloopBackend(place / "instances", DisksSection(ploop_format=format, **section))  # type: ignore[arg-type]
    disk = backend.disk(str(uuid.uuid4()), "disk")
    assert isinstance(disk, PloopDisk)
    return disk


def make_base(place: Path, data: int = 3 * MiB, size: int = 16 * MiB) -> Base:
    path = place / "base"
    path.write_bytes(os.urandom(data))
    os.truncate(path, size)
    return Base(path, DiskFormat.RAW, size)


# For whoever is not root: the tool locks a file in a directory that is root's alone, here one of his own lies over it.
OWN_LOCKS = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec"]
OWN_LOCKS += ['mount -t tmpfs tmpfs /var/lock/ploop; exec "$@"', "sh"]


def tool(*words: object) -> str:
    command = [*(OWN_LOCKS if os.geteuid() else []), "ploop", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"ploop {' '.join(map(str, words))}: {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout


def qemu(disk: PloopDisk, *commands: str) -> None:
    words = [word for command in commands for word in ("-c", command)]
    subprocess.run(["qemu-io", "-f", DRIVER[disk.format], *words, str(disk.data)], check=True, capture_output=True)


def same(disk: PloopDisk, base: Base) -> None:
    words = ["qemu-img", "compare", "-q", "-f", DRIVER[disk.format], "-F", "raw", str(disk.data), str(base.path)]
    subprocess.run(words, check=True, capture_output=True)


@pytest.mark.parametrize("preallocation", ["off", "falloc", "full"])
def test_the_tools_accept_what_we_make_and_grow(tmp_path: Path, preallocation: str) -> None:
    base = make_base(tmp_path)
    disk = make(tmp_path, "expanded", preallocation=preallocation)
    disk.create(64 * MiB, base)
    same(disk, base)
    described = disk.path / ploop.FILE
    assert str(64 * MiB // 512) in tool("info", "-s", "-d", described)
    assert "root.hds" in tool("snapshot-list", described)
    sparse = ["--repair-sparse"] if preallocation == "falloc" else []  # blocks that were never written
    tool("check", "--check", *sparse, disk.data)
    disk.resize(128 * MiB)
    tool("check", "--check", *sparse, disk.data)
    tool("check", described)
    assert str(128 * MiB // 512) in tool("info", "-s", "-d", described)
    same(disk, base)
    qemu(disk, "write -P 7 100M 2M")
    tool("check", "--force", disk.data)
    qemu(disk, "read -P 7 100M 2M")


def test_the_tools_accept_a_raw_one(tmp_path: Path) -> None:
    disk = make(tmp_path, "raw")
    disk.create(64 * MiB, make_base(tmp_path))
    assert "root.hds" in tool("snapshot-list", disk.path / ploop.FILE)


def test_a_chain_that_the_tools_made_is_refused_until_it_is_merged(tmp_path: Path) -> None:
    base, disk = make_base(tmp_path), make(tmp_path, "expanded")
    disk.create(64 * MiB, base)
    tool("snapshot", disk.path / ploop.FILE)
    with pytest.raises(DataCorrupt, match="merge them first"):
        disk.activate()
    with pytest.raises(DataCorrupt, match="merge them first"):
        disk.source()
    tool("snapshot-merge", "-A", disk.path / ploop.FILE)
    names = sorted(name for name in os.listdir(disk.path) if name.startswith("root"))
    if names == ["root.hds"]:
        disk.activate()
        same(disk, base)


def test_an_image_of_the_tools_is_a_base(tmp_path: Path) -> None:
    made = make(tmp_path, "expanded")
    made.create(32 * MiB, make_base(tmp_path))
    base = Base(made.data, DiskFormat.PLOOP, 32 * MiB)
    for kind in ("raw", "expanded"):
        disk = make(tmp_path, kind)
        disk.create(48 * MiB, base)
        same(disk, make_base_of(tmp_path))
        assert disk.info().virtual_size == 48 * MiB
    with pytest.raises(CowshedError):
        make(tmp_path, "expanded").create(64 * MiB, Base(made.data, DiskFormat.PLOOP, 16 * MiB))


def make_base_of(place: Path) -> Base:
    return Base(place / "base", DiskFormat.RAW, 16 * MiB)


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
@FORMATS
def test_a_clone_shares_every_block(kind: str, format: str, loopfs: LoopFs) -> None:
    """The same for an image of 64 MiB and one of 40 GiB with as much data in it."""
    place = loopfs(kind, size="400M")
    taken = {}
    for size in (64 * MiB, 40 * GiB):
        base = make_base(place, data=32 * MiB, size=size)
        disk = make(place, format)
        disk.create(size, base)
        taken[size] = exclusive(disk.data)
        if size > GiB:  # QEMU would read 40 GiB of nothing
            disk.delete()
            continue
        same(disk, base)
        disk.take("one")
        assert exclusive(disk.data) <= taken[size]
        qemu(disk, "write -P 7 1M 1M")
        disk.roll_back("one")
        same(disk, base)
        if format == "expanded":
            tool("check", "--repair-sparse", disk.data)
        disk.delete()
    assert max(taken.values()) <= MiB


def test_a_killed_qemu_is_repaired_unless_another_runs(tmp_path: Path) -> None:
    base, disk = make_base(tmp_path), make(tmp_path, "expanded")
    disk.create(64 * MiB, base)
    with Opened(disk) as first:
        first.kill()
    assert mark(disk)
    with pytest.raises(subprocess.CalledProcessError):  # QEMU will not write to it
        qemu(disk, "write 0 512")
    disk.activate()
    assert not mark(disk)
    same(disk, base)
    with Opened(disk):
        assert mark(disk)
        before = disk.data.stat().st_size
        disk.activate()
        assert mark(disk)
        assert disk.data.stat().st_size == before
        for call in (lambda: disk.resize(128 * MiB), lambda: disk.take("one")):
            with pytest.raises(Busy):
                call()
    disk.resize(128 * MiB)


class Opened:
    """qemu-io with the disk open for writing."""

    def __init__(self, disk: PloopDisk) -> None:
        words = ["qemu-io", "-f", "parallels", str(disk.data)]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"write -z 15M 1k\n")
        while b"wrote 1024/1024" not in (line := self.process.stdout.readline()):
            assert line, "qemu-io ended"

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate(timeout=20)


def mark(disk: PloopDisk) -> bool:
    fd = filesystem.open_regular(disk.data)
    try:
        return ploop.read_header(fd).in_use
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda disk: (disk.path / ploop.FILE).unlink(), "does not exist"),
        (lambda disk: (disk.path / ploop.FILE).write_text("<a>"), "not XML"),
        (lambda disk: replaced(disk, "root.hds", "../../etc/passwd"), "not inside"),
        (lambda disk: replaced(disk, "root.hds", "other.hds"), "names other.hds"),
        (lambda disk: replaced(disk, "<TopGUID>{5", "<TopGUID>{6"), "none of its images"),
        (lambda disk: linked(disk, disk.path / ploop.FILE), "could not"),
        (lambda disk: linked(disk, disk.data), "could not"),
        (lambda disk: os.truncate(disk.data, 1000), "cut short|does not fit|is cut|it has 1000"),
    ],
)
@FORMATS
def test_what_is_broken_is_said(
    tmp_path: Path, format: str, break_it: Callable[[PloopDisk], object], reason: str
) -> None:
    disk = make(tmp_path, format)
    disk.create(16 * MiB, make_base(tmp_path))
    break_it(disk)
    with pytest.raises(OperatorError if "exist" not in reason else CowshedError, match=reason):
        disk.activate()


def replaced(disk: PloopDisk, old: str, new: str) -> None:
    path = disk.path / ploop.FILE
    path.write_text(path.read_text().replace(old, new))


def linked(disk: PloopDisk, path: Path) -> None:
    """A symbolic link to where it may be now."""
    outside = disk.directory / "outside"
    path.rename(outside)
    path.symlink_to(outside)


def test_what_killed_processes_left_is_cleaned_and_what_is_being_made_is_not(tmp_path: Path) -> None:
    base, disk = make_base(tmp_path), make(tmp_path, "raw")
    disk.create(16 * MiB, base)
    for name in (".disk.0123456789ab.part", ".disk.eph0.0123456789ab.part", ".disk.deleted"):
        (disk.directory / name).mkdir()
        (disk.directory / name / ploop.DATA).write_bytes(b"x")
    folder = ploop.Folder(disk.directory / "disk.eph1", lambda _: b"")
    try:
        PloopBackend(tmp_path / "instances", DisksSection()).clean()
        names = sorted(name for name in os.listdir(disk.directory) if name.startswith("."))
        assert [name.startswith(".disk.eph1.") for name in names] == [True]
    finally:
        folder.close()
    same(disk, base)
    assert sorted(os.listdir(disk.directory)) == ["disk", "manifest.json"]
