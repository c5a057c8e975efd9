"""The keys of encrypted disks in files: secret at every moment, durable, never mixed up."""

from __future__ import annotations

import os
import stat
import threading
import uuid
from pathlib import Path

import pytest

from cowshed.config import LvmSection
from cowshed.contract.storage import KeySource
from cowshed.disks import manifest
from cowshed.disks.keys import FileKeys, open_keys
from cowshed.disks.lvm.backend import LvmBackend
from cowshed.errors import HypervisorUnavailable, InvalidRequest, NameTaken, NotFound, PermissionDenied
from cowshed.model.disk import DiskFormat, Encryption, EncryptionFormat, ManifestDisk
from cowshed.testing import MemoryKeys
from cowshed.tools import lvm


@pytest.fixture
def keys(tmp_path: Path) -> FileKeys:
    return FileKeys(tmp_path / "state" / "keys")


def new_id() -> str:
    return str(uuid.uuid4())


def test_it_is_a_key_source(keys: FileKeys) -> None:
    assert isinstance(keys, KeySource)


def test_a_key_is_kept_as_it_was_made_and_no_other_is_like_it(keys: FileKeys) -> None:
    first, second = new_id(), new_id()
    made = keys.create(first)
    assert made != keys.create(second)
    assert len(made) == 64
    assert made.decode("ascii").isprintable()
    assert FileKeys(keys.directory).get(first) == made


