"""Where an image comes from: a path, a file:// URL or a web server."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cowshed.config import ImagesSection, user
from cowshed.errors import ImageRejected, InvalidRequest, NotFound
from cowshed.images.http import SCHEMES, HttpSource, shown
from cowshed.tools import filesystem


class LocalSource:
    """A regular file, held by one descriptor from the first look to the last byte."""

    def __init__(self, path: Path) -> None:
        """:raises NotFound: :raises PermissionDenied: :raises ImageRejected: it is not a regular file"""
        self.url = str(path)
        with filesystem.errors_of(path, "read"):
            try:
                # Not blocking: opening a FIFO must not wait for somebody to write into it.
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
            except (FileNotFoundError, NotADirectoryError):
                raise NotFound(kind="file", name=path) from None
            except OSError:
                if path.is_socket():
                    raise ImageRejected(image=path, reason="it is a socket, not a regular file") from None
                raise
        self.fd = fd
        self._first = os.fstat(fd)
        if not stat.S_ISREG(self._first.st_mode):
            os.close(fd)
            raise ImageRejected(image=path, reason=f"it is a {_kind(self._first.st_mode)}, not a regular file")
        self.size = self._first.st_size
        self.allocated = min(self.size, self._first.st_blocks * 512)

    def check_unchanged(self) -> None:
        """:raises ImageRejected: somebody wrote to the file since it was opened"""
        now = os.fstat(self.fd)
        if (now.st_size, now.st_mtime_ns) != (self._first.st_size, self._first.st_mtime_ns):
            raise ImageRejected(
                image=self.url, reason="it changed while it was read", hint="stop whoever writes to it, then try again"
            )

    def close(self) -> None:
        os.close(self.fd)


def _kind(mode: int) -> str:
    kinds = {stat.S_ISDIR: "directory", stat.S_ISFIFO: "FIFO", stat.S_ISBLK: "block device", stat.S_ISCHR: "device"}
    return next((name for test, name in kinds.items() if test(mode)), "special file")


def open_source(text: str, section: ImagesSection) -> LocalSource | HttpSource:
    """:raises InvalidRequest: it is neither a path nor a URL that can be fetched"""
    scheme = text.partition("://")[0].lower() if "://" in text else ""
    if not text or "\0" in text:
        raise InvalidRequest(reason="the source is empty" if not text else "the source has a NUL in it")
    if scheme in SCHEMES:
        return HttpSource(text, section)
    if scheme == "file":
        return LocalSource(_file_path(text))
    if scheme:
        raise InvalidRequest(reason=f"{shown(text)} cannot be fetched", hint="a path, file://, http:// or https://")
    return LocalSource(user.path(text))


def _file_path(text: str) -> Path:
    url = urlsplit(text)
    if url.netloc not in ("", "localhost") or url.query or not url.path.startswith("/"):
        raise InvalidRequest(reason=f"{text} does not name a file of this host", hint="write file:///path/of/the/file")
    return Path(unquote(url.path))
