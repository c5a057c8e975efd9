"""The disk contract on every backend: in memory, and in files on every file system there is."""

from __future__ import annotations

import os
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from cowshed.config import DisksSection
from cowshed.contract.storage import Backend, Disk
from cowshed.disks import BACKENDS
from cowshed.errors import NoSpace
from cowshed.testing import MemoryBackend, MemoryCluster, MemoryKeys
from cowshed.testing.conformance import BackendConformance
from cowshed.testing.conformance.storage import promises
from cowshed.testing.disks import MemoryDisk
from cowshed.units import MiB
from tests.conftest import LoopFs
from tests.extents import exclusive

PROMISES = promises()
EXPANDED = DisksSection(ploop_format="expanded")


class Files(BackendConformance):
    """``name`` in a directory of its own."""

    def __init__(self, name: str, root: Path, section: DisksSection | None = None) -> None:
        self.place = root / "place"
        self.place.mkdir(parents=True)
        self.instances = root / "instances"
        self.section = section or DisksSection()
        self.backend: Backend = BACKENDS[name](self.instances, self.section, MemoryKeys())

    def used(self) -> int:
        """Of these disks alone: others write to the same file system, and a shared block is nobody's."""
        return sum(exclusive(path) for path in self.instances.rglob("*") if path.is_file())

    def preallocating(self) -> Backend | None:
        return BACKENDS[self.backend.name](self.instances, replace(self.section, preallocation="falloc"))


class TestMemory(BackendConformance):
    @pytest.fixture(autouse=True)
    def made(self, tmp_path: Path) -> None:
        self.place = tmp_path
        self.backend: Backend = MemoryBackend()

    def write(self, disk: Disk, offset: int, content: bytes) -> None:
        assert isinstance(disk, MemoryDisk)
        disk.write(offset, content)


class TestCluster(TestMemory):
    """Keeps bases and clones."""

    @pytest.fixture(autouse=True)
    def made(self, tmp_path: Path) -> None:
        self.place = tmp_path
        self.backend = MemoryCluster(instances=tmp_path / "instances")


@pytest.mark.parametrize("promise", PROMISES)
@pytest.mark.parametrize("name", sorted(BACKENDS))
def test_files(name: str, promise: str, tmp_path: Path) -> None:
    getattr(Files(name, tmp_path / "root"), promise)()


@pytest.mark.parametrize("promise", PROMISES)
def test_expanded_ploop(promise: str, tmp_path: Path) -> None:
    getattr(Files("ploop", tmp_path / "root", EXPANDED), promise)()


@pytest.mark.parametrize("preallocation", ["metadata", "falloc", "full"])
@pytest.mark.parametrize("name", sorted(BACKENDS))
def test_preallocated_files(name: str, preallocation: str, tmp_path: Path) -> None:
    for promise in PROMISES:
        getattr(Files(name, tmp_path / promise, DisksSection(preallocation=preallocation)), promise)()


def test_preallocated_expanded_ploop(tmp_path: Path) -> None:
    for promise in PROMISES:
        getattr(Files("ploop", tmp_path / promise, replace(EXPANDED, preallocation="falloc")), promise)()


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
@pytest.mark.parametrize("name", sorted(BACKENDS))
def test_files_on_a_file_system(name: str, kind: str, loopfs: LoopFs) -> None:
    root = loopfs(kind, size="1G")
    for promise in PROMISES:
        getattr(Files(name, root / promise), promise)()


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_expanded_ploop_on_a_file_system(kind: str, loopfs: LoopFs) -> None:
    root = loopfs(kind, size="1G")
    for promise in PROMISES:
        getattr(Files("ploop", root / promise, EXPANDED), promise)()


@pytest.mark.parametrize(
    ("name", "kind"), [("raw", "xfs"), ("raw", "btrfs"), ("qcow2", "ext4"), ("ploop", "xfs"), ("ploop", "btrfs")]
)
def test_an_instant_clone_takes_no_room(name: str, kind: str, loopfs: LoopFs) -> None:
    """The trait is true: ten disks of a base with 64 MiB of data in it take less than one copy."""
    suite = Files(name, loopfs(kind, size="512M") / "root")
    assert suite.backend.traits.instant_clone
    base = suite.base()
    base.path.chmod(0o600)
    base.path.write_bytes(os.urandom(64 * MiB))
    before = _free(suite.place)
    for _ in range(10):
        suite.backend.disk(str(uuid.uuid4()), "disk").create(64 * MiB, base)
    assert before - _free(suite.place) < 16 * MiB


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_a_full_file_system_is_said_to_be_full(kind: str, loopfs: LoopFs) -> None:
    suite = Files("raw", loopfs(kind, size="320M") / "root", DisksSection(preallocation="falloc"))
    disk = suite.backend.disk(str(uuid.uuid4()), "disk")
    with pytest.raises(NoSpace):
        disk.create(4096 * MiB)
    assert not disk.exists()
    disk.create(0, suite.base())
    assert suite.content(disk) == suite.expected()


def _free(place: Path) -> int:
    os.sync()
    facts = os.statvfs(place)
    return facts.f_bfree * facts.f_frsize
