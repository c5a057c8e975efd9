"""kill -9 at every step of making and deleting an encrypted disk: no disk without its key, no key that nobody knows of."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cowshed.config import DisksSection
from cowshed.disks import manifest, open_backends
from cowshed.disks.file import FileDisk
from cowshed.disks.keys import FileKeys
from cowshed.model.disk import Base, DiskFormat
from cowshed.units import MiB

pytestmark = [pytest.mark.host, pytest.mark.timeout(300)]

CALLS = ("open", "ftruncate", "pwrite", "write", "fsync", "rename", "link", "unlink", "memfd_create")
DATA = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture
def base(tmp_path: Path) -> Base:
    path = tmp_path / "base"
    path.write_bytes(DATA + bytes(MiB))
    return Base(path, DiskFormat.RAW, 2 * MiB)


def make(place: Path, kind: str) -> FileDisk:
    section = DisksSection(luks_iterations=1000)
    found = open_backends(place / "instances", section, keys=FileKeys(place / "keys"))[kind]
    disk = found.disk(str(uuid.uuid4()), "disk")
    assert isinstance(disk, FileDisk)
    return disk


def killed(work: Callable[[], object], die: int) -> bool:
    """Do it in a process that dies before its call number ``die``; did it die?"""
    child = os.fork()
    if child:
        status = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
        return os.WIFSIGNALED(status)
    calls = 0

    def counted(real: Any) -> Any:
        def call(*arguments: Any, **more: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == die:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **more)

        return call

    try:
        for name in CALLS:
            setattr(os, name, counted(getattr(os, name)))
        work()
        os._exit(0)
    finally:
        os._exit(1)


def keys(place: Path) -> set[str]:
    return set(os.listdir(place / "keys")) if (place / "keys").exists() else set()


def known(disk: FileDisk) -> set[str]:
    """Keys that the manifest names."""
    entries = manifest.load(disk.directory).disks.values()
    return {entry.encryption.key_id for entry in entries if entry.encryption}


def content(disk: FileDisk, place: Path) -> bytes:
    target = place / f"out-{uuid.uuid4()}"
    disk.extract(target, DiskFormat.RAW, plaintext=True)
    return target.read_bytes()


@pytest.mark.parametrize("kind", ["qcow2", "raw"])
def test_create(kind: str, tmp_path: Path, base: Base) -> None:
    die = 1
    while True:
        place = tmp_path / f"at-{die}"
        disk = make(place, kind)
        dead = killed(lambda disk=disk: disk.create(2 * MiB, base, encrypt=True), die)  # type: ignore[misc]
        assert keys(place) <= known(disk), f"killed before call {die}: a key that nobody knows of"
        if disk.exists():
            assert content(disk, tmp_path) == DATA + bytes(MiB)
        else:
            disk.delete()  # as whoever clears up does, for every line of the manifest
            assert keys(place) == set()
            disk.create(2 * MiB, base, encrypt=True)
        if not dead:
            break
        die += 1
    assert die > 15, "the calls were not counted"


@pytest.mark.parametrize("kind", ["qcow2", "raw"])
def test_delete(kind: str, tmp_path: Path, base: Base) -> None:
    die = 1
    while True:
        place = tmp_path / f"at-{die}"
        disk = make(place, kind)
        disk.create(2 * MiB, base, encrypt=True)
        dead = killed(disk.delete, die)
        if disk.exists():
            assert content(disk, tmp_path) == DATA + bytes(MiB)
        assert keys(place) <= known(disk)
        disk.delete()
        assert keys(place) == set()
        assert not disk.exists()
        if not dead:
            break
        die += 1
    assert die > 5, "the calls were not counted"
