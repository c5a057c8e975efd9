"""A small HTTP proxy in front of a real Glance that lies, breaks and dawdles on demand."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass
class Fault:
    """What happens to the next ``times`` requests of ``method`` whose path contains ``path``.

    :param status: answer this, with ``headers`` and ``body``, and forward nothing
    :param cut: forward, and end the connection after so many bytes of the answer's body
    :param lose: forward, and end the connection instead of answering
    :param refuse: end the connection (with a reset) before anything is forwarded
    :param alter: changes the JSON object of the answer
    :param headers: also put over those of a forwarded answer
    :param then: called before the request is forwarded
    :param extra: bytes behind a body (whose announced length does not count them)
    """

    path: str
    method: str = "GET"
    times: int = 1
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int | None = None
    lose: bool = False
    refuse: bool = False
    alter: Callable[[dict[str, object]], None] | None = None
    then: Callable[[], None] | None = None
    strip: str = ""
    extra: bytes = b""


@dataclass
class Proxy:
    url: str
    target: str
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times and fault.method == method and fault.path in path:
                    fault.times -= 1
                    return fault
        return None

    def ranges(self) -> list[str]:
        """The Range headers that came, in order."""
        return [headers["range"] for _, _, headers in self.requests if "range" in headers]

    def asked(self, method: str, path: str) -> int:
        return sum(1 for one, where, _ in self.requests if one == method and path in where)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def log_message(self, *words: object) -> None:
        pass

    def _serve(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.proxy.requests.append((self.command, self.path, headers))
        fault = self.proxy.fault(self.command, self.path) or Fault("")
        if fault.refuse:
            return self._hang_up()
        body = self._body(headers)
        if fault.then:
            fault.then()
        if fault.status:
            return self._answer(fault.status, list(fault.headers.items()), fault.body)
        status, answered, data = self._forward(headers, body, fault)
        if fault.lose:
            return self._hang_up()
        if fault.alter:
            record = json.loads(data)
            fault.alter(record)
            data = json.dumps(record).encode()
        answered = [(name, value) for name, value in answered if name.lower() not in {*map(str.lower, fault.headers)}]
        self._answer(status, answered + list(fault.headers.items()), data, cut=fault.cut, extra=fault.extra)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815 - the names are the base class's

    def _body(self, headers: dict[str, str]) -> bytes:
        if "chunked" not in headers.get("transfer-encoding", ""):
            return self.rfile.read(int(headers.get("content-length", 0)))
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _forward(self, headers: dict[str, str], body: bytes, fault: Fault) -> tuple[int, list[tuple[str, str]], bytes]:
        target = urlsplit(self.proxy.target)
        drop = {"host", "connection", "content-length", "transfer-encoding", fault.strip}
        connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=60)
        try:
            connection.request(
                self.command, self.path, body, {name: value for name, value in headers.items() if name not in drop}
            )
            answer = connection.getresponse()
            data = answer.read()
            keep = [(name, value) for name, value in answer.getheaders() if name.lower() not in _HOP]
            return answer.status, keep, data
        finally:
            connection.close()

    def _answer(
        self, status: int, headers: list[tuple[str, str]], data: bytes, *, cut: int | None = None, extra: bytes = b""
    ) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if not any(name.lower() == "content-length" for name, _ in headers):
            self.send_header("Content-Length", str(len(data) + len(extra)))
        self.end_headers()
        self.wfile.write((data if cut is None else data[:cut]) + extra)
        if cut is not None:
            self._hang_up(reset=False)

    def _hang_up(self, *, reset: bool = True) -> None:
        self.wfile.flush()
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()
        self.close_connection = True

    def handle(self) -> None:
        with suppress(OSError, ValueError):  # the client hung up, or we did
            super().handle()

    def finish(self) -> None:
        with suppress(OSError, ValueError):
            super().finish()


_HOP = ("connection", "keep-alive", "transfer-encoding", "content-length")


@contextmanager
def proxy(target: str) -> Iterator[Proxy]:
    class Handler(_Handler):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    Handler.proxy = Proxy(f"http://127.0.0.1:{server.server_address[1]}", target)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield Handler.proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