def test_nobody_else_can_read_one_whatever_the_umask(keys: FileKeys) -> None:
    before = os.umask(0)
    try:
        key_id = new_id()
        keys.create(key_id)
    finally:
        os.umask(before)
    assert stat.S_IMODE(keys.directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((keys.directory / key_id).stat().st_mode) == 0o600


def test_a_key_is_secret_before_it_has_its_name(keys: FileKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file that is opened in the directory is private from its first moment."""
    modes: list[int] = []
    real = os.open

    def watched(path: object, flags: int, mode: int = 0o777, **words: object) -> int:
        fd = real(path, flags, mode, **words)  # type: ignore[arg-type]
        if str(keys.directory) in str(path) and flags & os.O_ACCMODE == os.O_RDWR:
            modes.append(stat.S_IMODE(os.fstat(fd).st_mode))
        return fd

    before = os.umask(0)
    monkeypatch.setattr(os, "open", watched)
    try:
        keys.create(new_id())
    finally:
        os.umask(before)
    assert modes == [0o600]


def test_a_taken_id_keeps_its_key(keys: FileKeys) -> None:
    key_id = new_id()
    made = keys.create(key_id)
    with pytest.raises(NameTaken):
        keys.create(key_id)
    assert keys.get(key_id) == made


def test_one_of_many_makes_a_key(keys: FileKeys) -> None:
    key_id, made, refused = new_id(), [], []

    def make() -> None:
        try:
            made.append(keys.create(key_id))
        except NameTaken as error:
            refused.append(error)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert len(refused) == 7
    assert keys.get(key_id) == made[0]


def test_a_key_that_is_gone_is_named(keys: FileKeys) -> None:
    key_id = new_id()
    with pytest.raises(NotFound, match=f"key {key_id} does not exist") as caught:
        keys.get(key_id)
    assert "backup" in str(caught.value.hint)


def test_an_empty_file_is_no_key(keys: FileKeys) -> None:
    key_id = new_id()
    keys.create(key_id)
    (keys.directory / key_id).write_bytes(b"")
    with pytest.raises(NotFound):
        keys.get(key_id)


def test_deleting_may_be_repeated_and_leaves_nothing(keys: FileKeys) -> None:
    key_id = new_id()
    keys.delete(key_id)
    keys.create(key_id)
    keys.delete(key_id)
    keys.delete(key_id)
    assert os.listdir(keys.directory) == []


@pytest.mark.parametrize(
    "wrong", ["", ".", "../" + "a" * 8, "a/b", "x" * 36, "6CE022B8-9285-407A-8B08-C67E02F3B7E5", "\n"]
)
def test_what_is_no_uuid_leads_nowhere(keys: FileKeys, wrong: str) -> None:
    for call in (keys.create, keys.get, keys.delete):
        with pytest.raises(InvalidRequest):
            call(wrong)
    assert not keys.directory.exists()


class Daemon:
    """What libvirt keeps: id to (value, on disk); ``away`` is a daemon that cannot be reached."""

    def __init__(self) -> None:
        self.held: dict[str, tuple[bytes, bool]] = {}
        self.away = False

    def _reach(self) -> None:
        if self.away:
            raise HypervisorUnavailable(uri="qemu:///session", reason="it is away")

    def define(
        self, uuid: str, usage: object, name: str, content: bytes, *, ephemeral: bool, private: bool, description: str
    ) -> None:
        self._reach()
        self.held[uuid] = (content, not ephemeral)

    def value(self, uuid: str) -> bytes:
        self._reach()
        if uuid not in self.held:
            raise NotFound(kind="secret", name=uuid)
        content, kept = self.held[uuid]
        if not kept:
            raise PermissionDenied(action="read the secret", path=uuid)
        return content

    def kept(self, uuid: str) -> bool | None:
        self._reach()
        return self.held[uuid][1] if uuid in self.held else None

    def undefine(self, uuid: str) -> None:
        self._reach()
        self.held.pop(uuid, None)


def ring(tmp_path: Path, daemon: Daemon, kind: str) -> KeySource:
    return open_keys(tmp_path / "keys", kind, lambda: daemon)  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize(("before", "after"), [("file", "libvirt"), ("libvirt", "file")])
def test_keys_are_found_where_they_were_put_when_the_configuration_changes(
    tmp_path: Path, before: str, after: str
) -> None:
    daemon, old, new = Daemon(), new_id(), new_id()
    made = ring(tmp_path, daemon, before).create(old)
    changed = ring(tmp_path, daemon, after)
    assert changed.get(old) == made
    changed.create(new)
    assert (new in daemon.held) == (after == "libvirt")
    for key_id in (old, new):
        changed.delete(key_id)
        changed.delete(key_id)
        with pytest.raises(NotFound, match=f"key {key_id}"):
            changed.get(key_id)
    assert daemon.held == {}
    assert os.listdir(tmp_path / "keys") == []


@pytest.mark.parametrize("kind", ["file", "libvirt"])
def test_a_key_that_was_made_elsewhere_is_kept_like_one_of_our_own(tmp_path: Path, kind: str) -> None:
    daemon, key_id = Daemon(), new_id()
    keys = ring(tmp_path, daemon, kind)
    keys.keep(key_id, b"made elsewhere")
    assert ring(tmp_path, daemon, kind).get(key_id) == b"made elsewhere"
    assert (key_id in daemon.held) == (kind == "libvirt")
    with pytest.raises(NameTaken):
        keys.keep(key_id, b"another")
    assert keys.get(key_id) == b"made elsewhere"
    keys.delete(key_id)
    with pytest.raises(NotFound):
        keys.get(key_id)


def test_files_need_no_libvirt(tmp_path: Path) -> None:
    daemon, key_id = Daemon(), new_id()
    daemon.away = True
    keys = ring(tmp_path, daemon, "file")
    made = keys.create(key_id)
    assert keys.get(key_id) == made
    keys.delete(key_id)
    keys.delete(key_id)
    with pytest.raises(NotFound, match=f"key {key_id}"):
        keys.get(key_id)
    with pytest.raises(HypervisorUnavailable):
        ring(tmp_path, daemon, "libvirt").get(key_id)


def test_what_a_guest_was_started_with_is_not_the_key_source_s(tmp_path: Path) -> None:
    """A lost file is lost, though the guest that runs still has the key; and deleting leaves the guest its secret."""
    daemon, key_id = Daemon(), new_id()
    daemon.held[key_id] = (b"x", False)
    keys = ring(tmp_path, daemon, "file")
    with pytest.raises(NotFound):
        keys.get(key_id)
    keys.delete(key_id)
    assert key_id in daemon.held


def test_a_volume_whose_key_could_not_go_is_deleted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its line in the manifest is all that names the key: it goes last."""
    held, place = MemoryKeys(), tmp_path / new_id()
    disk = LvmBackend(tmp_path, LvmSection(volume_group="group"), held).disk(place.name, "disk")
    encryption = Encryption(EncryptionFormat.LUKS, new_id(), {})
    held.create(encryption.key_id)
    place.mkdir()
    manifest.record(place, ManifestDisk("disk", "lvm", DiskFormat.RAW, "group/volume", 512, encryption=encryption))
    monkeypatch.setattr(lvm, "volumes", lambda group: {})
    with monkeypatch.context() as away:
        away.setattr(held, "delete", raising)
        with pytest.raises(HypervisorUnavailable):
            disk.delete()
    disk.delete()
    assert held.held == {}
    assert manifest.find(place, "disk") is None


def raising(key_id: str) -> None:
    raise HypervisorUnavailable(uri="qemu:///system", reason="away")
