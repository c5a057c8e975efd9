"""Ports: free ones are found, kept for their owner, and never given twice."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cowshed.console import ports
from cowshed.console.ports import Ports
from cowshed.errors import InvalidRequest, PermissionDenied, PortInUse


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_free_and_not(taken: int) -> None:
    assert not ports.free(taken)
    with pytest.raises(PortInUse, match=f"port {taken} on 127.0.0.1 is in use") as caught:
        ports.check(taken)
    assert caught.value.exit_code == 4
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert ports.free(port)
    ports.check(port)


def test_addresses_that_are_not_ours() -> None:
    with pytest.raises(InvalidRequest, match=r"192\.0\.2\.1"):
        ports.free(5900, "192.0.2.1")
    with pytest.raises(InvalidRequest):
        ports.free(70000)


def test_low_ports_are_not_for_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused(socket.socket):
        def bind(self, address: object) -> None:
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket, "socket", Refused)  # root may listen everywhere
    with pytest.raises(PermissionDenied, match=r"no permission to listen on port 1 of 127\.0\.0\.1"):
        ports.free(1)


def test_the_owner_keeps_its_port_over_restarts(tmp_path: Path, taken: int) -> None:
    last = min(taken + 20, 65535)
    record = tmp_path / "host" / "ports.json"
    first = Ports(record, first=taken, last=last)
    web, db = first.take("web"), first.take("db")
    assert taken not in (web, db)
    assert web != db
    again = Ports(record, first=taken, last=last)
    assert (again.take("web"), again.take("db")) == (web, db)
    assert again.taken() == {web: "web", db: "db"}
    again.give_back("web")
    again.give_back("web")
    assert again.take("cache") == web
    again.keep(["db"])
    assert first.taken() == {db: "db"}


def test_a_full_range(tmp_path: Path, taken: int) -> None:
    with pytest.raises(PortInUse, match=f"{taken}-{taken}"):
        Ports(tmp_path / "ports", first=taken, last=taken).take("web")
    with pytest.raises(InvalidRequest):
        Ports(tmp_path / "ports", first=10, last=5)


def test_a_damaged_record_is_an_empty_one(tmp_path: Path) -> None:
    record = tmp_path / "ports"
    for damage in ("", "{", "[1]", '{"x": 1}'):
        record.write_text(damage)
        assert Ports(record).taken() == {}
    port = Ports(record).take("web")
    assert Ports(record).taken() == {port: "web"}


def test_many_at_once_share_nothing(tmp_path: Path) -> None:
    found: list[int] = []

    def take(number: int) -> None:
        found.append(Ports(tmp_path / "ports", first=20000, last=30000).take(f"owner-{number}"))

    threads = [threading.Thread(target=take, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 16
