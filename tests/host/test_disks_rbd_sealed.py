"""RBD disks that QEMU encrypts: what is in the pool is ciphertext, and QEMU opens it with the disk's key."""

from __future__ import annotations

import subprocess
import uuid
from pathlib import Path

import pytest

from cowshed.config import RbdSection
from cowshed.contract.callbacks import SILENT
from cowshed.contract.storage import BaseContent, OpenSink
from cowshed.disks.keys import FileKeys
from cowshed.disks.rbd import RbdBackend, RbdDisk
from cowshed.disks.rbd_bases import BASE, copied
from cowshed.errors import DiskTooSmall, InvalidRequest, NotFound, ToolFailed, UnsupportedOperation
from cowshed.model.disk import Base, DiskFormat, EncryptionFormat
from cowshed.model.image import Location
from cowshed.tools import luks, luks_header
from tests.ceph_node import Ceph

pytestmark = pytest.mark.timeout(180)

MiB = 1 << 20
SIZE = 4 * MiB
CONTENT = b"the content of the guest's disk " * (SIZE // 32)


@pytest.fixture
def backend(ceph: Ceph, rbd_pool: str, tmp_path: Path) -> RbdBackend:
    section = RbdSection(pool=rbd_pool, ceph_conf=str(ceph.conf))
    return RbdBackend(tmp_path / "instances", section, FileKeys(tmp_path / "keys"), iterations=1000)


@pytest.fixture
def base(backend: RbdBackend, tmp_path: Path) -> Base:
    path = tmp_path / "base"
    path.write_bytes(CONTENT)

    def fill(open_sink: OpenSink) -> BaseContent:
        return copied(path, SIZE, open_sink, SILENT)

    return backend.add_base(f"sealed-{uuid.uuid4()}", "image", fill)


def new(backend: RbdBackend) -> RbdDisk:
    return backend.disk(str(uuid.uuid4()), "disk")


def plain(disk: RbdDisk, place: Path) -> bytes:
    """Decrypted by qemu-img."""
    target = place / f"plain-{uuid.uuid4()}"
    disk.extract(target, DiskFormat.RAW, plaintext=True)
    return target.read_bytes()


def stored(backend: RbdBackend, disk: RbdDisk) -> bytes:
    with backend.pool.open(f"{disk.instance}_disk", read_only=True) as image:
        return bytes(image.read(0, image.size()))


def test_a_disk_from_a_base_is_ciphertext_in_the_pool(backend: RbdBackend, base: Base, tmp_path: Path) -> None:
    assert backend.traits.encrypts
    disk = new(backend)
    disk.create(SIZE + MiB, base, encrypt=True)
    encryption = disk.info().encryption
    assert encryption
    assert encryption.format == EncryptionFormat.LUKS
    assert disk.source().encryption == encryption
    assert disk.info().virtual_size == SIZE + MiB
    assert plain(disk, tmp_path)[:SIZE] == CONTENT
    data = stored(backend, disk)
    assert data.startswith(luks_header.MAGIC)
    assert CONTENT[:32] not in data
    assert len(data) == luks_header.LENGTH + SIZE + MiB
    disk.delete()
    assert not disk.exists()
    with pytest.raises(NotFound):
        backend.keys.get(encryption.key_id)  # type: ignore[union-attr]


def test_it_grows_and_is_rolled_back(backend: RbdBackend, base: Base, tmp_path: Path) -> None:
    disk = new(backend)
    disk.create(0, base, encrypt=True)
    disk.take("before")
    assert [found.virtual_size for found in disk.snapshots()] == [SIZE]
    disk.resize(SIZE + MiB)
    disk.activate()
    assert len(plain(disk, tmp_path)) == SIZE + MiB
    with pytest.raises(DiskTooSmall):
        disk.resize(SIZE)
    disk.roll_back("before")
    assert disk.info().virtual_size == SIZE
    assert plain(disk, tmp_path) == CONTENT


def test_a_local_file_is_taken_over_encrypted(backend: RbdBackend, tmp_path: Path) -> None:
    path = tmp_path / "ready"
    path.write_bytes(CONTENT)
    disk = new(backend)
    disk.import_file(path, encrypt=True)
    assert not path.exists()
    assert plain(disk, tmp_path) == CONTENT
    assert CONTENT[:32] not in stored(backend, disk)


def test_it_is_taken_out_encrypted_with_its_own_key(backend: RbdBackend, base: Base, tmp_path: Path) -> None:
    disk = new(backend)
    disk.create(0, base, encrypt=True)
    encryption = disk.info().encryption
    assert encryption
    key = backend.keys.get(encryption.key_id)  # type: ignore[union-attr]
    for number, kind in enumerate((DiskFormat.RAW, DiskFormat.QCOW2)):
        target = tmp_path / f"out{number}"
        disk.extract(target, kind)
        assert CONTENT[:32] not in target.read_bytes()
        assert _opened(target, kind, key) == CONTENT
    with pytest.raises(InvalidRequest):
        disk.extract(tmp_path / "no", DiskFormat.QCOW2, compress=True)


def _opened(path: Path, kind: DiskFormat, key: bytes) -> bytes:
    """By qemu-img, told nothing but the key."""
    driver = f"driver=luks,key-secret=k,file.filename={path}"
    if kind == DiskFormat.QCOW2:
        driver = f"driver=qcow2,encrypt.key-secret=k,file.filename={path}"
    with luks.handed({"k": key}) as (words, fds):
        command = ["qemu-img", "convert", *words, "--image-opts", driver, "-O", "raw", f"{path}.plain"]
        subprocess.run(command, check=True, pass_fds=fds, timeout=60)
    return Path(f"{path}.plain").read_bytes()


def test_a_disk_whose_making_fails_leaves_no_key(
    backend: RbdBackend, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ToolFailed(command="qemu-img", status=1, output="the first error")

    disk = new(backend)
    with monkeypatch.context() as patch:
        patch.setattr(luks, "copy", fails)
        with pytest.raises(ToolFailed, match="the first error"):
            disk.create(0, base, encrypt=True)
    assert not disk.exists()
    assert not disk.directory.exists()
    assert list((tmp_path / "keys").iterdir()) == []
    assert [name for name in backend.pool.images() if disk.instance in name] == []
    disk.create(0, base, encrypt=True)
    assert plain(disk, tmp_path) == CONTENT


def test_what_cannot_be(backend: RbdBackend, base: Base, tmp_path: Path) -> None:
    disk = new(backend)
    disk.create(SIZE, encrypt=True)
    with pytest.raises(UnsupportedOperation, match="encrypted"):
        disk.upload("image", near=[Location(f"rbd://{backend.cluster.fsid}/{backend.pool.name}/x/y")])
    keyless = RbdBackend(tmp_path / "instances", backend.section)
    assert not keyless.traits.encrypts
    with pytest.raises(UnsupportedOperation):
        new(keyless).create(SIZE, encrypt=True)
    with pytest.raises(NotFound, match="key"):
        keyless.disk(disk.instance, "disk").activate()
    assert backend.pool.exists(BASE + base.location.rpartition("@")[0].rpartition(BASE)[2])
