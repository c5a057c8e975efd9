"""Files and directories that are complete or not there, and the room for them.

Order of publishing (a crash at any point leaves the old state or the new one): write under a
temporary name in the same directory, sync the file, give it its name, sync the directory.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cowshed.errors import (
    CowshedError,
    NameTaken,
    NoSpace,
    NotFound,
    OperatorError,
    PermissionDenied,
    UnsupportedOperation,
)
from cowshed.units import MiB, format_size

PART = ".part"
READ_ONLY = "its file system is mounted read-only"
_IN_MEMORY = 256 * MiB
_RENAME_NOREPLACE = 1
_MOUNT_FLAGS = {
    "nosuid": os.ST_NOSUID,
    "nodev": os.ST_NODEV,
    "noexec": os.ST_NOEXEC,
    "noatime": os.ST_NOATIME,
    "nodiratime": os.ST_NODIRATIME,
    "relatime": os.ST_RELATIME,
}

_libc = ctypes.CDLL(None, use_errno=True)
_HAS_PROC = Path("/proc/self/fd").exists()


@contextmanager
def errors_of(path: Path | str, action: str) -> Iterator[None]:
    """The one place where the system's file errors become ours."""
    try:
        yield
    except CowshedError:
        raise
    except OSError as error:
        if error.errno is None:
            raise  # not the system's word
        raise _translated(error, path, action) from error


def _translated(error: OSError, path: Path | str, action: str) -> CowshedError:
    if error.errno == errno.EFBIG:
        where = f"the file system of {Path(path).parent}"
        return UnsupportedOperation(subject=where, operation=f"{action} a file that large", reason=error.strerror)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        place = Path(path).parent
        free = free_space(place) if place.exists() else 0
        return NoSpace(place=place, needed="more", free=free, hint="free some space, then try again")
    if error.errno == errno.EROFS:
        return PermissionDenied(action=action, path=path, hint=READ_ONLY)
    if error.errno in (errno.EACCES, errno.EPERM):
        return PermissionDenied(action=action, path=path)
    if error.errno == errno.ENOENT:
        return NotFound(kind="file", name=error.filename or path)
    return OperatorError(reason=f"could not {action} {path}: {error.strerror or error}")


# --- publishing -------------------------------------------------------------------------------


class Publication:
    """A file being made: write to ``fd``, or let a tool write to ``path``.

    ``commit`` gives it its name before the block ends, for those who have more to do then.
    """

    def __init__(self, target: Path, mode: int, *, replace: bool, sync: bool, sync_parent: bool, unnamed: bool) -> None:
        self.target = target
        self.committed = False
        self._replace, self._sync, self._sync_parent = replace, sync, sync_parent
        fd = _open_unnamed(target.parent, mode) if unnamed and not replace else None
        self._temporary: Path | None = None
        if fd is None:
            self._temporary = target.parent / f".{target.name}.{secrets.token_hex(6)}{PART}"
            fd = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        self.fd = fd
        if stat.S_IMODE(os.fstat(fd).st_mode) != mode:  # the umask took some; touching it later costs a commit
            os.fchmod(fd, mode)

    @property
    def path(self) -> Path:
        return self._temporary or Path(f"/proc/{os.getpid()}/fd/{self.fd}")

    def commit(self) -> None:
        """Sync the file, let it appear under its name, sync the directory."""
        if self.committed:
            return
        if self._sync:
            os.fsync(self.fd)
        self._name()
        self.committed = True
        if self._sync_parent:
            self._sync_name()

    def _name(self) -> None:
        if self._temporary:
            rename(self._temporary, self.target, replace=self._replace)
            return
        try:  # linkat(2) follows the link only when a directory descriptor is given
            os.link(f"/proc/self/fd/{self.fd}", self.target, src_dir_fd=self.fd, follow_symlinks=True)
        except FileExistsError:
            raise NameTaken(kind="file", name=self.target) from None

    def _sync_name(self) -> None:
        try:
            sync_directory(self.target.parent)
        except OSError:
            if not self._replace:  # a name that may not last is taken back
                with suppress(OSError):
                    os.unlink(self.target)
            raise

    def close(self) -> None:
        """Without a commit, nothing is left."""
        if self._temporary and not self.committed:
            with suppress(OSError):
                os.unlink(self._temporary)
        os.close(self.fd)


def _open_unnamed(directory: Path, mode: int) -> int | None:
    """A file without a name: if this process is killed, the kernel removes it. None where that cannot be done."""
    if not _HAS_PROC:
        return None
    try:
        return os.open(directory, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, mode)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            return None
        raise


@contextmanager
def publish(
    path: Path,
    *,
    mode: int = 0o600,
    replace: bool = False,
    sync: bool = True,
    sync_parent: bool = True,
    unnamed: bool = False,
) -> Iterator[Publication]:
    """Make ``path`` appear whole when the block ends well, and leave nothing when it does not.

    :param sync_parent: off: the caller syncs the directory
    :param unnamed: have no temporary name where the file system allows it (ext4, XFS, Btrfs,
        tmpfs), so that even a killed process leaves nothing; ``path`` of the publication is then
        one in /proc
    :raises NameTaken: ``path`` exists already (unless ``replace``)
    :raises NoSpace: :raises PermissionDenied:
    """
    with errors_of(path, "write"):
        publication = Publication(path, mode, replace=replace, sync=sync, sync_parent=sync_parent, unnamed=unnamed)
        try:
            yield publication
            publication.commit()
        finally:
            publication.close()


