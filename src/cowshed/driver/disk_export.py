"""Disk export: the content of a disk as a file (beside the contract)."""

from __future__ import annotations

from pathlib import Path

from cowshed import log
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import named
from cowshed.errors import InvalidRequest
from cowshed.model.disk import DiskFormat
from cowshed.model.instance import Instance


class DiskExport:
    rooms: Rooms

    def export_disk(
        self,
        instance: Instance,
        target: Path,
        disk: str = "",
        *,
        format: DiskFormat = DiskFormat.QCOW2,
        compress: bool = False,
        plaintext: bool = False,
    ) -> None:
        """Write ``disk`` (default: root) to the new file ``target``, which stands on nothing else.

        :param plaintext: of an encrypted disk: decrypt it
        :raises InvalidState: a guest uses the disk
        :raises NameTaken: the file exists :raises NoSpace: nothing is left at ``target``
        :raises InvalidRequest: the format cannot be written, or not compressed
        """
        entry = named.one(self.rooms, instance, disk)
        named.check_off(self.rooms, instance, "exported")
        with log.about(instance.name):
            self.rooms.backend(entry.backend).disk(instance.uuid, entry.name).extract(
                target, format, compress=compress, plaintext=plaintext, progress=self.rooms.progress
            )

    def export_key(self, instance: Instance, target: Path, disk: str = "") -> None:
        """Write the key of an encrypted disk to the new file ``target``, for this user alone.

        It opens what :meth:`export_disk` writes, as a passphrase; the disk's own key goes with the disk.

        :raises InvalidRequest: the disk is not encrypted
        :raises NotFound: its key is gone :raises NameTaken: the file exists
        """
        from cowshed.tools import filesystem

        entry = named.one(self.rooms, instance, disk)
        if entry.encryption is None:
            raise InvalidRequest(reason=f"{entry.name} of instance {instance.name} is not encrypted; it has no key")
        key = self.rooms.keys.get(entry.encryption.key_id)
        with filesystem.publish(target, unnamed=True) as new:
            filesystem.write_all(new.fd, key)
