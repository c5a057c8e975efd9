"""Join a terminal, or a script's pipes, to the serial console of a running instance."""

from __future__ import annotations

import os
import select
import signal
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Final

from cowshed import log
from cowshed.errors import InvalidState
from cowshed.hypervisor.guest import OFF, Guest
from cowshed.hypervisor.stream import ConsoleStream

_log = log.logger(__name__)

ESCAPE: Final = b"\x1d"  # ^]
CHUNK: Final = 64 * 1024
LINGER: Final = 1.0  # seconds that the guest's last answer is waited for when a script's input has ended


def attach(guest: Guest, stdin: IO[bytes], stdout: IO[bytes], *, escape: bytes = ESCAPE, force: bool = False) -> None:
    """Carry bytes both ways until ``escape`` is typed, input ends, or the guest does.

    A terminal is put into raw mode, so that ^C and all other keys reach the guest, and is put back
    however this ends. The end of a pipe is not typed: what the guest still answers within a second
    is shown.

    :param escape: one byte, looked for in what a terminal sends; a pipe may send any byte
    :param force: take the console from another session
    :raises InvalidState: the guest does not run
    :raises Busy: another session has the console
    """
    if guest.state() in OFF:
        raise InvalidState(name=guest.name, state="not running", action="joined")
    is_terminal = os.isatty(stdin.fileno())
    with guest.open_console(force=force) as console, _raw(stdin.fileno()):
        _carry(console, stdin.fileno(), stdout, escape if is_terminal else b"")


def _carry(console: ConsoleStream, source: int, stdout: IO[bytes], escape: bytes) -> None:
    open_input = True
    while not console.ended:
        watched = [console.fileno(), source] if open_input else [console.fileno()]
        ready, _, _ = select.select(watched, [], [], None if open_input else LINGER)
        if console.fileno() in ready:
            _show(stdout, console.read(0))
        if source in ready:
            typed = os.read(source, CHUNK)
            before, found, _ = typed.partition(escape) if escape else (typed, b"", b"")
            if found or not _type(console, before):
                return
            if not typed:
                open_input = False
        if not ready:  # only possible when input has ended: the guest has said all it had to say
            return
    _show(stdout, console.read(0))


def _type(console: ConsoleStream, data: bytes) -> bool:
    """False when nobody is there any more."""
    try:
        console.write(data)
    except InvalidState:
        return False
    return True


def _show(stdout: IO[bytes], data: bytes) -> None:
    if data:
        stdout.write(data)
        stdout.flush()


@contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    """Raw mode where it is a terminal. Also a signal that ends us puts it back first."""
    if not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    with _restored_on_signals(descriptor, before):
        try:
            tty.setraw(descriptor)
            yield
        finally:
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@contextmanager
def _restored_on_signals(descriptor: int, before: list[object]) -> Iterator[None]:
    def restore(number: int, frame: object) -> None:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)  # type: ignore[arg-type]
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    saved = {}
    try:
        for number in (signal.SIGTERM, signal.SIGHUP):
            saved[number] = signal.signal(number, restore)
    except ValueError:
        _log.debug("not the main thread: signals are left alone")
    try:
        yield
    finally:
        for number, handler in saved.items():
            signal.signal(number, handler)
