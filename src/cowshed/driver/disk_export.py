"""Disk export: the content of a disk as a file (beside the contract)."""

from __future__ import annotations

from pathlib import Path

from cowshed import log
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import named
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
