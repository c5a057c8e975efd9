"""A guest's serial console as a two-way stream, driven by libvirt's event loop."""

from __future__ import annotations

import os
import threading
from collections import deque
from typing import Any, Final

from cowshed import clock, log
from cowshed.clock import Deadline
from cowshed.errors import InvalidState
from cowshed.hypervisor.binding import libvirt

_log = log.logger(__name__)

_NONBLOCK: Final = 1  # VIR_STREAM_NONBLOCK
_FORCE: Final = 1  # VIR_DOMAIN_CONSOLE_FORCE
_READABLE: Final = 1
_ENDED: Final = 4 | 8  # VIR_STREAM_EVENT_ERROR, _HANGUP
_CHUNK: Final = 64 * 1024
_HELD: Final = 1 << 20  # bytes kept for a slow reader before the guest has to wait
_WOULD_BLOCK: Final = -2


class ConsoleStream:
    """Bytes to and from the guest. ``fileno()`` is readable when there is something to read or it ended."""

    def __init__(self, stream: Any, name: str) -> None:
        self._stream = stream
        self._name = name
        self._changed = threading.Condition()
        self._held: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._listening = True
        self._signal, self._signalled = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    @classmethod
    def open(cls, connection: Any, domain: Any, device: str | None, *, force: bool) -> ConsoleStream:
        raw = connection.newStream(_NONBLOCK)
        domain.openConsole(device, raw, _FORCE if force else 0)
        console = cls(raw, domain.name())
        raw.eventAddCallback(_READABLE | _ENDED, console._on_event, None)
        return console

    def fileno(self) -> int:
        return self._signal

    @property
    def ended(self) -> bool:
        """The guest is gone or the stream was closed, and everything was read."""
        with self._changed:
            return self._ended and not self._held

    def read(self, timeout: float | None = None) -> bytes:
        """What has come, waiting up to ``timeout`` seconds for it; b"" when nothing came or it ended."""
        deadline = Deadline(timeout, "console output")
        with self._changed:
            while not self._held and not self._ended and not deadline.passed:
                clock.current().wait(self._changed, deadline.remaining())
            data = b"".join(self._held)
            self._held.clear()
            self._size = 0
            if not self._ended:
                self._hush()
            if not self._listening and not self._ended:
                self._listen(True)
        return data

    def write(self, data: bytes, *, timeout: float = 10.0) -> None:
        """Send all of ``data``.

        :raises InvalidState: the guest is gone, or another session has taken the console
        :raises DeadlineExceeded: the guest does not take it
        """
        deadline = Deadline(timeout, "console input")
        view = memoryview(data)
        while view:
            sent = self._send(bytes(view[:_CHUNK]))
            if sent == _WOULD_BLOCK:
                deadline.check()
                clock.current().sleep(0.005)
                continue
            view = view[sent:]

    def _send(self, data: bytes) -> int:
        stream = None if self._ended else self._stream
        try:
            if stream is not None:
                return int(stream.send(data))
        except libvirt().libvirtError as error:
            _log.debug("the console of %s does not take input: %s", self._name, error)
        raise InvalidState(name=self._name, state="no longer at the other end of this console", action="typed to")

    def close(self) -> None:
        with self._changed:
            if self._stream is None:
                return
            stream, self._stream = self._stream, None
            self._ended = True
            self._changed.notify_all()
        for end in (stream.eventRemoveCallback, stream.abort):
            try:
                end()
            except libvirt().libvirtError:
                pass  # it ended by itself
        os.close(self._signal)
        os.close(self._signalled)

    # --- on the event thread ------------------------------------------------------------------

    def _on_event(self, stream: Any, events: int, opaque: object) -> None:
        with self._changed:
            if self._ended:
                return
            if events & _READABLE:
                self._take(stream)
            if events & _ENDED:
                self._end()
            self._changed.notify_all()

    def _take(self, stream: Any) -> None:
        while self._size < _HELD:
            try:
                data = stream.recv(_CHUNK)
            except libvirt().libvirtError:
                self._end()
                return
            if data == _WOULD_BLOCK:
                return
            if not data:
                self._end()
                return
            self._held.append(data)
            self._size += len(data)
            self._tell()
        self._listen(False)

    def _end(self) -> None:
        self._ended = True
        self._tell()

    def _listen(self, wanted: bool) -> None:
        self._listening = wanted
        try:
            self._stream.eventUpdateCallback((_READABLE if wanted else 0) | _ENDED)
        except libvirt().libvirtError:
            self._end()

    def _tell(self) -> None:
        try:
            os.write(self._signalled, b".")
        except BlockingIOError:
            pass  # full: the reader is told already

    def _hush(self) -> None:
        try:
            while os.read(self._signal, 4096):
                pass
        except BlockingIOError:
            pass

    def __enter__(self) -> ConsoleStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
