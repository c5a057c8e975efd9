"""Volumes that this host has already: block devices, and files of a declared format."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from cowshed.contract.connecting import ConnectionInfo, Connector
from cowshed.errors import Conflict, InvalidRequest, NotFound, PermissionDenied
from cowshed.model.disk import DiskFormat, DiskSource, DiskType
from cowshed.tools import qemu_source
from cowshed.volumes import chain
from cowshed.volumes import info as infos

FORMATS = (DiskFormat.RAW, DiskFormat.QCOW2)


class BlockDevice(Connector):
    """``data``: ``device_path``, an absolute path below ``/dev``."""

    def check(self, info: ConnectionInfo) -> None:
        _absolute(infos.text(info, "device_path"))

    def connect(self, info: ConnectionInfo) -> DiskSource:
        path = _absolute(infos.text(info, "device_path"))
        block_size(path)
        return DiskSource(DiskType.BLOCK, DiskFormat.RAW, path)

    def disconnect(self, info: ConnectionInfo) -> None:
        """It stays where it is."""

    def size(self, info: ConnectionInfo) -> int:
        return block_size(_absolute(infos.text(info, "device_path")))

    def look(self, info: ConnectionInfo) -> int | None:
        return self.size(info)


class File(Connector):
    """``data``: ``path`` (absolute) and ``format`` (raw or qcow2): what a file holds is never guessed.

    :param private: directories whose files are nobody's volumes, such as the disks of instances
    """

    def __init__(self, private: Sequence[Path] = ()) -> None:
        self._private = private

    def check(self, info: ConnectionInfo) -> None:
        path = _absolute(infos.text(info, "path"))
        format_of(info)
        for place in self._private:
            if path.resolve().is_relative_to(place.resolve()):
                raise Conflict(reason=f"{path} belongs to cowshed itself", hint=f"take a file outside {place}")

    def connect(self, info: ConnectionInfo) -> DiskSource:
        self.check(info)
        return chain.source(_absolute(infos.text(info, "path")), format_of(info))

    def disconnect(self, info: ConnectionInfo) -> None:
        """It stays where it is."""

    def size(self, info: ConnectionInfo) -> int:
        return qemu_source.size(self.connect(info))

    def look(self, info: ConnectionInfo) -> int | None:
        return self.size(info)


def format_of(info: ConnectionInfo) -> DiskFormat:
    """:raises InvalidRequest: it is not said, or not one of ours"""
    found = infos.data(info).get("format")
    if found not in FORMATS:
        reason = f"the format of {infos.data(info).get('path')} is {'not known' if found else 'not given'}"
        raise InvalidRequest(reason=reason, hint=f"say {' or '.join(FORMATS)}: it is never guessed from the content")
    return DiskFormat(found)


def block_size(path: Path) -> int:
    """Bytes of a block device.

    :raises NotFound: nothing is there :raises InvalidRequest: it is something else :raises PermissionDenied:
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFound(kind="volume", name=path) from None
    except PermissionError:
        raise PermissionDenied(action="open", path=path) from None
    except OSError as error:  # a loop device without a file, a disk that was pulled out
        raise NotFound(kind="volume", name=path, hint=error.strerror) from error
    try:
        if not stat.S_ISBLK(os.fstat(fd).st_mode):
            raise InvalidRequest(reason=f"{path} is not a block device", hint="give a file with its format")
        size = os.lseek(fd, 0, os.SEEK_END)
    finally:
        os.close(fd)
    if not size:
        raise NotFound(kind="volume", name=path, hint="the device is there but has nothing in it")
    return size


def has_direct_io(path: Path) -> bool:
    """Can the file be opened past the page cache?"""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _absolute(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute() or ".." in path.parts:
        raise InvalidRequest(reason=f"{text} is not an absolute path")
    return path
