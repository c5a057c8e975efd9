"""cowshed log, console, vnc, ssh"""

from __future__ import annotations

import sys

import click

from cowshed.cli.context import Session, instance_argument, verb


@click.command()
@instance_argument()
@click.option("-f", "--follow", is_flag=True, help="Go on showing what is added.")
@click.option("--until", metavar="TEXT", help="With -f: end when this has appeared.")
@click.option("--timeout", help="With -f: how long to wait.")
@verb
def log(session: Session, instance: str, follow: bool, until: str | None, timeout: str | None) -> None:
    """Show the log of the serial console of INSTANCE."""
    from cowshed.units import parse_duration

    machine = session.host.machine(instance)
    if not follow and until is None:
        text = machine.log()
        if session.format == "table":
            _write(text)
        else:
            session.emit("log", {"name": machine.name, "text": text.decode(errors="replace")})
        return
    for piece in machine.follow(until=until, timeout=parse_duration(timeout) if timeout else None):
        _write(piece)


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


@click.command()
@instance_argument()
@verb
def console(session: Session, instance: str) -> None:
    """Join the serial console of INSTANCE; ^] leaves it."""
    machine = session.host.machine(instance)
    if sys.stdin.isatty():
        print(f"Connected to {machine.name}; ^] leaves the console.", file=sys.stderr)
    machine.console(sys.stdin.buffer, sys.stdout.buffer)


@click.command()
@instance_argument()
@click.option("--open", "viewer", is_flag=True, help="Open it in a viewer (virt-viewer or vncviewer).")
@verb
def vnc(session: Session, instance: str, viewer: bool) -> None:
    """Say where the VNC console of INSTANCE is."""
    machine = session.host.machine(instance)
    endpoint = machine.vnc()
    url = f"vnc://{endpoint.host}:{endpoint.port}"
    if viewer:
        _open(url, f"{endpoint.host}::{endpoint.port}")
    session.emit("vnc", {"name": machine.name, "host": endpoint.host, "port": endpoint.port, "url": url})


def _open(url: str, address: str) -> None:
    from cowshed.errors import ToolMissing
    from cowshed.tools import run

    for program, argument in (("remote-viewer", url), ("vncviewer", address)):
        if run.find(program):
            run.replace([program, argument])
    raise ToolMissing(tool="remote-viewer", hint="install the package virt-viewer, or use the address with any viewer")


@click.command(context_settings={"ignore_unknown_options": True})
@instance_argument()
@click.option("-l", "--user", help="Who to be in the guest; default: what the image says, else your own name.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@verb
def ssh(session: Session, instance: str, user: str | None, command: tuple[str, ...]) -> None:
    """Open a shell in INSTANCE, or run COMMAND there (its exit code is passed on)."""
    from cowshed.tools import run

    machine = session.host.machine(instance)
    address, port = machine.ssh_endpoint()
    known = session.host.driver.console_log_path(machine.record.instance).parent / "known_hosts"
    words = ["ssh", "-p", str(port), "-o", "StrictHostKeyChecking=accept-new", "-o", f"UserKnownHostsFile={known}"]
    if user:
        words += ["-l", user]
    run.replace([*words, address, *command])
