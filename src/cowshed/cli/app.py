"""The top of the command: the table of verbs, and what happens around each of them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from cowshed.cli.explain import EXIT_CODES, PipeBroken, explain

# verb: (module, what --help says)
VERBS: dict[str, tuple[str, str]] = {
    "run": ("run", "Make an instance from an image and start it."),
    "ls": ("instances", "List instances."),
    "show": ("instances", "Show one instance."),
    "rm": ("removal", "Remove instances and all they have; --soft: they can be restored."),
    "restore": ("removal", "Bring softly deleted instances back."),
    "reclaim": ("removal", "Remove softly deleted instances whose time is over."),
    "wait": ("instances", "Wait until an instance is in a state, reachable, or has logged a text."),
    "start": ("power", "Start instances."),
    "stop": ("power", "Shut instances down; hard after a time."),
    "restart": ("power", "Restart instances."),
    "pause": ("power", "Stop the processors of instances, keep their memory."),
    "suspend": ("power", "Save the memory of instances to disk and stop them."),
    "resume": ("power", "Let paused or suspended instances go on."),
    "log": ("consoles", "Show the serial console's log."),
    "console": ("consoles", "Join the serial console; ^] leaves it."),
    "vnc": ("consoles", "Say where the VNC console is."),
    "spice": ("consoles", "Say where the SPICE console is."),
    "ssh": ("consoles", "Open a shell in an instance, or run a command there."),
    "rescue": ("rescue", "Boot an instance from another image, with its disks attached."),
    "unrescue": ("rescue", "Boot a rescued instance from its own disks again."),
    "rebuild": ("rescue", "Give an instance new disks from an image."),
    "resize": ("resize", "Give an instance more CPUs, memory or disk; confirm or revert that."),
    "migrate": ("migrate", "Move an instance to another host, live or cold."),
    "exec": ("guest", "Run a command in an instance through its guest agent."),
    "cp": ("guest", "Copy a file into or out of an instance through its guest agent."),
    "password": ("guest", "Set the administrator's password in an instance."),
    "stats": ("stats", "Show what running instances use."),
    "host": ("host_admin", "This host: show, enable, disable, drain."),
    "volume": ("volumes", "Volumes of instances: attach, detach, ls, extend."),
    "share": ("shares", "Directories that instances mount: attach, detach, ls."),
    "disk": ("disks", "Disks of instances: ls, show, resize, move, export, limit, snapshot."),
    "snapshot": ("snapshots", "Images made of instances: create."),
    "nic": ("nic", "Interfaces of instances: ls, attach, detach, link, groups, reset."),
    "group": ("groups", "Security groups: create, ls, show, rm, rule."),
    "image": ("images", "Images: pull, ls, show, rm, prune, verify."),
    "backends": ("backends", "Say what each disk backend can do here."),
    "doctor": ("host", "Say what is missing or broken on this host, and how to mend it."),
    "config": ("host", "Show the configuration."),
    "events": ("host", "Show what happened to instances."),
    "serve": ("serve", "Answer another host's cowshed, which moves instances here."),
    "completion": ("completion", "Print the completion script of a shell."),
    "manual": ("manual", "Print a manual page of the command."),
    "help": ("topics", "Show the help of a verb, or what the exit codes mean."),
}
ALIASES = {
    "list": "ls",
    "ps": "ls",
    "info": "show",
    "delete": "rm",
    "launch": "run",
    "images": "image",
    "disks": "disk",
    "volumes": "volume",
    "shares": "share",
    "nics": "nic",
    "groups": "group",
}


class Verbs(click.Group):
    """Finds a verb in the table and imports only its module."""

    def invoke(self, ctx: click.Context) -> Any:
        """click would turn a broken pipe into exit code 1."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise PipeBroken from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = ALIASES.get(cmd_name, cmd_name)
        if name not in VERBS:
            return None
        module = import_module(f"cowshed.cli.{VERBS[name][0]}")
        command: click.Command = getattr(module, f"{name}_" if name in ("help", "exec") else name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in VERBS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and args[0] not in ALIASES:
            import difflib

            near = difflib.get_close_matches(args[0], [*VERBS, *ALIASES], n=1)
            ctx.fail(f"there is no verb {args[0]!r}" + (f"; did you mean {near[0]}?" if near else ""))
        return super().resolve_command(ctx, args)


EPILOG = "Exit codes: " + ", ".join(f"{code} {text}" for code, text in EXIT_CODES.items()) + "."


@click.group(cls=Verbs, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--connect", "uri", metavar="URI", help="libvirt to use, such as qemu:///system.")
@click.option("-v", "--verbose", count=True, help="Say more; twice: everything.")
@click.option("--debug", is_flag=True, help="Show where an error comes from.")
@click.version_option(package_name="cowshed", message="cowshed %(version)s")
@click.pass_context
def cowshed(ctx: click.Context, uri: str | None, verbose: int, debug: bool) -> None:
    """Virtual machines on copy-on-write disks."""
    from cowshed import log
    from cowshed.cli.context import Session

    log.configure((30, 20, 10)[min(verbose, 2)])
    ctx.obj = Session(uri=uri)


def run(words: Sequence[str]) -> int:
    """The exit code of the command with these words; never raises."""
    interrupted = _Interrupted()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup stays nohup
            signal.signal(number, interrupted)
    debug = "--debug" in words or bool(os.environ.get("COWSHED_DEBUG"))
    try:
        result: Any = cowshed.main(args=list(words), prog_name="cowshed", standalone_mode=False)
        sys.stdout.flush()
    except BaseException as error:  # noqa: BLE001 - the door: every error leaves as a sentence and a code
        return explain(error, debug=debug)
    return result if isinstance(result, int) else 0


class _Interrupted:
    """The first signal starts the way out; what was begun is taken back, and that is not interrupted by the second."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, number: int, frame: object) -> None:
        self.times += 1
        if self.times == 2:
            os.write(2, b"cowshed: clearing up; once more leaves it to the next cowshed\n")
            return
        raise KeyboardInterrupt
