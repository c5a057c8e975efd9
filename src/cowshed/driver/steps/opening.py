"""Before a guest opens its disks, and after it has ended: activation, and the secrets QEMU needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from cowshed import log
from cowshed.driver.steps import locate, shown
from cowshed.errors import CowshedError
from cowshed.model.disk import AttachedDisk, DiskSource, EncryptionFormat
from cowshed.model.instance import Instance

if TYPE_CHECKING:
    from cowshed.contract.storage import Disk
    from cowshed.driver.rooms import Rooms

_log = log.logger(__name__)


def ready(rooms: Rooms, instance: Instance) -> list[AttachedDisk]:
    """The disks of the instance, such that QEMU may open them. May be repeated.

    :raises DiskNotFound: :raises NotFound: a key is gone :raises ConfigError: :raises DataCorrupt:
    """
    for _, disk in locate.disks(rooms, instance.uuid):
        disk.activate()
    disks = shown.attached(rooms, instance)
    for source in _sources(disks):
        _tell(rooms, source)
    return disks


def let_go(rooms: Rooms, instance: Instance) -> None:
    """After the guest has ended; what fails is logged: the next start puts it right."""
    try:
        disks = locate.disks(rooms, instance.uuid)
    except CowshedError as error:
        _log.warning("the disks of instance %s are not let go: %s", instance.name, error)
        return
    for _, disk in disks:
        try:
            disk.deactivate()
            _forget(rooms, disk)
        except CowshedError as error:
            _log.warning("could not let go of %s of instance %s: %s", disk.name, instance.name, error)


def forget_keys(rooms: Rooms, instance: Instance) -> None:
    """Let libvirt forget the keys of an instance whose disks go; what fails is logged."""
    try:
        disks = locate.disks(rooms, instance.uuid)
    except CowshedError as error:
        _log.warning("libvirt may still know keys of instance %s: %s", instance.name, error)
        return
    for _, disk in disks:
        try:
            _forget(rooms, disk)
        except CowshedError as error:
            _log.warning("libvirt may still know the key of %s of instance %s: %s", disk.name, instance.name, error)


def _forget(rooms: Rooms, disk: Disk) -> None:
    """Persistent secrets are the key source's own, and stay."""
    encryption = disk.info().encryption
    if encryption is None or encryption.format != EncryptionFormat.LUKS:
        return
    secrets = rooms.hypervisor.secrets
    if secrets.kept(encryption.key_id) is False:
        secrets.undefine(encryption.key_id)


def _sources(disks: Sequence[AttachedDisk]) -> Iterator[DiskSource]:
    for disk in disks:
        source: DiskSource | None = disk.source
        while source:
            yield source
            source = source.backing


def _tell(rooms: Rooms, source: DiskSource) -> None:
    """Give libvirt the keys that the domain's XML names, in its memory only."""
    if source.encryption and source.encryption.format == EncryptionFormat.LUKS:
        from cowshed.disks import keys

        secrets, key_id = rooms.hypervisor.secrets, source.encryption.key_id
        if not secrets.kept(key_id):  # a persistent one is where the key source has it
            keys.define(secrets, key_id, rooms.keys.get(key_id), ephemeral=True)
    if source.secret_uuid:
        _tell_storage(rooms, source)


def _tell_storage(rooms: Rooms, source: DiskSource) -> None:
    from cowshed.hypervisor.secrets import SecretUsage

    for backend in rooms.backends.values():
        if found := backend.secret(source.secret_uuid):
            name, value = found
            rooms.hypervisor.secrets.define(
                source.secret_uuid, SecretUsage.CEPH, name, value, ephemeral=True, private=True, description=name
            )
            return
