"""kill -9 at every step of making, growing and deleting a disk: the old state or the new, and a retry works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from cowshed import clock
from cowshed.config import DisksSection
from cowshed.disks import BACKENDS, manifest, open_backends
from cowshed.disks.directory import InstanceDirectory
from cowshed.disks.file import FileDisk
from cowshed.errors import Busy, NameTaken, SnapshotNotFound
from cowshed.model.disk import Base, DiskFormat
from cowshed.tools import locks, qemu_img
from cowshed.units import MiB

pytestmark = pytest.mark.timeout(300)  # dozens of processes each, and a busy machine starts them slowly

KINDS = pytest.mark.parametrize("kind", sorted(BACKENDS))
CALLS = ("open", "ftruncate", "pwrite", "fsync", "rename", "link", "unlink", "close", "copy_file_range")

# Counts the calls that change something and dies before the one whose number is given; the count of all otherwise.
CHILD = """
import os, signal, sys
from pathlib import Path
from cowshed.config import DisksSection
from cowshed.disks import open_backends
from cowshed.disks.directory import InstanceDirectory
from cowshed.model.disk import Base, DiskFormat
import cowshed.tools.qcow2, cowshed.tools.transfer

place, kind, instance, what, die = sys.argv[1:]
calls = 0
def counted(real):
    def call(*args, **more):
        global calls
        calls += 1
        if calls == int(die):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **more)
    return call
disk = open_backends(Path(place) / "instances", DisksSection())[kind].disk(instance, "disk")
base = Base(Path(place) / "base", DiskFormat.RAW, 8 << 20, "crc32-2m:aa", "image")
do = {
    "create": lambda: disk.create(16 << 20, base),
    "resize": lambda: disk.resize(32 << 20),
    "delete": disk.delete,
    "take": lambda: disk.take("two"),
    "roll_back": lambda: disk.roll_back("one"),
    "remove": lambda: disk.remove("one"),
    "destroy": InstanceDirectory(Path(place) / "instances", instance).delete,
}[what]
for name in CALLS:
    setattr(os, name, counted(getattr(os, name)))
do()
print(calls)
""".replace("CALLS", repr(CALLS))


def child(place: Path, disk: FileDisk, what: str, die: int) -> int | None:
    """Run ``what`` in a process that dies before its call number ``die``; its calls when it ended well."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(place), disk.backend, disk.instance, what, str(die)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode == -signal.SIGKILL:
        return None
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.fixture
def base(tmp_path: Path) -> Base:
    path = tmp_path / "base"
    path.write_bytes(os.urandom(MiB) + bytes(7 * MiB))
    return Base(path, DiskFormat.RAW, 8 * MiB, "crc32-2m:aa", "image")


def make(place: Path, kind: str) -> FileDisk:
    disk = open_backends(place / "instances", DisksSection())[kind].disk(str(uuid.uuid4()), "disk")
    assert isinstance(disk, FileDisk)
    return disk


def whole(disk: FileDisk, base: Base, size: int) -> None:
    assert disk.info().virtual_size == size
    facts = qemu_img.info(disk.data, disk.format)
    assert facts["virtual-size"] == size
    subprocess.run(
        ["qemu-img", "compare", "-q", "-f", disk.format, "-F", "raw", str(disk.data), str(base.path)], check=True
    )


def litter(disk: FileDisk) -> list[str]:
    names = os.listdir(disk.directory) if disk.directory.exists() else []
    return [name for name in names if name not in ("disk", manifest.FILE)]


def patiently(call: Callable[[], object]) -> None:
    """A qemu-img of a killed process ends with it, but not at the same moment."""

    def done() -> bool:
        try:
            call()
        except Busy:
            return False
        return True

    clock.poll(done, clock.Deadline(20, "the image is free"))


@KINDS
def test_killed_while_it_is_made(tmp_path: Path, base: Base, kind: str) -> None:
    die, kills = 1, 0
    while True:
        disk = make(tmp_path, kind)
        if child(tmp_path, disk, "create", die):
            whole(disk, base, 16 * MiB)
            break
        kills += 1
        if disk.exists():  # killed after the name was given: then it is complete
            whole(disk, base, 16 * MiB)
        else:
            # The record of the manifest and a ploop directory are written by name; the disk itself never has a half name.
            assert [name for name in litter(disk) if not name.startswith((f".{manifest.FILE}.", ".disk."))] == []
            disk.create(16 * MiB, base)
            whole(disk, base, 16 * MiB)
            assert [name for name in litter(disk) if not name.startswith(f".{manifest.FILE}.")] == []
        InstanceDirectory(tmp_path / "instances", disk.instance).delete()
        assert not disk.directory.exists()
        die += 1
    assert kills >= 8


@KINDS
def test_killed_while_it_grows(tmp_path: Path, base: Base, kind: str) -> None:
    die, kills = 1, 0
    while True:
        disk = make(tmp_path, kind)
        disk.create(16 * MiB, base)
        if child(tmp_path, disk, "resize", die):
            whole(disk, base, 32 * MiB)
            break
        kills += 1
        assert disk.info().virtual_size in (16 * MiB, 32 * MiB)
        patiently(lambda disk=disk: disk.resize(32 * MiB))
        whole(disk, base, 32 * MiB)
        die += 1
    assert kills >= 4


