"""Consoles of a real guest: its log, its serial line on a terminal and in a script, VNC and SPICE."""

from __future__ import annotations

import os
import pty
import select
import signal
import socket
import termios
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cowshed.console import endpoints, log, ports, terminal
from cowshed.errors import Busy, CowshedError, InvalidState, UnsupportedOperation
from cowshed.hypervisor import Guest
from cowshed.hypervisor.stream import ConsoleStream
from cowshed.model.instance import PowerState
from tests.vm.conftest import MakeGuest

PROMPT = b"tiny# "


@pytest.fixture
def up(tiny_guest: MakeGuest, tmp_path: Path) -> Guest:
    """A guest that is up."""
    guest = tiny_guest("console")
    guest.start()
    for _ in log.follow(tmp_path / "console.log", until="tiny#", timeout=60):
        pass
    return guest


def read_until(stream: ConsoleStream, text: bytes, timeout: float = 20) -> bytes:
    seen, deadline = b"", time.monotonic() + timeout
    while text not in seen and time.monotonic() < deadline:
        seen += stream.read(0.5)
    return seen


def test_the_log_of_a_boot(up: Guest, tmp_path: Path) -> None:
    text = log.tail(tmp_path / "console.log", 100 * 1024)
    assert b"cowshed-guest: up" in text
    assert b"".join(log.follow(tmp_path / "console.log", until="cowshed-guest: up", timeout=1))


def test_the_stream_goes_both_ways_and_belongs_to_one(up: Guest) -> None:
    with up.open_console() as stream:
        stream.write(b"echo he''llo\n")
        assert b"hello" in read_until(stream, b"hello")
        assert stream.read(0.1) is not None
        with pytest.raises(Busy, match="another session"):
            up.open_console()
        with up.open_console(force=True) as other:
            other.write(b"echo se''cond\n")
            assert b"second" in read_until(other, b"second")
            read_until(stream, b"nothing", timeout=1)
            assert stream.ended


def test_a_slow_reader_loses_nothing(up: Guest) -> None:
    """More than is held for a reader (1 MiB) while nobody reads."""
    with up.open_console() as stream:
        stream.write(b"stty -echo; seq 1 160000; echo do''ne\n")
        time.sleep(2)
        seen = read_until(stream, b"done", timeout=90)
    numbers = [int(line) for line in seen.replace(b"\r", b"").split(b"\n") if line.isdigit()]
    assert numbers == list(range(1, 160_001))


def test_the_end_of_the_guest_ends_the_stream(up: Guest) -> None:
    with up.open_console() as stream:
        up.destroy()
        deadline = time.monotonic() + 10
        while not stream.ended and time.monotonic() < deadline:
            stream.read(0.2)
        assert stream.ended
        with pytest.raises(InvalidState, match="no longer at the other end"):
            stream.write(b"x")
    stream.close()


def attach(guest: Guest, stdin: int, stdout: int, outcome: list[Any], **options: Any) -> threading.Thread:
    def run() -> None:
        try:
            with open(stdin, "rb", buffering=0) as source, open(stdout, "wb", buffering=0) as target:
                outcome.append(terminal.attach(guest, source, target, **options))
        except CowshedError as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_a_script_pipes_commands_in(up: Guest, tmp_path: Path) -> None:
    """Input ends, the guest's answer is still shown; the escape byte is only a byte."""
    commands, answer = tmp_path / "commands", tmp_path / "answer"
    commands.write_bytes(b"\x1d\x15echo scr''ipted\n")
    with commands.open("rb") as source, answer.open("wb") as target:
        terminal.attach(up, source, target)
    assert b"scripted" in answer.read_bytes()


def test_a_terminal_is_raw_until_the_escape_and_is_put_back(up: Guest) -> None:
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    outcome: list[Any] = []
    thread = attach(up, os.dup(theirs), os.dup(theirs), outcome)
    deadline = time.monotonic() + 10
    while termios.tcgetattr(theirs) == before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not termios.tcgetattr(theirs)[3] & (termios.ISIG | termios.ECHO)
    os.write(ours, b"echo typ''ed\n")
    seen = b""
    while b"typed" not in seen and select.select([ours], [], [], 10)[0]:
        seen += os.read(ours, 4096)
    assert b"typed" in seen
    os.write(ours, b"ignored\x1d")
    thread.join(10)
    assert outcome == [None]
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)
    assert up.state() == PowerState.RUNNING


def test_a_terminal_is_put_back_when_the_guest_ends(up: Guest) -> None:
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    outcome: list[Any] = []
    thread = attach(up, os.dup(theirs), os.dup(theirs), outcome)
    time.sleep(0.3)
    up.destroy()
    thread.join(10)
    assert outcome == [None]
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)


def test_a_terminal_is_put_back_when_we_are_ended(up: Guest) -> None:
    """SIGTERM in the middle, in a process of its own."""
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    child = os.fork()
    if child == 0:
        try:
            with open(theirs, "rb", buffering=0) as source, open(os.dup(theirs), "wb", buffering=0) as target:
                terminal.attach(up, source, target)
        finally:
            os._exit(1)
    deadline = time.monotonic() + 10
    while termios.tcgetattr(theirs) == before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert termios.tcgetattr(theirs) != before
    os.kill(child, signal.SIGTERM)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGTERM
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)


def test_nobody_joins_a_stopped_guest(tiny_guest: MakeGuest, tmp_path: Path) -> None:
    guest = tiny_guest("stopped")
    (tmp_path / "in").touch()
    with (tmp_path / "in").open("rb") as source, (tmp_path / "out").open("wb") as target, pytest.raises(InvalidState):
        terminal.attach(guest, source, target)
    with pytest.raises(InvalidState):
        endpoints.vnc(guest)


def test_endpoints_of_a_running_guest(tiny_guest: MakeGuest, tmp_path: Path) -> None:
    port = ports.Ports(tmp_path / "ports", first=21000, last=22000).take("graphic")
    devices = f"""<graphics type='vnc' port='-1' autoport='yes' listen='127.0.0.1'/>
    <graphics type='spice' port='-1' autoport='yes' listen='127.0.0.1'/><video><model type='vga'/></video>
    <serial type='tcp'><source mode='bind' host='127.0.0.1' service='{port}'/><target port='1'/></serial>"""
    guest = tiny_guest("graphic", devices=devices)
    guest.start(paused=True)
    vnc, spice, serial = endpoints.vnc(guest), endpoints.spice(guest), endpoints.serial(guest)
    assert serial.port == port
    assert not ports.free(vnc.port)
    assert not ports.free(spice.port)
    with socket.create_connection((vnc.host, vnc.port), timeout=5) as connection:
        assert connection.recv(4) == b"RFB "
    guest.destroy()
    plain = tiny_guest("plain")
    plain.start(paused=True)
    for ask in (endpoints.vnc, endpoints.spice, endpoints.serial):
        with pytest.raises(UnsupportedOperation):
            ask(plain)
