"""Bytes into volumes."""

from __future__ import annotations

import os
from contextlib import ExitStack, closing
from pathlib import Path

from cowshed.contract.callbacks import SILENT, Progress
from cowshed.tools import block, filesystem


def fill(device: Path, source: int | None, size: int, *, zeroed: bool, progress: Progress = SILENT) -> None:
    """The first ``size`` bytes of the descriptor ``source``, then zeros up to the end of the device; durably.

    :param zeroed: the device reads as zeros now
    """
    from cowshed.tools.transfer.device import DeviceSink
    from cowshed.tools.transfer.layers import RawLayer
    from cowshed.tools.transfer.pump import pump

    with ExitStack() as stack, filesystem.errors_of(device, "write"):
        fd = block.open_device(device, os.O_RDWR)
        stack.callback(os.close, fd)
        sink = stack.enter_context(
            closing(DeviceSink(fd, size if source is not None else 0, zeroed=zeroed, digest=False))
        )
        progress.phase("copy", size)
        progress.check()
        if source is not None:
            pump(RawLayer(source), sink, progress=progress, size=size)
        sink.finish(end=block.size(device) or size, progress=progress)
        os.fsync(fd)


def copy(source: Path, device: Path, size: int, *, progress: Progress = SILENT) -> None:
    """From one volume to another; the end of the latter becomes zeros."""
    with filesystem.errors_of(source, "read"):
        fd = block.open_device(source)
        try:
            fill(device, fd, size, zeroed=False, progress=progress)
        finally:
            os.close(fd)


def zero_from(device: Path, start: int) -> None:
    """Zeros up to the end."""
    with filesystem.errors_of(device, "write"):
        fd = block.open_device(device, os.O_RDWR)
        try:
            block.zero(fd, start, block.size(device) or start)
            os.fsync(fd)
        finally:
            os.close(fd)