@KINDS
@pytest.mark.parametrize("what", ["delete", "destroy"])
def test_killed_while_it_is_deleted(tmp_path: Path, base: Base, kind: str, what: str) -> None:
    die = 1
    while True:
        disk = make(tmp_path, kind)
        disk.create(16 * MiB, base)
        ended = child(tmp_path, disk, what, die)
        if not ended and disk.exists():
            whole(disk, base, 16 * MiB)
        disk.delete()
        InstanceDirectory(tmp_path / "instances", disk.instance).delete()
        assert os.listdir(tmp_path / "instances") == []
        if ended:
            break
        die += 1
    assert die > 2


def content(disk: FileDisk, place: Path) -> bytes:
    target = place / f"content-{uuid.uuid4()}"
    patiently(lambda: disk.extract(target, DiskFormat.RAW))
    data = target.read_bytes()
    target.unlink()
    return data


@KINDS
@pytest.mark.parametrize("what", ["take", "roll_back", "remove"])
def test_killed_in_the_middle_of_a_snapshot(tmp_path: Path, base: Base, kind: str, what: str) -> None:
    """The old state or the new, by content, size and list; and the same call again ends it."""
    old = base.path.read_bytes()
    new = bytes(MiB) + old[MiB:] + bytes(8 * MiB)
    die = 1
    while True:
        disk = make(tmp_path, kind)
        disk.create(8 * MiB, base)
        disk.take("one")
        disk.resize(16 * MiB)
        write = ["qemu-io", "-f", disk.format, "-c", "write -z 0 1M", str(disk.data)]
        subprocess.run(write, check=True, capture_output=True)
        ended = child(tmp_path, disk, what, die)
        if ended is None:
            names = [snapshot.name for snapshot in disk.snapshots()]
            assert names in {"take": (["one"], ["one", "two"]), "remove": (["one"], [])}.get(what, (["one"],))
            size, data = disk.info().virtual_size, content(disk, tmp_path)
            assert (size, data) in (((16 * MiB, new), (8 * MiB, old)) if what == "roll_back" else ((16 * MiB, new),))
            again(disk, what)
        expected = {"take": ["one", "two"], "roll_back": ["one"], "remove": []}[what]
        assert [snapshot.name for snapshot in disk.snapshots()] == expected
        assert content(disk, tmp_path) == (old if what == "roll_back" else new)
        if "two" in expected:
            patiently(lambda disk=disk: disk.roll_back("two"))
            assert content(disk, tmp_path) == new
        if kind == "qcow2":
            facts = qemu_img.info(disk.data, DiskFormat.QCOW2)
            assert len(facts.get("snapshots", [])) == len(expected)
        else:
            kept = disk.kept
            assert sorted(os.listdir(kept) if kept.exists() else []) == sorted(expected)
        InstanceDirectory(tmp_path / "instances", disk.instance).delete()
        if ended is not None:
            break
        die += {"raw": 1, "qcow2": 3, "ploop": 3}[kind] + (
            what == "roll_back"
        )  # the order of the steps is the same for all
    assert die > 4


def again(disk: FileDisk, what: str) -> None:
    """What was interrupted, done once more; what was done already says so."""
    call = {
        "take": lambda: disk.take("two"),
        "roll_back": lambda: disk.roll_back("one"),
        "remove": lambda: disk.remove("one"),
    }
    with suppress(NameTaken, SnapshotNotFound):
        patiently(call[what])


# --- locks between processes ------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from cowshed.tools import locks
with locks.lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""

COUNT = """
import sys
from pathlib import Path
from cowshed.tools import locks
place = Path(sys.argv[1])
for _ in range(10):
    with locks.lock(place / "lock", timeout=60):
        number = int((place / "number").read_text())
        (place / "number").write_text(str(number + 1))
"""


ALONE = """
import os, sys, time
from pathlib import Path
from cowshed.tools import locks
place = Path(sys.argv[1])
for _ in range(150):
    with locks.lock(place / "lock", timeout=60):
        os.close(os.open(place / "inside", os.O_CREAT | os.O_EXCL))
        time.sleep(0.0005)
        os.unlink(place / "inside")
    locks.remove(place / "lock")
"""


def test_the_kernel_releases_the_lock_of_the_dead(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    with holder.stdout:
        assert holder.stdout.readline() == b"held\n"
    with pytest.raises(Busy, match=f"process {holder.pid}"), locks.lock(path, timeout=0.1):
        pass
    holder.kill()
    holder.wait()
    begin = time.monotonic()
    with locks.lock(path, timeout=5):
        assert time.monotonic() - begin < 1


def test_processes_take_turns(tmp_path: Path) -> None:
    (tmp_path / "number").write_text("0")
    counters = [subprocess.Popen([sys.executable, "-c", COUNT, str(tmp_path)]) for _ in range(6)]
    assert [counter.wait(60) for counter in counters] == [0] * 6
    assert (tmp_path / "number").read_text() == "60"


def test_one_process_at_a_time_where_all_remove_the_file_of_the_lock(tmp_path: Path) -> None:
    workers = [subprocess.Popen([sys.executable, "-c", ALONE, str(tmp_path)]) for _ in range(4)]
    assert [worker.wait(60) for worker in workers] == [0] * 4
    assert os.listdir(tmp_path) == []


def test_a_tool_does_not_keep_our_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locks.lock(path):
        tool = subprocess.Popen(["sleep", "30"], close_fds=False)
    try:
        with locks.lock(path, timeout=0):
            pass
    finally:
        tool.kill()
        tool.wait()
