"""Volumes whose tools are fakes: what happens when one of them refuses."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from types import SimpleNamespace

import pytest

from cowshed.config import LvmSection
from cowshed.disks import manifest
from cowshed.disks.lvm import LvmBackend, clearing, disk
from cowshed.disks.lvm.clearing import Clearing
from cowshed.disks.lvm.temporary import GONE
from cowshed.errors import HypervisorUnavailable, PermissionDenied
from cowshed.model.disk import DiskFormat, Encryption, EncryptionFormat, ManifestDisk
from cowshed.tools.lvm import Volume
from cowshed.units import MiB


def volume(name: str, **facts: object) -> Volume:
    usual: dict[str, object] = {"group": "vg", "uuid": name, "size": MiB, "kind": "linear", "origin": "", "pool": ""}
    usual |= {"active": True, "open": False, "zeroes": False, "used": 1.0, "ours": True, "tags": {}}
    return Volume(name=name, **{**usual, **facts})  # type: ignore[arg-type]


class Group:
    """``lvm`` with volumes that are files."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.there: dict[str, Volume] = {}

    def add(self, name: str) -> Volume:
        self.node("vg", name).write_bytes(b"x" * MiB)
        self.there[name] = volume(name)
        return self.there[name]

    def node(self, _: str, name: str) -> Path:
        return self.place / name

    def volumes(self, _: str) -> dict[str, Volume]:
        return dict(self.there)

    def volume(self, _: str, name: str) -> Volume | None:
        return self.there.get(name)

    def rename(self, _: str, old: str, new: str) -> None:
        self.node("", old).rename(self.node("", new))
        del self.there[old]
        self.there[new] = volume(new)

    def remove(self, _: str, name: str) -> None:
        self.there.pop(name, None)


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Group:
    found = Group(tmp_path)
    monkeypatch.setattr(clearing, "lvm", found)
    return found


class Node:
    """``block`` with files instead of devices; ``granted`` are those this user may open."""

    def __init__(self) -> None:
        self.granted: list[Path] = []
        self.refuses = ""  # how names begin that are not granted

    def grant(self, node: Path) -> None:
        if not (self.refuses and node.name.startswith(self.refuses)):
            self.granted.append(node)

    def open_device(self, node: Path, flags: int) -> int:
        if node not in self.granted:
            raise PermissionError(13, "Permission denied", str(node))
        return os.open(node, flags)

    def zero(self, fd: int, start: int, end: int, *, progress: object) -> None:
        os.pwrite(fd, bytes(end - start), start)


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    found = Node()
    monkeypatch.setattr(clearing, "block", found)
    return found


def test_a_node_that_root_has_made_is_cleared_all_the_same(tmp_path: Path, group: Group, node: Node) -> None:
    """After a reboot LVM has activated what waits for being cleared, and it belongs to root."""
    group.add(f"{GONE}1")
    assert Clearing("vg", LvmSection(clear="zero"), tmp_path / "lock").run() == 1
    assert group.there == {}
    assert (tmp_path / f"{GONE}1").read_bytes() == bytes(MiB)


@pytest.mark.timeout(20)
def test_a_volume_that_cannot_be_cleared_does_not_keep_the_next_ones(tmp_path: Path, group: Group, node: Node) -> None:
    work = Clearing("vg", LvmSection(clear="zero"), tmp_path / "lock")
    node.refuses = GONE
    work.dispose(group.add("one"))
    work.wait()
    assert len(group.there) == 1
    node.refuses = ""
    work.dispose(group.add("two"))
    work.wait()
    assert group.there == {}


def test_one_that_cannot_be_cleared_does_not_keep_the_others(tmp_path: Path, group: Group, node: Node) -> None:
    group.add(f"{GONE}1")
    group.add(f"{GONE}2")
    node.refuses = f"{GONE}1"
    with pytest.raises(PermissionDenied):
        Clearing("vg", LvmSection(clear="zero"), tmp_path / "lock").run()
    assert list(group.there) == [f"{GONE}1"]


# --- keys ----------------------------------------------------------------------------------------


class Keys:
    """Where keys are kept cannot be reached at first."""

    def __init__(self) -> None:
        self.kept = {"key"}
        self.there = False

    def delete(self, key_id: str) -> None:
        if not self.there:
            raise HypervisorUnavailable(uri="qemu:///system", reason="it is down")
        self.kept.discard(key_id)


def test_a_key_that_cannot_be_deleted_now_is_deleted_by_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, instance = Keys(), str(uuid.uuid4())
    backend = LvmBackend(tmp_path / "instances", LvmSection(volume_group="vg"), keys)  # type: ignore[arg-type]
    made = backend.disk(instance, "disk")
    made.directory.mkdir(parents=True)
    entry = ManifestDisk(
        name="disk",
        backend="lvm",
        format=DiskFormat.RAW,
        location=f"vg/{instance}_disk",
        virtual_size=MiB,
        encryption=Encryption(EncryptionFormat.LUKS2, "key"),
    )
    manifest.record(made.directory, entry)
    monkeypatch.setattr(disk.lvm, "volumes", lambda _: {})
    monkeypatch.setattr(disk, "cryptsetup", SimpleNamespace(close=lambda _: None))
    with pytest.raises(HypervisorUnavailable):
        made.delete()
    keys.there = True
    made.delete()
    assert keys.kept == set()
    assert manifest.load(made.directory).disks == {}
