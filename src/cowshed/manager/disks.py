"""Disks of a host's instances, as the library and the command show them; one change of an instance at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cowshed import log
from cowshed.config import user
from cowshed.errors import CowshedError, InvalidRequest
from cowshed.manager import listing
from cowshed.manager.records import Record
from cowshed.model.disk import DiskFormat, DiskSnapshot, LocalDisk
from cowshed.units import checked_size, format_size, parse_size

if TYPE_CHECKING:
    from cowshed.driver import LibvirtDriver
    from cowshed.manager.instances import Instances

_log = log.logger(__name__)


class Disks:
    """List, show, resize, move, export and snapshots.

    ``ref`` is an instance: name, UUID, or the beginning of one. ``disk`` is the disk's name, a word
    (``root``, ``swap``, ``ephemeral``), or its target in the guest (``vda``); empty: the root disk.
    What needs a disk alone is an InvalidState while the instance runs or is suspended.
    """

    def __init__(self, driver: LibvirtDriver, instances: Instances) -> None:
        self._driver = driver
        self._instances = instances

    # --- look ---------------------------------------------------------------------------------

    def list(self, ref: str = "") -> list[tuple[Record, LocalDisk]]:
        """Of one instance, or of all: then one whose disks cannot be told is logged and left out."""
        if ref:
            record = self._instances.records.find(ref)
            return [(record, disk) for disk in self._driver.list_disks(record.instance)]
        found: list[tuple[Record, LocalDisk]] = []
        for record in self._instances.records.all():
            try:
                found += [(record, disk) for disk in self._driver.list_disks(record.instance)]
            except CowshedError as error:
                _log.warning("the disks of %s cannot be told: %s", record.name, error)
        return found

    def show(self, ref: str, disk: str = "") -> LocalDisk:
        """:raises InstanceNotFound: :raises DiskNotFound:"""
        return self._driver.show_disk(self._instances.records.find(ref).instance, disk)

    # --- change -------------------------------------------------------------------------------

    def resize(self, ref: str, size: str | int, disk: str = "") -> LocalDisk:
        """Grow it, also under a running guest where its backend can.

        :param size: bytes, words such as ``20G``, or ``+5G``: that much more
        :raises DiskTooSmall: it is larger; a disk is never cut
        """
        with self._instances.holding(ref, "given a larger disk") as record:
            before = self._driver.show_disk(record.instance, disk)
            wanted = _wanted(size, before.virtual_size)
            now = self._driver.resize_disk(record.instance, wanted, before.name)
            if now != before.virtual_size:
                self._note(record, "disk resized", f"{before.name} to {format_size(now)}")
        return dataclasses.replace(before, virtual_size=now)

    def move(self, ref: str, backend: str, disk: str = "") -> LocalDisk:
        """Let it live on ``backend``; it does already is success. The copy is compared before the old disk goes.

        :raises InvalidState: :raises Conflict: it has snapshots :raises UnsupportedOperation: it is encrypted
        """
        with self._instances.holding(ref, "moved to another backend") as record:
            name = self._driver.show_disk(record.instance, disk).name
            if self._driver.move_disk(record.instance, backend, name):
                chosen = {**record.instance.disk_backends, name: backend}
                record = dataclasses.replace(
                    record, instance=dataclasses.replace(record.instance, disk_backends=chosen)
                )
                self._note(record, "disk moved", f"{name} to {backend}")
            return self._driver.show_disk(record.instance, name)

    def export(
        self,
        ref: str,
        target: str | Path,
        disk: str = "",
        *,
        format: DiskFormat | str = DiskFormat.QCOW2,
        compress: bool = False,
        plaintext: bool = False,
        key_file: str | Path | None = None,
    ) -> Path:
        """Its content as a new file.

        :param plaintext: of an encrypted disk: decrypt it; else the file is encrypted with the disk's key
        :param key_file: a new file for that key, readable by this user alone
        :raises InvalidRequest: a key is wanted where there is none
        """
        path = user.path(target)
        if key_file and plaintext:
            raise InvalidRequest(reason="what is exported in plaintext needs no key", hint="leave one of them out")
        with self._instances.holding(ref, "exported") as record:
            keys = user.path(key_file) if key_file else None
            if keys:  # first: without it the other file is worth nothing
                self._driver.export_key(record.instance, keys, disk)
            try:
                self._driver.export_disk(
                    record.instance, path, disk, format=DiskFormat(format), compress=compress, plaintext=plaintext
                )
            except BaseException:
                if keys:
                    keys.unlink(missing_ok=True)
                raise
        return path

    # --- snapshots ----------------------------------------------------------------------------

    def take_snapshot(self, ref: str, name: str, disk: str = "") -> Sequence[str]:
        """Of ``disk``; empty: of all disks together. Returns the names of the disks."""
        with self._instances.holding(ref, "given a snapshot") as record:
            disks = self._driver.take_disk_snapshot(record.instance, name, disk)
            self._note(record, "snapshot taken", f"{name} of {', '.join(disks)}")
        return disks

    def snapshots(self, ref: str, disk: str = "") -> Sequence[tuple[str, DiskSnapshot]]:
        """(disk, snapshot) of ``disk``; empty: of all disks."""
        return self._driver.list_disk_snapshots(self._instances.records.find(ref).instance, disk)

    def list_snapshots(self, ref: str = "", disk: str = "") -> Sequence[tuple[Record, tuple[str, DiskSnapshot]]]:
        """As :meth:`snapshots`, of one instance, or of all: then one whose snapshots cannot be told is logged and left out."""
        return listing.of_each(
            self._instances.records,
            ref,
            "snapshots",
            lambda record: self._driver.list_disk_snapshots(record.instance, disk),
        )

    def roll_back(self, ref: str, name: str, disk: str = "") -> Sequence[str]:
        """``disk``; empty: all disks together. What was written since is lost. Returns the names of the disks."""
        with self._instances.holding(ref, "rolled back") as record:
            disks = self._driver.roll_back_disks(record.instance, name, disk)
            self._note(record, "rolled back", f"{', '.join(disks)} to {name}")
        return disks

    def remove_snapshot(self, ref: str, name: str, disk: str = "") -> Sequence[str]:
        """Of ``disk``; empty: of every disk that has it. Returns the names of the disks."""
        with self._instances.holding(ref, "rid of a snapshot") as record:
            disks = self._driver.remove_disk_snapshot(record.instance, name, disk)
            self._note(record, "snapshot removed", f"{name} of {', '.join(disks)}")
        return disks

    def _note(self, record: Record, event: str, detail: str) -> None:
        self._instances.records.update(record, event, detail)


def _wanted(size: str | int, now: int) -> int:
    """:raises InvalidRequest: it is not a size"""
    if isinstance(size, str) and size.strip().startswith("+"):
        return checked_size(now + parse_size(size.strip()[1:]))
    return parse_size(size)
