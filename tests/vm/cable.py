"""The way from one libvirt to the other, which breaks at the worst moment of a migration."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from tests.vm.two_hosts import OUTSIDE, Host

FINISH: Final = 306  # REMOTE_PROC_DOMAIN_MIGRATE_FINISH3_PARAMS: "it is all there, run it"
PORT: Final = 16509
_REPLY: Final = 1  # VIR_NET_REPLY
_HEADER: Final = struct.Struct(">6I")  # length, program, version, procedure, type, serial


class Cable:
    """Hands on everything between a libvirt that calls ``uri`` and ``host``, until the first answer that a migrated guest
    runs there: that one is lost, and every connection with it, after ``then()``. Until :meth:`mend` there are no new ones.
    """

    def __init__(self, host: Host, then: Callable[[], object]) -> None:
        self._peer, self._then = (host.address, PORT), then
        self._listener = socket.create_server((OUTSIDE, 0))
        self._ends: list[socket.socket] = []
        self._whole = True
        self._threads: list[threading.Thread] = []
        self.cut = threading.Event()
        self.uri = f"qemu+tcp://{OUTSIDE}:{self._listener.getsockname()[1]}/system"
        self._begin(self._accept)

    def mend(self) -> None:
        self._whole = True

    def close(self) -> None:
        _shut(self._listener, *self._ends)
        for thread in self._threads:
            thread.join(20)
        for end in (self._listener, *self._ends):
            end.close()

    def _begin(self, work: Callable[..., None], *arguments: object) -> None:
        self._threads.append(threading.Thread(target=work, args=arguments, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if not self._whole:
                    near.close()
                    continue
                far = socket.create_connection(self._peer)
                self._ends += [near, far]
                self._begin(_carry, near, far)
                self._begin(self._answers, far, near)

    def _answers(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError), source.makefile("rb") as stream:
            while len(head := stream.read(_HEADER.size)) == _HEADER.size:
                length, _, _, procedure, kind, _ = _HEADER.unpack(head)
                rest = stream.read(length - _HEADER.size)
                if procedure == FINISH and kind == _REPLY and not self.cut.is_set():
                    self._whole = False
                    self._then()
                    _shut(*self._ends)
                    self.cut.set()
                    return
                sink.sendall(head + rest)
        _shut(source, sink)


def _carry(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    _shut(source, sink)


def _shut(*ends: socket.socket) -> None:
    for end in ends:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@contextmanager
def cable(host: Host, then: Callable[[], object] = lambda: None) -> Iterator[Cable]:
    made = Cable(host, then)
    try:
        yield made
    finally:
        made.close()
