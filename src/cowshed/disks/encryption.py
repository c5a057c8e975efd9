"""Keys of disks: made before the disk, kept as long as it, gone after it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import uuid4

from cowshed.contract.callbacks import Progress
from cowshed.contract.storage import KeySource
from cowshed.disks.keys import missing
from cowshed.errors import CowshedError, InvalidRequest, UnsupportedOperation
from cowshed.model.disk import DiskFormat, DiskSource, DiskType, Encryption, EncryptionFormat
from cowshed.tools import filesystem, luks, luks_header, qcow2


@dataclass(frozen=True, slots=True)
class Sealed:
    """How a disk that is being made is encrypted, and its key, which nothing may print."""

    encryption: Encryption
    key: bytes = field(repr=False)

    def find(self, key_id: str) -> bytes:
        """For who asks by id: the key of this disk."""
        assert key_id == self.encryption.key_id
        return self.key


def require_source(keys: KeySource | None, backend: str) -> KeySource:
    """:raises UnsupportedOperation: there is nowhere to keep a key"""
    if keys is None:
        raise UnsupportedOperation(
            subject=f"backend {backend}", operation="encrypt disks", reason="it was given nowhere to keep their keys"
        )
    return keys


def new_encryption(kind: EncryptionFormat, parameters: Mapping[str, str]) -> Encryption:
    """With the id of a key that is not made yet."""
    return Encryption(kind, str(uuid4()), dict(parameters))


@contextmanager
def new_key(keys: KeySource, encryption: Encryption) -> Iterator[Sealed]:
    """The key of the disk that the block makes; an error takes it away again."""
    try:
        yield Sealed(encryption, keys.create(encryption.key_id))
    except BaseException:
        with suppress(CowshedError):
            keys.delete(encryption.key_id)
        raise


def key_of(keys: KeySource | None, key_id: str) -> bytes:
    """:raises NotFound: the key is gone"""
    if keys is None:
        raise missing(key_id)
    return keys.get(key_id)


def extract(
    source: DiskSource,
    size: int,
    target: Path,
    format: DiskFormat,
    keys: Callable[[str], bytes],
    *,
    compress: bool,
    plaintext: bool,
    progress: Progress,
) -> None:
    """A disk that QEMU encrypts, of ``size`` bytes, to a standalone file, as :meth:`Disk.extract` says."""
    check_extract(format, compress=compress, plaintext=plaintext)
    encryption = source.encryption
    assert encryption is not None
    key = keys(encryption.key_id)
    if format == source.format == DiskFormat.RAW and not plaintext:
        from cowshed.tools import transfer  # the container as it is

        transfer.export(replace(source, encryption=None), target, format, progress=progress)
        return
    with filesystem.publish(target, unnamed=True) as new:
        if format == DiskFormat.QCOW2:
            head = b"" if plaintext else luks_header.build(key, encryption.parameters)
            qcow2.create_blank(new.fd, size=size, luks=head)
        elif plaintext:
            os.ftruncate(new.fd, size)
        else:
            luks.create_raw(new.fd, size, key, encryption.parameters)
        copied = DiskSource(DiskType.FILE, format, new.path, encryption=None if plaintext else encryption)
        empty = plaintext or format == DiskFormat.QCOW2
        luks.copy(source, copied, keys, compress=compress, zero=empty, progress=progress, size=size)


def check_extract(format: DiskFormat, *, compress: bool, plaintext: bool) -> None:
    """What an encrypted disk can be written as. :raises InvalidRequest:"""
    if format not in (DiskFormat.RAW, DiskFormat.QCOW2):
        raise InvalidRequest(reason=f"a disk cannot be written as {format}", hint="raw or qcow2")
    if compress and format == DiskFormat.RAW:
        raise InvalidRequest(reason="raw files cannot be compressed", hint="use qcow2")
    if compress and not plaintext:
        raise InvalidRequest(
            reason="an encrypted disk cannot be compressed: ciphertext does not become smaller",
            hint="leave out the compression, or ask for plaintext",
        )
