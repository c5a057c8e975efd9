"""What goes into the data file of a ploop disk: nothing, a base, or what somebody writes to a raw file."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from cowshed.contract.callbacks import SILENT, Progress
from cowshed.disks.copies import CopiedSnapshots
from cowshed.disks.encryption import Sealed
from cowshed.errors import DataCorrupt, InvalidRequest
from cowshed.model.disk import Base, DiskFormat, DiskSource, DiskType
from cowshed.tools import filesystem, ploop, reflink
from cowshed.tools.filesystem import Publication

KINDS = {DiskFormat.RAW: ploop.Kind.PLAIN, DiskFormat.PLOOP: ploop.Kind.EXPANDED}


class PloopContent(CopiedSnapshots):
    """Both kinds of data file, as ``[disks] ploop_format`` says."""

    @property
    def _configured(self) -> DiskFormat:
        return configured(self.section.ploop_format)

    def _check_base(self, base: Base) -> None:
        if base.format not in KINDS:
            raise InvalidRequest(reason=f"a ploop disk needs a raw or a ploop base, not {base.format}")

    def _fill(self, new: Publication, size: int, base: Base | None, sealed: Sealed | None, progress: Progress) -> None:
        self._check_room(size)
        progress.check()
        if self._configured == DiskFormat.RAW:
            self._fill_plain(new.fd, size, base, progress)
        else:
            self._fill_expanded(new.fd, size, base, progress)

    def _fill_plain(self, fd: int, size: int, base: Base | None, progress: Progress) -> None:
        from cowshed.tools import transfer

        if base and base.format == DiskFormat.RAW:
            self._copy(base.path, fd, progress)
        elif base:
            with ExitStack() as stack:
                transfer.to_raw(transfer.open_layer(_of(base), stack), fd, progress=progress)
        os.ftruncate(fd, size)
        self._preallocate(fd, 0, size)

    def _fill_expanded(self, fd: int, size: int, base: Base | None, progress: Progress) -> None:
        if base is None:
            ploop.create_blank(fd, size)
        elif self.reserves or not self._shared(base, fd, size):
            self._converted(_of(base), fd, size, progress)
        self._reserve(fd)

    def _shared(self, base: Base, fd: int, size: int) -> bool:
        """The blocks of the base under a header of our own, or with the base's; False where they cannot be shared."""
        with filesystem.errors_of(base.path, "read"):
            source = filesystem.open_regular(base.path)
        try:
            if base.format == DiskFormat.RAW:
                return ploop.clone_raw(source, fd, size)
            checked(source, base.path, base.virtual_size)
            if not reflink.clone(source, fd):
                return False
            if size > base.virtual_size:
                ploop.grow(fd, size)
            return True
        except ploop.PloopError as error:
            raise DataCorrupt(path=base.path, reason=str(error)) from error
        finally:
            os.close(source)

    def _converted(self, source: DiskSource, fd: int, size: int, progress: Progress) -> None:
        from cowshed.tools import transfer

        with ExitStack() as stack:
            layer = transfer.open_layer(source, stack)
            progress.phase("copy", layer.size)
            transfer.to_ploop(layer, fd, size, progress=progress)

    def _reserve(self, fd: int) -> None:
        if self.reserves:
            self._preallocate(fd, 0, ploop.map_rest(fd))

    def _fill_with(self, new: Publication, size: int, write: Callable[[Path], object], sealed: Sealed | None) -> None:
        self._check_room(size)
        if self._configured == DiskFormat.RAW:
            os.ftruncate(new.fd, size)
            write(new.path)
            self._preallocate(new.fd, 0, size)
            return
        with filesystem.scratch(self.directory, size) as scratch:
            write(scratch.path)
            self._converted(DiskSource(DiskType.FILE, DiskFormat.RAW, scratch.path), new.fd, size, SILENT)
        self._reserve(new.fd)

    def _fill_from(self, new: Publication, size: int, path: Path, sealed: Sealed | None) -> None:
        self._fill(new, size, Base(path, DiskFormat.RAW, size), sealed, SILENT)


def configured(word: str) -> DiskFormat:
    return DiskFormat.RAW if word == "raw" else DiskFormat.PLOOP


def _of(base: Base) -> DiskSource:
    return DiskSource(DiskType.FILE, base.format, base.path)


def checked(fd: int, path: Path, size: int = 0) -> ploop.Header:
    """The header of a whole data file. :raises DataCorrupt:"""
    try:
        header = ploop.read_header(fd)
        ploop.check(fd, header)
        if size and header.size != size:
            raise ploop.PloopError(f"its size is {header.size}, not {size}")
        return header
    except ploop.PloopError as error:
        raise DataCorrupt(path=path, reason=str(error)) from error
