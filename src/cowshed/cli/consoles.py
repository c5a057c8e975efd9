"""cowshed log, console, vnc, spice, ssh"""

from __future__ import annotations

import sys

import click

from cowshed.cli.context import Session, Verb, instance_argument, verb
from cowshed.errors import InvalidRequest


@click.command(cls=Verb)
@instance_argument()
@click.option("-f", "--follow", is_flag=True, help="Go on showing what is added.")
@click.option("--until", metavar="TEXT", help="With -f: end when this has appeared.")
@click.option("--timeout", metavar="TIME", help="With -f: how long to wait.")
@verb
def log(session: Session, instance: str, follow: bool, until: str | None, timeout: str | None) -> None:
    """Show the log of the serial console of INSTANCE."""
    from cowshed.units import parse_duration

    machine = session.host.machine(instance)
    if timeout and not follow and until is None:
        raise InvalidRequest(reason="--timeout limits waiting", hint="give -f or --until too")
    if (follow or until is not None) and session.format != "table":
        raise InvalidRequest(
            reason=f"what is followed is shown as it comes, and not as {session.format}",
            hint=f"leave -o {session.format} out",
        )
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


@click.command(cls=Verb)
@instance_argument()
@verb
def console(session: Session, instance: str) -> None:
    """Join the serial console of INSTANCE; ^] leaves it."""
    machine = session.host.machine(instance)
    if sys.stdin.isatty():
        print(f"Connected to {machine.name}; ^] leaves the console.", file=sys.stderr)
    machine.console(sys.stdin.buffer, sys.stdout.buffer)


@click.command(cls=Verb)
@instance_argument()
@click.option("--open", "viewer", is_flag=True, help="Open it in a viewer (virt-viewer or vncviewer).")
@verb
def vnc(session: Session, instance: str, viewer: bool) -> None:
    """Say where the VNC console of INSTANCE is."""
    machine = session.host.machine(instance)
    endpoint = machine.vnc()
    url = f"vnc://{_bracketed(endpoint.host)}:{endpoint.port}"
    if viewer:
        _open(url, f"{endpoint.host}::{endpoint.port}")
    session.emit("vnc", {"name": machine.name, "host": endpoint.host, "port": endpoint.port, "url": url})


@click.command(cls=Verb)
@instance_argument()
@click.option("--open", "viewer", is_flag=True, help="Open it in a viewer (virt-viewer).")
@verb
def spice(session: Session, instance: str, viewer: bool) -> None:
    """Say where the SPICE console of INSTANCE is, which it has where [console] spice is on."""
    machine = session.host.machine(instance)
    endpoint = machine.spice()
    way = f"tls-port={endpoint.tls_port}" if endpoint.tls_port and not endpoint.port else f"port={endpoint.port}"
    url = f"spice://{_bracketed(endpoint.host)}?{way}"
    if viewer:
        _open(url, "")
    told = {"name": machine.name, "host": endpoint.host, "port": endpoint.port or None, "tls_port": endpoint.tls_port}
    session.emit("spice", {**told, "url": url})


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _open(url: str, address: str) -> None:
    """:param address: what vncviewer would be given; "": it does not know this kind"""
    from cowshed.errors import ToolMissing
    from cowshed.tools import run

    for program, argument in (("remote-viewer", url), ("vncviewer", address)):
        if not argument:
            continue
        if run.find(program):
            run.replace([program, argument])
    raise ToolMissing(tool="remote-viewer", hint="install the package virt-viewer, or use the address with any viewer")


class SshCommand(Verb):
    """Options end at the guest's command, as ssh's own do: what follows belongs to it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        valued = {word for option in self.params if _takes_value(option) for word in option.opts}
        positional, number = 0, 0
        while number < len(args) and args[number] != "--":
            if not args[number].startswith("-"):
                positional += 1
                if positional == 2:
                    args = [*args[:number], "--", *args[number:]]
                    break
            elif args[number] in valued:
                number += 1
            number += 1
        return super().parse_args(ctx, args)


def _takes_value(option: click.Parameter) -> bool:
    return isinstance(option, click.Option) and not option.is_flag and not option.count


@click.command(cls=SshCommand)
@instance_argument()
@click.option("-l", "--user", default="", help="Who to be in the guest; default: your own name.")
@click.option("-i", "--identity", default="", metavar="FILE", help="Private key; default: ssh's own choice.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@verb
def ssh(session: Session, instance: str, user: str, identity: str, command: tuple[str, ...]) -> None:
    """Open a shell in INSTANCE, or run COMMAND there (its exit code is passed on).

    The instance is reached through its port forward to port 22, or at the address its guest agent names.
    """
    from cowshed.tools import run

    words = session.host.machine(instance).ssh_command(*command, user=user, identity=identity)
    sys.stdout.flush()
    run.replace(words)
