"""Chunks of a disk through all cores: read, look for zeros, hand to a sink; memory stays flat."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from cowshed.contract.callbacks import Progress
from cowshed.tools.transfer.layers import Layer

CHUNK = 2 << 20


class Sink(Protocol):
    def write(self, start: int, data: memoryview) -> None:
        """Store one chunk, which lies page-aligned and is used again afterwards; called from several threads."""


def workers() -> int:
    """More than cores where there are few, so that the disk is asked for something meanwhile."""
    return min(max(os.cpu_count() or 1, 4), 8)


def pump(layer: Layer, sink: Sink, *, progress: Progress, size: int | None = None) -> None:
    """Move ``size`` bytes (default: all) of ``layer`` into ``sink``, ``CHUNK`` at a time.

    Each thread has one buffer, which is written from where it was read to. The first error of any
    thread is raised after the others have stopped.
    """
    end = layer.size if size is None else size
    local = threading.local()

    def move(start: int) -> None:
        buffer = getattr(local, "buffer", None)
        if buffer is None:
            buffer = local.buffer = memoryview(mmap.mmap(-1, CHUNK))
        piece = buffer[: min(CHUNK, end - start)]
        if layer.fill(piece, start):
            sink.write(start, piece)
        progress.update(len(piece))

    bounded(move, _starts(layer, end, progress), progress)


def _starts(layer: Layer, end: int, progress: Progress) -> Iterator[int]:
    """Of the chunks that may hold data."""
    position = 0
    while (data := layer.next_data(position)) < end:
        start = data // CHUNK * CHUNK
        if start > position:
            progress.update(start - position)
        yield start
        position = start + CHUNK
    if position < end:
        progress.update(end - position)


def bounded(work: Callable[[int], None], starts: Iterable[int], progress: Progress) -> None:
    """``work`` for every start, on all cores, with few in flight."""
    slots = threading.Semaphore(workers() * 2)
    failed = threading.Event()
    futures: list[Future[None]] = []

    def one(start: int) -> None:
        try:
            if not failed.is_set():
                work(start)
        except BaseException:
            failed.set()
            raise
        finally:
            slots.release()

    with ThreadPoolExecutor(workers(), thread_name_prefix="transfer") as pool:
        try:
            for start in starts:
                slots.acquire()
                if failed.is_set():
                    slots.release()
                    break
                progress.check()
                futures.append(pool.submit(one, start))
                if len(futures) > 64:
                    futures = [future for future in futures if not future.done() or future.exception()]
        except BaseException:
            failed.set()
            raise
    for future in futures:
        if error := future.exception():
            raise error
