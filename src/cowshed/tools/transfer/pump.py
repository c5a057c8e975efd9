"""Chunks of a disk through all cores: read, look for zeros, hand to a sink; memory stays flat."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from cowshed.contract.callbacks import Progress
from cowshed.tools.transfer.layers import ZERO, Layer

CHUNK = 2 << 20


class Sink(Protocol):
    def write(self, start: int, data: bytes) -> None:
        """Store one chunk that is not all zero; called from several threads."""


def workers() -> int:
    return min(os.cpu_count() or 1, 8)


def pump(layer: Layer, sink: Sink, *, progress: Progress, size: int | None = None) -> None:
    """Move ``size`` bytes (default: all) of ``layer`` into ``sink``, ``CHUNK`` at a time.

    The first error of any thread is raised after the others have stopped.
    """
    end = layer.size if size is None else size

    def move(start: int) -> None:
        length = min(CHUNK, end - start)
        data = layer.read(start, length)
        if data is not None and not ZERO.startswith(data):
            sink.write(start, data)
        progress.update(length)

    bounded(move, range(0, end, CHUNK), progress)


def bounded(work: Callable[[int], None], starts: range, progress: Progress) -> None:
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
