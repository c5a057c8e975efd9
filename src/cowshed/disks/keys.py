"""Where the keys of encrypted disks are: one small file each, or secrets of libvirt.

A key is 64 characters of 384 random bits: no stretching makes it harder to guess, and it can be
given to any tool as a passphrase.
"""

from __future__ import annotations

import os
import re
import secrets as randomness
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cowshed.errors import HypervisorUnavailable, InvalidRequest, NameTaken, NotFound, PermissionDenied
from cowshed.tools import filesystem

if TYPE_CHECKING:
    from cowshed.contract.storage import KeySource
    from cowshed.hypervisor.secrets import Secrets

_RANDOM: Final = 48  # bytes
_ID = re.compile(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}")
_HINT: Final = "without its key an encrypted disk cannot be read: restore the key from a backup"


def open_keys(directory: Path, kind: str, secrets: Callable[[], Secrets]) -> KeySource:
    """The configured source. Nothing is made, and libvirt is not reached before a key is asked for.

    :param directory: of the files
    :param kind: where new keys are kept: ``file`` or ``libvirt``
    """
    return Keys(FileKeys(directory), LibvirtKeys(secrets), kind)


def new_key() -> bytes:
    """A random passphrase of printable ASCII."""
    return randomness.token_urlsafe(_RANDOM).encode()


def check_id(key_id: str) -> str:
    """:raises InvalidRequest: it is not a UUID in lower case"""
    if not _ID.fullmatch(key_id):
        raise InvalidRequest(reason=f"{key_id!r} cannot name a key: it is not a UUID")
    return key_id


def missing(key_id: str) -> NotFound:
    return NotFound(kind="key", name=key_id, hint=_HINT)


class FileKeys:
    """``<directory>/<key_id>``, readable by this user only: back the directory up, apart from the disks."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def create(self, key_id: str) -> bytes:
        key = new_key()
        self.keep(key_id, key)
        return key

    def keep(self, key_id: str, key: bytes) -> None:
        path = self._path(key_id)
        filesystem.make_directory(self.directory, mode=0o700)
        try:
            with filesystem.publish(path, mode=0o600, unnamed=True) as new:
                filesystem.write_all(new.fd, key)
        except NameTaken:
            raise NameTaken(kind="key", name=key_id) from None

    def get(self, key_id: str) -> bytes:
        path = self._path(key_id)
        try:
            with filesystem.errors_of(path, "read"):
                key = path.read_bytes()
        except NotFound:
            raise missing(key_id) from None
        if not key:
            raise missing(key_id)
        return key

    def delete(self, key_id: str) -> None:
        """Its bytes are not overwritten: on a copying file system or an SSD that would overwrite nothing."""
        path = self._path(key_id)
        with filesystem.errors_of(path, "delete"):
            try:
                os.unlink(path)
            except FileNotFoundError:
                return
            filesystem.sync_directory(self.directory)

    def holds(self, key_id: str) -> bool:
        return self._path(key_id).exists()

    def _path(self, key_id: str) -> Path:
        return self.directory / check_id(key_id)


class LibvirtKeys:
    """Persistent secrets of libvirt, named like the key; libvirt keeps their values in files of its own."""

    def __init__(self, secrets: Callable[[], Secrets]) -> None:
        self._secrets = secrets

    def create(self, key_id: str) -> bytes:
        key = new_key()
        self.keep(key_id, key)
        return key

    def keep(self, key_id: str, key: bytes) -> None:
        secrets = self._secrets()
        if secrets.kept(check_id(key_id)) is not None:
            raise NameTaken(kind="key", name=key_id)
        define(secrets, key_id, key)

    def get(self, key_id: str) -> bytes:
        try:
            return self._secrets().value(check_id(key_id))
        except NotFound:
            raise missing(key_id) from None

    def keeps(self, key_id: str) -> bool:
        """A secret in libvirt's memory only is what a guest was started with."""
        return self._secrets().kept(check_id(key_id)) is True

    def delete(self, key_id: str) -> None:
        self._secrets().undefine(check_id(key_id))


def define(secrets: Secrets, key_id: str, key: bytes, *, ephemeral: bool = False) -> None:
    """The secret that domain XML names; an ephemeral one tells its value to QEMU only."""
    from cowshed.hypervisor.secrets import SecretUsage

    secrets.define(
        key_id,
        SecretUsage.VOLUME,
        f"/cowshed/{key_id}",
        key,
        ephemeral=ephemeral,
        private=ephemeral,
        description="key of a disk of cowshed",
    )


class Keys:
    """New keys go where it is configured; those of before are found where they were put."""

    def __init__(self, files: FileKeys, libvirt: LibvirtKeys, kind: str) -> None:
        self._files = files
        self._libvirt = libvirt
        self._new = libvirt if kind == "libvirt" else files

    def create(self, key_id: str) -> bytes:
        return self._new.create(key_id)

    def keep(self, key_id: str, key: bytes) -> None:
        self._new.keep(key_id, key)

    def get(self, key_id: str) -> bytes:
        if self._files.holds(key_id):
            return self._files.get(key_id)
        try:
            return self._libvirt.get(key_id)
        except (HypervisorUnavailable, PermissionDenied):
            if self._new is self._libvirt:
                raise
            raise missing(key_id) from None  # a file it would be; one in libvirt's memory only is told to nobody

    def delete(self, key_id: str) -> None:
        """Also where libvirt, which was never asked to keep a key, cannot be asked now."""
        if self._files.holds(key_id):
            return self._files.delete(key_id)
        try:
            if self._libvirt.keeps(key_id):
                self._libvirt.delete(key_id)
        except HypervisorUnavailable:
            if self._new is self._libvirt:
                raise
