"""Doors: what listens on the loopback of the tests' own network is at the same address in both hosts, too."""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from tests.vm.two_hosts import Host

_CLONE_NEWNET = 0x40000000
_PIECE = 1 << 18

T = TypeVar("T")


@dataclass
class Doors:
    """``open`` counts the connections that go through, by (host's name, port)."""

    open: Counter[tuple[str, int]] = field(default_factory=Counter)


@contextmanager
def doors(hosts: tuple[Host, ...], *ports: int) -> Iterator[Doors]:
    made, loop = Doors(), asyncio.new_event_loop()
    listening = [(host.name, port, _listener(host, port)) for host in hosts for port in ports]
    thread = threading.Thread(target=_work, args=(loop, made, listening), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        for _, _, listener in listening:
            listener.close()


def inside(host: Host, make: Callable[[], T]) -> T:
    """What ``make`` makes in the host's network: a socket stays in that of the thread that has made it."""
    found: list[T] = []

    def there() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        network = os.open(f"/proc/{host.init}/ns/net", os.O_RDONLY)
        try:
            assert libc.setns(network, _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
            found.append(make())
        finally:
            os.close(network)

    thread = threading.Thread(target=there)
    thread.start()
    thread.join()
    assert found, f"it could not be made in {host.name}"
    return found[0]


def _listener(host: Host, port: int) -> socket.socket:
    return inside(host, lambda: socket.create_server(("127.0.0.1", port), backlog=64))


def _work(loop: asyncio.AbstractEventLoop, made: Doors, listening: list[tuple[str, int, socket.socket]]) -> None:
    asyncio.set_event_loop(loop)
    for name, port, listener in listening:

        async def through(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str = name, port: int = port
        ) -> None:
            made.open[name, port] += 1
            try:
                await _through(reader, writer, port)
            finally:
                made.open[name, port] -= 1

        loop.run_until_complete(asyncio.start_server(through, sock=listener))
    loop.run_forever()
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


async def _through(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    try:
        ours, theirs = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        writer.close()
        return
    ways = [asyncio.ensure_future(_copy(reader, theirs)), asyncio.ensure_future(_copy(ours, writer))]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        writer.close()
        theirs.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until either end hangs up: the protocols here have no half-closed connections."""
    try:
        while piece := await reader.read(_PIECE):
            writer.write(piece)
            await writer.drain()
    except OSError:
        pass
