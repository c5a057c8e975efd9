"""One disk as one volume, ``<uuid>_<disk>``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cowshed.contract.callbacks import SILENT, Progress
from cowshed.contract.storage import Importing, Sealing
from cowshed.disks import manifest
from cowshed.disks.encryption import Sealed, check_extract, key_of, new_encryption, new_key, require_source
from cowshed.disks.lvm import content, encryption, temporary
from cowshed.disks.lvm.clearing import require_closed
from cowshed.disks.lvm.snapshots import SnapshottingVolume
from cowshed.disks.recorded import RecordedDisk, whole_sectors
from cowshed.errors import CowshedError, InvalidRequest
from cowshed.model.disk import Base, DiskFormat, DiskSource, DiskType, EncryptionFormat, ManifestDisk
from cowshed.tools import block, cryptsetup, filesystem, lvm

if TYPE_CHECKING:
    from cowshed.disks.lvm.backend import LvmBackend


class LvmDisk(RecordedDisk, SnapshottingVolume, Importing, Sealing):
    format = DiskFormat.RAW
    backend = "lvm"

    def __init__(self, place: LvmBackend, instance: str, name: str) -> None:
        super().__init__(place.instances, instance, name)
        self.place = place
        self._volume = lvm.disk_volume(place.group, instance, name)

    def _new_location(self) -> str:
        return f"{self.place.group}/{self._volume}"

    def _shown(self, entry: ManifestDisk) -> Path:
        return lvm.node(*_place(entry))

    def exists(self) -> bool:
        """By the record and the volume: one without the other is no disk of ours."""
        entry = self._recorded()
        if entry is None:
            return False
        group, name = _place(entry)
        if block.size(lvm.node(group, name)) is not None:
            return True
        there = lvm.volumes(group)
        return (name in there and there[name].ours) or bool(self._moved(there))

    def _recorded(self) -> ManifestDisk | None:
        entry = manifest.find(self.directory, self.name)
        return entry if entry and entry.backend == self.backend else None

    # --- made ---------------------------------------------------------------------------------

    def create(
        self, size: int = 0, base: Base | None = None, *, encrypt: bool = False, progress: Progress = SILENT
    ) -> None:
        size = self._wanted(size, base)
        if base and base.format != DiskFormat.RAW:
            raise InvalidRequest(reason=f"a volume needs a raw base, not {base.format}")
        if encrypt or not (base and base.location):
            self._make(size, base, lambda device: self._fill(device, size, base, progress), encrypt=encrypt)
        else:
            self._clone(size, base)

    def import_file(self, path: Path, *, encrypt: bool = False) -> None:
        with filesystem.errors_of(path, "take over"):
            size = whole_sectors(path.stat().st_size)
        base = Base(path, DiskFormat.RAW, size)
        self._wanted(size, base)
        self._make(size, None, lambda device: self._fill(device, size, base, SILENT), encrypt=encrypt)
        filesystem.remove_file(path)

    def import_sealed(self, path: Path, key: bytes, *, progress: Progress = SILENT) -> None:
        size = encryption.sealed_size(path)

        def fill(device: Path) -> None:
            encryption.decrypt(path, key, device, size, progress=progress)
            content.zero_from(device, size)

        self._make(whole_sectors(size), None, fill, encrypt=True)
        filesystem.remove_file(path)

    def _clone(self, size: int, base: Base) -> None:
        """A thin snapshot of the base: one command under the final name, complete at once.

        A larger disk takes three, so that a name that exists is complete: made under another name,
        grown, renamed.
        """
        group, _, origin = base.location.partition("/")
        entry = self._described(size, base)
        self._refuse_existing()
        with self._directory():
            if size == whole_sectors(base.virtual_size):
                with self._recording(entry):
                    lvm.thin_snapshot(group, self._volume, origin, lvm.tags(**self._facts()))
            else:
                make = lambda name, tags: lvm.thin_snapshot(group, name, origin, tags)  # noqa: E731
                with temporary.volume(group, make, **self._facts()) as new:
                    lvm.extend(group, new, size)
                    self._publish(new, entry)
            self._settle()

    def _make(self, size: int, base: Base | None, fill: Callable[[Path], None], *, encrypt: bool) -> None:
        keys = require_source(self.place.keys, self.backend) if encrypt else None
        self._refuse_existing()
        with self._directory():
            if keys is None:
                self._make_volume(size, self._described(size, base), fill, None)
                return
            kind = EncryptionFormat(self.place.section.encryption)
            scheme = new_encryption(kind, cryptsetup.PARAMETERS[kind])
            entry = self._described(size, base, scheme)
            # The record comes first: a key that it does not name could never be found again.
            with manifest.announcing(self.directory, entry, taken=self.exists), new_key(keys, scheme) as sealed:
                self._make_volume(size, entry, fill, sealed)

    def _make_volume(self, size: int, entry: ManifestDisk, fill: Callable[[Path], None], sealed: Sealed | None) -> None:
        """A new volume, filled, then renamed."""
        group, facts = self.place.group, self._facts()
        if sealed:
            facts["encrypted"] = sealed.encryption.format.value
            size += cryptsetup.overhead(sealed.encryption.format)
        make = lambda name, tags: self.place.allocate(name, size, tags)  # noqa: E731
        with temporary.volume(group, make, **facts) as new, self.place.room_errors():
            device = lvm.node(group, new)
            if sealed:
                with encryption.formatted(device, new, sealed) as clear:
                    fill(clear)
            else:
                fill(device)
            self._publish(new, entry)
            self._settle()

    def _fill(self, device: Path, size: int, base: Base | None, progress: Progress) -> None:
        """The content of ``base``, then zeros up to the end of the device."""
        zeroed = self.place.zeroed and not device.name.endswith("-dmcrypt")
        with self._content(base) if base else nullcontext() as source:
            content.fill(device, source, base.virtual_size if base else size, zeroed=zeroed, progress=progress)

    @contextmanager
    def _content(self, base: Base) -> Iterator[int]:
        """A descriptor of the base's bytes: a file of the cache, or a volume of the pool."""
        if not base.location:
            with filesystem.errors_of(base.path, "read"):
                fd = filesystem.open_regular(base.path)
        else:
            group, _, name = base.location.partition("/")
            lvm.activate(group, name)
            fd = block.open_device(lvm.node(group, name))
        try:
            yield fd
        finally:
            os.close(fd)

    def _facts(self) -> dict[str, str]:
        return {"instance": self.instance, "disk": self.name}

    def _publish(self, new: str, entry: ManifestDisk) -> None:
        """The finished volume gets its name. :raises NameTaken: there is such a disk, or a volume that is not ours"""
        with self._recording(entry):
            lvm.rename(self.place.group, new, self._volume)

    @contextmanager
    def _recording(self, entry: ManifestDisk) -> Iterator[None]:
        with manifest.recording(self.directory, entry, taken=self.exists):
            filesystem.sync_directory(self.directory)
            yield

    @contextmanager
    def _directory(self) -> Iterator[None]:
        """There during the block; gone again after an error if it was not there before."""
        unsynced = filesystem.make_directory_unsynced(self.directory)
        try:
            for place in unsynced:
                filesystem.sync_directory(place)
            yield
        except BaseException:
            if unsynced:
                with suppress(OSError):
                    self.directory.rmdir()
            raise

    # --- grown --------------------------------------------------------------------------------

    def resize(self, size: int) -> None:
        self._entry()
        with self.working():
            super().resize(size)
            self._settle()

    def _grow(self, entry: ManifestDisk, size: int) -> None:
        group, name = _place(entry)
        volume, there = self._look(entry)
        self._detach(volume, there)
        self._activate_volume(group, name)
        header = cryptsetup.overhead(entry.encryption.format) if entry.encryption else 0
        with self.place.room_errors():
            lvm.extend(group, name, size + header)
            with self._in_clear(entry) as device:
                if entry.encryption:
                    cryptsetup.grow(name, key_of(self.place.keys, entry.encryption.key_id))
                if not volume.thin or entry.encryption:
                    content.zero_from(device, entry.virtual_size)

    def _settle(self) -> None:
        """Write down what LVM has made of the size: whole extents, which is what a guest sees."""
        entry = self._recorded()
        if entry is None:
            return
        whole = block.size(self._shown(entry))
        if whole is None:
            return
        seen = whole - (cryptsetup.overhead(entry.encryption.format) if entry.encryption else 0)
        if seen != entry.virtual_size:
            manifest.record(self.directory, replace(entry, virtual_size=seen))

    # --- gone ---------------------------------------------------------------------------------

    def delete(self) -> None:
        entry = self._recorded()
        group, name = _place(entry) if entry else (self.place.group, self._volume)
        there = lvm.volumes(group)
        volume = there.get(name)
        if volume is None or self._is_mine(volume, entry):
            cryptsetup.close(name)
            if volume:
                require_closed(volume)  # before its snapshots go
            for kept in (*(point.volume for point in self._known(there).values()), *self._moved(there), volume):
                if kept:
                    self.place.dispose(kept)
        if entry:
            if entry.encryption and self.place.keys:
                # Killed before the line goes, we are called again; the other way round the key would stay for ever.
                self.place.keys.delete(entry.encryption.key_id)
            manifest.forget(self.directory, self.name)

    def _is_mine(self, volume: lvm.Volume, entry: ManifestDisk | None) -> bool:
        """A disk that was moved has a volume that was made under another name: the manifest says that it is this one."""
        named = entry is not None and _place(entry)[1] == volume.name
        ours = volume.ours and volume.tags.get("instance") == self.instance
        return ours and (named or volume.tags.get("disk") == self.name)

    # --- looked at ----------------------------------------------------------------------------

    def _allocated(self, entry: ManifestDisk) -> int:
        volume, _ = self._look(entry)
        return int(volume.size * volume.used) if volume.thin else volume.size

    def source(self) -> DiskSource:
        entry = self._entry()
        _, name = _place(entry)
        return DiskSource(
            DiskType.BLOCK, entry.format, cryptsetup.node(name) if entry.encryption else self._shown(entry)
        )

    def extract(
        self,
        target: Path,
        format: DiskFormat,
        *,
        compress: bool = False,
        plaintext: bool = False,
        progress: Progress = SILENT,
    ) -> None:
        from cowshed.tools import transfer

        entry = self._entry()
        if entry.encryption:
            check_extract(format, compress=compress, plaintext=plaintext)
        with self._in_clear(entry) as device:
            if entry.encryption and not plaintext:
                sealed = Sealed(entry.encryption, key_of(self.place.keys, entry.encryption.key_id))
                size = entry.virtual_size
                encryption.extract(device, size, target, format, sealed, compress=compress, progress=progress)
                return
            source = DiskSource(DiskType.BLOCK, entry.format, device)
            transfer.export(source, target, format, compress=compress, progress=progress)

    # --- made ready for a guest ---------------------------------------------------------------

    def activate(self) -> None:
        self._entry()
        with self.working():
            volume, _ = self._look(self._entry())
            entry = self._entry()  # it may be another after what was interrupted is finished
            self._activate_volume(volume.group, volume.name)
            if entry.encryption:
                self._open(entry)
            if not volume.thin:
                self._finish_growing(entry)

    def deactivate(self) -> None:
        """The key leaves the kernel's memory; a volume in clear may stay as it is."""
        if (entry := self._recorded()) and entry.encryption:
            cryptsetup.close(_place(entry)[1])

    def _activate_volume(self, group: str, name: str) -> None:
        node = lvm.node(group, name)
        if block.size(node) is None:
            lvm.activate(group, name)
        else:
            block.grant(node)

    def _finish_growing(self, entry: ManifestDisk) -> None:
        """A kill between growing and writing it down leaves bytes behind the recorded end that nobody zeroed."""
        source = self.source().path
        seen = block.size(source) if source else None
        if source and seen and seen > entry.virtual_size:
            content.zero_from(source, entry.virtual_size)
            self._settle()

    def _open(self, entry: ManifestDisk) -> Path:
        scheme = entry.encryption
        assert scheme
        _, name = _place(entry)
        key = key_of(self.place.keys, scheme.key_id)
        return cryptsetup.open_volume(self._shown(entry), name, scheme.format, scheme.parameters, key)

    @contextmanager
    def _in_clear(self, entry: ManifestDisk) -> Iterator[Path]:
        """The device with the guest's bytes; what was not open before is closed again."""
        group, name = _place(entry)
        self._activate_volume(group, name)
        if not entry.encryption:
            yield lvm.node(group, name)
            return
        was_open = cryptsetup.is_open(name)
        try:
            yield self._open(entry)
        finally:
            if not was_open:
                with suppress(CowshedError):
                    cryptsetup.close(name)


def _place(entry: ManifestDisk) -> tuple[str, str]:
    """(group, volume) as the manifest says; the configuration may have changed since."""
    group, _, name = entry.location.partition("/")
    return group, name
