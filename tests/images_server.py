"""A web server in the test's process that lies, breaks and dawdles on demand."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]

    @property
    def start(self) -> int:
        """Where the wanted range begins; 0 without one."""
        return int(self.headers["range"].removeprefix("bytes=").rstrip("-")) if "range" in self.headers else 0


@dataclass
class Connection:
    """One accepted connection; a handler says on it whatever it likes."""

    socket: socket.socket

    def head(self, status: str = "200 OK", **headers: object) -> None:
        lines = [f"HTTP/1.1 {status}"] + [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send(("\r\n".join(lines) + "\r\n\r\n").encode())

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


Handler = Callable[[Request, Connection], None]


@dataclass
class Server:
    """``handlers`` answer one request each, in order; the last one answers all others too."""

    handlers: list[Handler]
    url: str = ""
    requests: list[Request] = field(default_factory=list)

    def answer(self, connection: Connection) -> None:
        request = _read(connection.socket)
        if request is None:
            return
        self.requests.append(request)
        self.handlers[min(len(self.requests), len(self.handlers)) - 1](request, connection)


def _read(peer: socket.socket) -> Request | None:
    data = b""
    while b"\r\n\r\n" not in data:
        more = peer.recv(4096)
        if not more:
            return None
        data += more
        if data.startswith(b"\x16\x03"):  # somebody speaks TLS to a server that does not
            peer.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")
            return None
    first, *lines = data.split(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Request(method, path, headers)


@contextmanager
def serving(*handlers: Handler, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    server = Server(list(handlers))
    with socket.create_server((host, 0)) as listener:
        server.url = f"{'https' if tls else 'http'}://{host}:{listener.getsockname()[1]}"
        stopping = threading.Event()
        threads: list[threading.Thread] = []

        def one(peer: socket.socket) -> None:
            with peer:
                try:
                    peer.settimeout(10)
                    if tls:
                        with tls.wrap_socket(peer, server_side=True) as secure:
                            server.answer(Connection(secure))
                    else:
                        server.answer(Connection(peer))
                except OSError:
                    pass  # the client hung up

        def accept() -> None:
            while not stopping.is_set():
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                threads.append(threading.Thread(target=one, args=(peer,), daemon=True))
                threads[-1].start()

        acceptor = threading.Thread(target=accept, daemon=True)
        acceptor.start()
        try:
            yield server
        finally:
            stopping.set()
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join(5)
            for thread in threads:
                thread.join(15)


# --- handlers ---------------------------------------------------------------------------------


def file(data: bytes, *, etag: str = '"one"', ranges: bool = True, **headers: object) -> Handler:
    """An honest server."""

    def handle(request: Request, connection: Connection) -> None:
        start = request.start
        if ranges and start and request.headers.get("if-range") in (etag, None):
            connection.head(
                "206 Partial Content",
                Content_Range=f"bytes {start}-{len(data) - 1}/{len(data)}",
                Content_Length=len(data) - start,
                ETag=etag,
                **headers,
            )
            connection.send(data[start:])
            return
        connection.head(Content_Length=len(data), ETag=etag, **headers)
        connection.send(data)

    return handle


def cut(data: bytes, at: int, *, etag: str | None = '"one"', reset: bool = False) -> Handler:
    """Announces everything and ends after ``at`` bytes."""

    def handle(request: Request, connection: Connection) -> None:
        headers = {"ETag": etag} if etag else {}
        connection.head(Content_Length=len(data), **headers)
        connection.send(data[:at])
        if reset:
            time.sleep(0.05)  # what was sent arrives; a reset drops what did not
            connection.reset()

    return handle


def says(status: str, body: bytes = b"", **headers: object) -> Handler:
    def handle(request: Request, connection: Connection) -> None:
        connection.head(status, Content_Length=len(body), **headers)
        connection.send(body)

    return handle


def redirect(location: str, status: str = "302 Found") -> Handler:
    return says(status, Location=location)


def raw_answer(data: bytes) -> Handler:
    return lambda request, connection: connection.send(data)


def endless(piece: bytes) -> Handler:
    """A body without a length and without an end."""

    def handle(request: Request, connection: Connection) -> None:
        connection.head()
        while True:
            connection.send(piece)

    return handle


def trickle(head: bytes, seconds: float) -> Handler:
    """Sends ``head``, then one byte at a time for ever."""

    def handle(request: Request, connection: Connection) -> None:
        connection.send(head)
        while True:
            time.sleep(seconds)
            connection.send(b"x")

    return handle


def silent(seconds: float) -> Handler:
    return lambda request, connection: time.sleep(seconds)