class _Memory(Publication):
    """A file in memory, which never gets a name."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("scratch", os.MFD_CLOEXEC)
        self.committed = False
        self._temporary: Path | None = None


@contextmanager
def secret_scratch(directory: Path, size: int) -> Iterator[Publication]:
    """As :func:`scratch`, for what must not lie on storage as it is: in memory, unless it is larger than 256 MiB."""
    if size > _IN_MEMORY:
        with scratch(directory, size) as found:
            yield found
        return
    memory = _Memory()
    try:
        os.ftruncate(memory.fd, size)
        yield memory
    finally:
        memory.close()


@contextmanager
def scratch(directory: Path, size: int) -> Iterator[Publication]:
    """A file of ``size`` zero bytes for work in ``directory`` that never gets a name to keep."""
    with errors_of(directory, "write to"):
        publication = Publication(
            directory / "scratch", 0o600, replace=False, sync=False, sync_parent=False, unnamed=True
        )
        try:
            os.ftruncate(publication.fd, size)
            yield publication
        finally:
            publication.close()


def rename(source: Path, target: Path, *, replace: bool = False) -> None:
    """:raises NameTaken: ``target`` exists (unless ``replace``)"""
    if replace:
        os.rename(source, target)
        return
    status = _libc.renameat2(-100, os.fsencode(source), -100, os.fsencode(target), _RENAME_NOREPLACE)
    if status == 0:
        return
    number = ctypes.get_errno()
    if number == errno.EEXIST:
        raise NameTaken(kind="file", name=target)
    if number not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(number, os.strerror(number), str(target))
    # A file system without RENAME_NOREPLACE, such as NFS and CephFS.
    if source.is_dir():
        return _rename_directory(source, target)
    try:
        os.link(source, target)
    except FileExistsError:
        raise NameTaken(kind="file", name=target) from None
    os.unlink(source)


def _rename_directory(source: Path, target: Path) -> None:
    """A directory has one name only, and takes the place of nothing but an empty one."""
    if os.path.lexists(target):
        raise NameTaken(kind="file", name=target)
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise NameTaken(kind="file", name=target) from None


def sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_atomically(path: Path, data: bytes, *, mode: int = 0o600, sync_parent: bool = True) -> None:
    """Replace the content of ``path``; a reader sees the old or the new."""
    with publish(path, mode=mode, replace=True, sync_parent=sync_parent) as publication:
        write_all(publication.fd, data)


def write_all(fd: int, data: bytes | memoryview, offset: int = 0) -> None:
    """All of ``data`` at ``offset``, however few bytes the system takes at once."""
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done


def make_directory(path: Path, *, mode: int = 0o711) -> None:
    """Durably, with its parents; an existing one is success."""
    with errors_of(path, "create"):
        for parent in make_directory_unsynced(path, mode=mode):
            sync_directory(parent)


def make_directory_unsynced(path: Path, *, mode: int = 0o711) -> list[Path]:
    """As :func:`make_directory`, but the caller syncs the returned directories, in this order.

    Synced after what was put into the new directory, they cost nothing: the same journal commit
    has carried them.
    """
    if os.path.isdir(path):  # a microsecond instead of ten, and every new disk asks
        return []
    with errors_of(path, "create"):
        missing = [place for place in (path, *path.parents) if not place.is_dir()]
        for place in reversed(missing):
            try:
                place.mkdir(mode=mode)
            except FileExistsError:
                if not place.is_dir():
                    raise
        return [place.parent for place in missing]


def remove_tree(path: Path, trash: Path) -> None:
    """Rename ``path`` to ``trash`` (the atomic step), then delete that; already gone is success."""
    with errors_of(path, "delete"):
        _remove_all(trash)
        try:
            os.rename(path, trash)
        except FileNotFoundError:
            return
        sync_directory(path.parent)
        _remove_all(trash)


def _remove_all(place: Path) -> None:
    """Also while another process removes the same tree."""
    while True:
        try:
            return shutil.rmtree(place)
        except FileNotFoundError:
            if not os.path.lexists(place):
                return


def remove_file(path: Path) -> None:
    """Already gone is success."""
    with errors_of(path, "delete"), suppress(FileNotFoundError):
        path.unlink()


def open_regular(path: Path, flags: int = os.O_RDONLY) -> int:
    """A descriptor of a regular file, not through a symbolic link as its last part.

    A FIFO or device would hang or mislead whoever reads it, so it is refused.
    """
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OperatorError(reason=f"{path} is not a regular file")
    return fd


def mount_flags(path: Path) -> list[str]:
    """How the file system of ``path`` is mounted, in mount's words; a second mount of it must keep that."""
    with errors_of(path, "look at"):
        found = os.statvfs(path).f_flag
    return [word for word, flag in _MOUNT_FLAGS.items() if found & flag]


def is_read_only(path: Path) -> bool:
    """Is the file system of ``path`` mounted so? No right to write there helps then."""
    with suppress(OSError):
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    return False


def nearest(path: Path) -> Path:
    """``path``, or the nearest of its parents that is there, as far as we may look."""
    while not os.path.exists(path):  # Path's own fails below what we may not enter
        path = path.parent
    return path


def free_space(path: Path) -> int:
    """Bytes an ordinary user may still write where ``path`` (or its nearest parent) is."""
    facts = os.statvfs(nearest(path))
    return facts.f_bavail * facts.f_frsize


def check_space(path: Path, needed: int) -> None:
    """:raises NoSpace: fewer than ``needed`` bytes are free at ``path``"""
    free = free_space(path)
    if needed > free:
        raise NoSpace(
            place=path, needed=needed, free=free, hint=f"free {format_size(needed - free)}, or use another place"
        )
