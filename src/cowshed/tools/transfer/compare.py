"""Has a copy the content of the original? Digests of what a guest would read."""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress

from cowshed.contract.callbacks import SILENT, Progress
from cowshed.model.disk import DiskSource
from cowshed.tools.transfer.export import open_layer
from cowshed.tools.transfer.pump import pump
from cowshed.tools.transfer.sinks import Crcs


def digest_of_source(source: DiskSource, *, size: int, progress: Progress = SILENT) -> str:
    """The digest (:meth:`Crcs.digest`) of the first ``size`` bytes of a disk in a file, with its parents.

    Read from storage as far as the kernel lets go of what it has in memory, since a copy that was
    just written is there.
    """
    with ExitStack() as stack:
        _forget_pages(source)
        layer = open_layer(source, stack)
        crcs = Crcs(size)
        pump(layer, crcs, progress=progress, size=size)
        return crcs.digest()


def _forget_pages(source: DiskSource) -> None:
    if source.path is None:
        return
    with suppress(OSError):
        fd = os.open(source.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)
