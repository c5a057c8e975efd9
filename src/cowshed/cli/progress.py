"""Progress on standard error: a line that moves on a terminal, or lines, or JSON lines."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from cowshed.cli import output
from cowshed.contract.callbacks import SILENT, NoProgress, Progress
from cowshed.units import format_duration, format_size

_PATIENCE = 0.4  # seconds; shorter phases are not worth a line
_EVERY = 0.1


class Meter:
    """Counts, and shows at most ten times a second; calls may come from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._name = ""
        self._total: int | None = None
        self._done = 0
        self._began = self._shown = 0.0

    def phase(self, name: str, total: int | None = None) -> None:
        with self._lock:
            self._finish()
            self._name, self._total, self._done = name, total, 0
            self._began = self._shown = time.monotonic()

    def update(self, done: int) -> None:
        with self._lock:
            self._done += done
            now = time.monotonic()
            if now - self._began > _PATIENCE and now - self._shown > _EVERY:
                self._shown = now
                self.show(self._name, self._done, self._total, now - self._began)

    def check(self) -> None:
        pass

    def note(self, text: str) -> None:
        with self._lock:
            self.told(text)

    def end(self) -> None:
        with self._lock:
            self._finish()

    every = False  # is the end of a short phase told, too?

    def _finish(self) -> None:
        if self._name and (self._shown > self._began or (self.every and self._done)):
            self.done(self._name, self._done, time.monotonic() - self._began)
        self._name = ""

    def show(self, name: str, done: int, total: int | None, seconds: float) -> None:
        raise NotImplementedError

    def done(self, name: str, done: int, seconds: float) -> None:
        raise NotImplementedError

    def told(self, text: str) -> None:
        _tell(text)


class Bar(Meter):
    """One line that is written over."""

    def show(self, name: str, done: int, total: int | None, seconds: float) -> None:
        share = f"{100 * min(done, total) // total:3d} % of {format_size(total)}" if total else format_size(done)
        output.note(f"\r\x1b[K{name:<9} {share}  {format_size(int(done / seconds))}/s", end="")

    def done(self, name: str, done: int, seconds: float) -> None:
        output.note("\r\x1b[K", end="")

    def told(self, text: str) -> None:
        output.note("\r\x1b[K", end="")
        _tell(text)


class Plain(Meter):
    """A line a phase, one every few seconds, and one at the end of a phase that took a while."""

    _next = 0.0

    def phase(self, name: str, total: int | None = None) -> None:
        super().phase(name, total)
        output.note(f"{name}" + (f" {format_size(total)}" if total else ""))

    def show(self, name: str, done: int, total: int | None, seconds: float) -> None:
        if seconds < self._next or not done:
            return
        self._next = seconds + 5
        output.note(f"{name} {format_size(done)}" + (f" of {format_size(total)}" if total else ""))

    def done(self, name: str, done: int, seconds: float) -> None:
        self._next = 0.0
        output.note(f"{name} {format_size(done)} in {format_duration(seconds)}")


class Json(Meter):
    """JSON lines: {"phase": ..., "done": bytes, "total": bytes or null, "seconds": ...}; a phase with bytes ends with done = total.
    Between them {"note": ...}: why nothing goes on for a while.
    """

    every = True

    def phase(self, name: str, total: int | None = None) -> None:
        super().phase(name, total)
        self.show(name, 0, total, 0.0)

    def show(self, name: str, done: int, total: int | None, seconds: float) -> None:
        line = {"phase": name, "done": done, "total": total, "seconds": round(seconds, 2)}
        output.note(json.dumps(line))

    def done(self, name: str, done: int, seconds: float) -> None:
        self.show(name, done, done, seconds)

    def told(self, text: str) -> None:
        output.note(json.dumps({"note": text}))


class Notes(NoProgress):
    """Only what nobody would expect."""

    def note(self, text: str) -> None:
        _tell(text)


def _tell(text: str) -> None:
    output.note(f"cowshed: {output.printable(text)}")


@contextmanager
def chosen(kind: str) -> Iterator[Progress]:
    """The progress of ``--progress kind``; ``auto`` shows only notes unless standard error is a terminal."""
    if kind == "none":
        yield SILENT
        return
    if kind == "auto" and not sys.stderr.isatty():
        yield Notes()
        return
    if kind == "auto" and os.environ.get("TERM", "dumb") == "dumb":
        kind = "plain"  # it cannot write a line over
    meter = {"auto": Bar, "plain": Plain, "json": Json}[kind]()
    try:
        yield meter
    finally:
        meter.end()
