"""Writing past the page cache, where offset and length allow it.

Measured on ext4 with two cores: 600 MiB into a sparse file, durable, take 0.27 s and 0.1 s of CPU
with O_DIRECT, against 0.3 to 1.8 s and 0.25 to 2.7 s through the page cache, however early the
write-back is started.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from cowshed.tools.sparse import start_writing

ALIGN = 4096  # at least the logical block size of any disk


class Writer:
    """Writes to ``fd`` at any offset from any thread; aligned pieces go directly to storage."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._direct: int | None = None
        with suppress(OSError):  # tmpfs, for one, has no O_DIRECT
            self._direct = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)

    def write(self, data: bytes | memoryview, offset: int, *, aligned: bool = False) -> None:
        """:param aligned: ``data`` begins at a multiple of ``ALIGN`` in memory"""
        view = memoryview(data)
        if aligned and self._direct is not None and not offset % ALIGN:
            done = self._put(view[: len(view) // ALIGN * ALIGN], offset)
            view, offset = view[done:], offset + done
        self._buffered(view, offset)

    def _put(self, view: memoryview, offset: int) -> int:
        """Bytes written; fewer than there are when the file system refuses after all."""
        assert self._direct is not None
        done = 0
        try:
            while done < len(view):
                done += os.pwrite(self._direct, view[done:], offset + done)
        except OSError as error:
            if error.errno != errno.EINVAL:  # larger blocks than ALIGN
                raise
        return done

    def _buffered(self, view: memoryview, offset: int) -> None:
        begin, length = offset, len(view)
        while view:
            done = os.pwrite(self.fd, view, offset)
            view, offset = view[done:], offset + done
        if length:
            start_writing(self.fd, begin, length)

    def close(self) -> None:
        if self._direct is not None:
            os.close(self._direct)
            self._direct = None
