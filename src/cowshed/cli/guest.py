"""cowshed password, cp, exec: inside a guest through its agent"""

from __future__ import annotations

import os
import stat
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import click

from cowshed.cli.consoles import SshCommand
from cowshed.cli.context import Session, Verb, instance_argument, instance_names, verb
from cowshed.errors import InvalidRequest, NotFound


@click.command(cls=Verb)
@instance_argument()
@click.option("--stdin", "from_stdin", is_flag=True, help="Read it from standard input, one line, instead of asking.")
@verb
def password(session: Session, instance: str, from_stdin: bool) -> None:
    """Set the password of the administrator of INSTANCE (root, unless its image says who).

    It is never an argument: everybody on this host could read it.
    """
    machine = session.host.machine(instance)
    word = sys.stdin.readline().rstrip("\n") if from_stdin else _asked(machine.name)
    if not word:
        raise InvalidRequest(reason="an empty password is none")
    machine.set_password(word)
    session.emit("password", {"name": machine.name, "password": "set"})


def _asked(name: str) -> str:
    if not sys.stdin.isatty():
        raise InvalidRequest(reason="there is no terminal to ask for the password on", hint="give --stdin")
    word: str = click.prompt(f"New password in {name}", hide_input=True, confirmation_prompt=True, err=True)
    return word


@click.command(cls=Verb)
@click.argument("source", shell_complete=instance_names)
@click.argument("target", shell_complete=instance_names)
@verb
def cp(session: Session, source: str, target: str) -> None:
    """Copy one file into or out of a guest: SOURCE and TARGET are paths, in a guest INSTANCE:/PATH.

    A dash is standard input or output, which may be a pipe; 64 GiB at most are copied. On this host SOURCE is a file: no directory,
    device or named pipe. Mode and owner are not copied.
    """
    (from_name, from_path), (to_name, to_path) = _place(source), _place(target)
    if bool(from_name) == bool(to_name):
        raise InvalidRequest(reason="one side must be in a guest, the other on this host", hint="write INSTANCE:/PATH")
    with session.working() as host:
        if to_name:
            path = f"{to_path}{Path(from_path).name}" if to_path.endswith("/") else to_path
            with ExitStack() as stack:
                opened = _reading(from_path, stack)
                machine = host.machine(to_name)
                done = machine.write_file(path, opened)
        else:
            place = _target(from_path, to_path)
            machine = host.machine(from_name)
            done = machine.read_file(from_path, place)
    if to_path != "-":
        session.emit("copied", {"name": machine.name, "bytes": done})


def _place(word: str) -> tuple[str, str]:
    """(instance, path); a path on this host has no instance."""
    name, colon, path = word.partition(":")
    return (name, path) if colon and name and "/" not in name else ("", word)


def _reading(path: str, stack: ExitStack) -> BinaryIO:
    """:raises InvalidRequest: it cannot be read, or may have no end"""
    if path == "-":
        _check_input(os.fstat(sys.stdin.fileno()))
        return sys.stdin.buffer
    try:
        _check_file(path, os.stat(path))  # first: opening a named pipe would wait for somebody who writes
        return stack.enter_context(Path(path).open("rb"))
    except OSError as error:
        raise InvalidRequest(reason=f"{path} cannot be read: {error.strerror}") from error


def _check_file(path: str, found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise InvalidRequest(reason=f"{path} is a directory", hint="one file is copied: pack it with tar")
    if not stat.S_ISREG(found.st_mode):
        raise InvalidRequest(
            reason=f"{path} is {_kind(found.st_mode)}, which may have no end",
            hint=f"if it has one: cowshed cp - INSTANCE:/PATH <{path}",
        )


def _check_input(found: os.stat_result) -> None:
    """A pipe, a file and a terminal end, and so does /dev/null."""
    if stat.S_ISDIR(found.st_mode):
        raise InvalidRequest(reason="standard input is a directory", hint="one file is copied: pack it with tar")
    endless = stat.S_ISCHR(found.st_mode) and not sys.stdin.isatty() and found.st_rdev != os.stat(os.devnull).st_rdev
    if endless:
        raise InvalidRequest(
            reason="standard input is a device, which may have no end",
            hint="say how much: head -c 1M /dev/zero | cowshed cp - ...",
        )


def _kind(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a named pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"


def _target(source: str, path: str) -> Path | BinaryIO:
    """:raises InvalidRequest: a file would take the place of what is none, such as /dev/null :raises NotFound: no such directory"""
    if path == "-":
        return sys.stdout.buffer
    place = Path(path)
    place = place / source.rpartition("/")[2] if place.is_dir() else place
    if place.exists() and not place.is_file():
        raise InvalidRequest(
            reason=f"{place} is {'a directory' if place.is_dir() else _kind(place.stat().st_mode)}, no file",
            hint="- writes to standard output",
        )
    place = place.resolve()  # what a link names is written, and the link stays
    if not place.parent.is_dir():
        raise NotFound(kind="directory", name=str(place.parent))
    return place


@click.command("exec", cls=SshCommand)
@instance_argument()
@click.option("--timeout", metavar="TIME", default="60s", show_default=True, help="How long it may run.")
@click.option(
    "-i", "--stdin", "with_input", is_flag=True, help="Give it standard input (read to its end first; 128 KiB at most)."
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@verb
def exec_(session: Session, instance: str, timeout: str, with_input: bool, command: tuple[str, ...]) -> int:
    """Run COMMAND in INSTANCE through its agent (no network needed); its exit code is passed on."""
    from cowshed.hypervisor import agent_files
    from cowshed.units import parse_duration

    allowed = parse_duration(timeout)
    if allowed <= 0:
        raise InvalidRequest(
            reason=f"nothing can be run in {allowed:g} s", hint="say how long it may run: --timeout 60s"
        )
    # A pipe may have no end. What is too much is refused.
    data = sys.stdin.buffer.read(agent_files.GIVEN + 1) if with_input else b""
    done = session.host.machine(instance).execute(command, input=data, timeout=allowed)
    if session.format != "table":
        session.emit(
            "executed",
            {
                "status": done.status,
                "stdout": done.stdout.decode(errors="replace"),
                "stderr": done.stderr.decode(errors="replace"),
                "truncated": done.truncated,
            },
        )
    else:
        for stream, text in ((sys.stdout, done.stdout), (sys.stderr, done.stderr)):
            stream.buffer.write(text)
            stream.flush()
    return done.status if done.status >= 0 else 128 - done.status
