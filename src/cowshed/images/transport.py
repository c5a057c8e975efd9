"""The network under a download: checked addresses, no silence, no trickle. The only importer of httpcore.

httpcore is the transport of httpx without its conveniences; used directly because its network
backend is a public interface, and that is where "connect to the address that was checked" and
"count what really came in" belong.
"""

from __future__ import annotations

import base64
import select
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpcore

from cowshed import clock
from cowshed.images.addresses import Policy

ERRORS: Final = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError)
_VARIABLES: Final = "http_proxy, https_proxy or all_proxy"
LOW_SPEED: Final = 1024  # bytes per second; slower than this for a whole silence limit is a broken server


class Refused(Exception):
    """An address that must not be connected to, or a proxy that cannot be used."""


class Unresolvable(Exception):
    """The host name has no address."""


class _Stream(httpcore.NetworkStream):
    """Counts what came in, and gives up on a server that trickles.

    Only the time spent waiting for the server counts, so a slow disk on our side is not blamed on it.
    """

    def __init__(self, inner: httpcore.NetworkStream, silence: float) -> None:
        self._inner = inner
        self._silence = silence
        self._waited = 0.0
        self._came = 0
        self.received = 0
        self.head = bytearray()  # until the end of the answer's header

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        started = clock.current().monotonic()
        data = self._inner.read(max_bytes, timeout)
        self._waited += clock.current().monotonic() - started
        self._came += len(data)
        if self._waited >= self._silence:
            if self._came < LOW_SPEED * self._silence:
                raise httpcore.ReadTimeout(f"only {self._came} bytes came in {self._waited:.0f} s")
            self._waited, self._came = 0.0, 0
        self.received += len(data)
        if b"\r\n\r\n" not in self.head and len(self.head) < 65536:
            self.head += data
        return data

    @property
    def body_received(self) -> int:
        """Bytes behind the header, as far as they came in."""
        return max(0, self.received - self.head.find(b"\r\n\r\n") - 4)

    def more_waits(self) -> bool:
        """Has the server sent something that nobody has asked for yet?"""
        found = self._inner.get_extra_info("socket")
        if found is None or isinstance(found, ssl.SSLSocket):
            return False
        try:
            return bool(select.select([found], [], [], 0)[0]) and bool(found.recv(1, socket.MSG_PEEK))
        except (OSError, ValueError):
            return False

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, timeout)

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, timeout), self._silence)

    def get_extra_info(self, info: str) -> Any:
        return self if info == "stream" else self._inner.get_extra_info(info)


class _Backend(httpcore.NetworkBackend):
    """Resolves a name once, checks each address, and connects to exactly that one."""

    def __init__(self, check: Callable[[str], str | None], silence: float, *, proxy: bool = False) -> None:
        self._check = check
        self._silence = silence
        self._proxy = proxy
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError) as error:
            name = f"the proxy {host}" if self._proxy else f"the host name {host}"
            raise Unresolvable(f"{name} has no address ({getattr(error, 'strerror', error)})") from error
        broken: Exception = httpcore.ConnectError("no address")
        for address in dict.fromkeys(str(entry[4][0]) for entry in found):
            if reason := self._check(address):
                raise Refused(reason)
            try:
                stream = self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
                return _Stream(stream, self._silence)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as failure:
                broken = failure
        if self._proxy and isinstance(broken, httpcore.ConnectError):
            raise Refused(f"nothing answers at the proxy {host}:{port} ({_VARIABLES} name it)") from broken
        raise broken

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.NetworkStream:
        raise Refused("unix sockets are not used")


@contextmanager
def get(
    url: SplitResult,
    target: str,
    headers: list[tuple[str, str]],
    *,
    policy: Policy,
    connect_timeout: float,
    read_timeout: float,
) -> Iterator[httpcore.Response]:
    """One GET without redirects. :raises Refused: :raises Unresolvable: :raises httpcore.NetworkError: and its kin"""
    timeouts = {"connect": connect_timeout, "read": read_timeout, "write": read_timeout, "pool": connect_timeout}
    with (
        _pool(url, policy, read_timeout) as pool,
        pool.stream("GET", target, headers=headers, extensions={"timeout": timeouts}) as response,
    ):
        yield response


def _pool(url: SplitResult, policy: Policy, silence: float) -> httpcore.ConnectionPool:
    context = ssl.create_default_context() if url.scheme == "https" else None  # the system's authorities
    proxy = _proxy(url)
    if proxy is None:
        return httpcore.ConnectionPool(ssl_context=context, network_backend=_Backend(policy.refusal, silence))
    policy.through_proxy()
    if proxy.scheme not in ("http", "https"):
        raise Refused(f"the proxy {proxy.scheme}://{proxy.hostname} is of a kind that is not supported")
    return httpcore.HTTPProxy(
        f"{proxy.scheme}://{_place(proxy)}",
        proxy_auth=(unquote(proxy.username), unquote(proxy.password or "")) if proxy.username else None,
        ssl_context=context,
        network_backend=_Backend(lambda _: None, silence, proxy=True),
    )


def _place(proxy: SplitResult) -> str:
    """Its host and port. :raises Refused: it has none"""
    try:
        port = proxy.port or (443 if proxy.scheme == "https" else 80)
    except ValueError as error:
        raise Refused(f"the proxy of {_VARIABLES} has a wrong port: {error}") from error
    if not proxy.hostname:
        raise Refused(f"the proxy of {_VARIABLES} has no host name")
    return f"[{proxy.hostname}]:{port}" if ":" in proxy.hostname else f"{proxy.hostname}:{port}"


def _proxy(url: SplitResult) -> SplitResult | None:
    """What HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY say about this URL."""
    proxies = getproxies()
    found = proxies.get(url.scheme) or proxies.get("all")
    host = url.hostname or ""
    # An IPv6 address stands in NO_PROXY without the brackets of the URL.
    if not found or proxy_bypass(url.netloc.rpartition("@")[2]) or (":" in host and proxy_bypass(host)):
        return None
    return urlsplit(found if "://" in found else f"http://{found}")


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
