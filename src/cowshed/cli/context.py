"""What verbs share: options, the host, asking, progress."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cowshed.cli import output
from cowshed.errors import CowshedError, InvalidRequest

if TYPE_CHECKING:
    from cowshed.manager.host import Host

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(slots=True)
class Session:
    """One call of the command."""

    uri: str | None = None
    format: str = "table"
    quiet: bool = False
    progress: str = "auto"
    yes: bool = False
    _host: Host | None = field(default=None)

    @property
    def host(self) -> Host:
        if self._host is None:
            from cowshed.manager.host import Host

            self._host = Host.connect(self.uri)
            if sys.stderr.isatty():
                self._host.instances.tell = lambda text: output.note(f"cowshed: {output.printable(text)}")
        return self._host

    @contextmanager
    def working(self) -> Iterator[Host]:
        """The host, with progress shown for the block."""
        from cowshed.cli.progress import chosen

        host = self.host
        with chosen(self.progress) as progress, host.driver.reporting(progress):
            yield host

    def tell_brought(self) -> None:
        """To people: images that a path or URL has left in the store, which they may not expect there."""
        if self.format == "table" and not self.quiet:
            for image in self.host.images.brought:
                output.note(f"kept as image {image.name}; cowshed image rm {image.name} removes it")

    def confirm(self, question: str) -> None:
        """Ask on a terminal; elsewhere ``--yes`` must have been given.

        :raises InvalidRequest: nobody can be asked :raises click.exceptions.Exit: the answer is no
        """
        if self.yes:
            return
        if not sys.stdin.isatty():
            raise InvalidRequest(reason="this removes things and there is no terminal to ask on", hint="give --yes")
        print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)  # not click's, which uses standard output
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            output.note("nothing was removed")
            raise click.exceptions.Exit(1)

    def emit(self, kind: str, item: Any, columns: output.Columns | None = None) -> None:
        output.emit(self.format, kind, item, columns, quiet=self.quiet)


def _say_more(ctx: click.Context, param: click.Parameter, value: int) -> None:
    """-v after the verb means what it means before it."""
    if value:
        from cowshed import log

        log.configure((30, 20, 10)[min(value, 2)])


class Common(click.Option):
    """One that every verb has."""


class Verb(click.Command):
    """Its help tells of its own options first; those that every verb has stand in a section at the end."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for heading, options in zip(("Options", "Common options"), own_and_common(self, ctx), strict=True):
            if options:
                with formatter.section(heading):
                    formatter.write_dl(options)


class Group(click.Group):
    """Verbs of one word more."""

    command_class = Verb

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """click would cut what they do after a few words."""
        found = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        with formatter.section("Commands"):
            formatter.write_dl([(name, one.get_short_help_str(200)) for name, one in found.items() if one])


def own_and_common(command: click.Command, ctx: click.Context) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """What the help says of the command's options: those of its own, and those that every verb has."""
    own: list[tuple[str, str]] = []
    common: list[tuple[str, str]] = []
    for option in command.get_params(ctx):
        if not isinstance(option, click.Argument) and (record := option.get_help_record(ctx)):
            every = isinstance(option, Common) or option is command.get_help_option(ctx)
            (common if every else own).append(record)
    return own, common


def verb(function: Function) -> Function:
    """The options every verb has; the function receives the session first."""

    @click.option(
        "-o",
        "--output",
        "format",
        cls=Common,
        type=click.Choice(output.FORMATS),
        default="table",
        help="How to print the result.",
    )
    @click.option(
        "--progress",
        cls=Common,
        type=click.Choice(["auto", "plain", "json", "none"]),
        default="auto",
        help="How to show progress; auto: only on a terminal.",
    )
    @click.option("-q", "--quiet", cls=Common, is_flag=True, help="Print only names or ids.")
    @click.option(
        "-v", "--verbose", cls=Common, count=True, expose_value=False, callback=_say_more, help="Say more; -vv: all."
    )
    @click.option("--debug", cls=Common, is_flag=True, expose_value=False, help="Show where an error comes from.")
    @functools.wraps(function)
    def wrapped(*args: Any, format: str, progress: str, quiet: bool, **kwargs: Any) -> Any:
        session: Session = click.get_current_context().obj
        session.format, session.progress, session.quiet = format, progress, quiet
        return function(session, *args, **kwargs)

    return wrapped  # type: ignore[return-value]


def destructive(function: Function) -> Function:
    """A verb that asks first, and its --yes."""

    @click.option("-y", "--yes", is_flag=True, help="Do not ask.")
    @functools.wraps(function)
    def wrapped(session: Session, *args: Any, yes: bool, **kwargs: Any) -> Any:
        session.yes = yes
        return function(session, *args, **kwargs)

    return wrapped  # type: ignore[return-value]


def instance_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """For completion: read from the records alone. What cannot be read completes to nothing."""
    return _names(incomplete, deleted=False)


def deleted_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """For completion: those that are softly deleted."""
    return _names(incomplete, deleted=True)


def every_name(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """For completion: softly deleted or not."""
    return _names(incomplete, deleted=None)


def _names(incomplete: str, *, deleted: bool | None) -> list[str]:
    from cowshed import config
    from cowshed.manager.records import Records

    with suppress(CowshedError, OSError):
        names = Records(config.load().state / "cowshed.db").names(deleted=deleted)
        return [name for name in names if name.startswith(incomplete)]
    return []


def instance_directory(ctx: click.Context) -> Path:
    """For completion: where the instance that stands before keeps its records, from the database alone.

    :raises CowshedError: there is no such instance, or none is named yet
    """
    from cowshed import config
    from cowshed.manager.records import Records

    state = config.load().state
    return state / "instances" / Records(state / "cowshed.db").find(ctx.params.get("instance") or "").uuid


def image_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    """Names of images; files where an image may be one (the shell completes those)."""
    from click.shell_completion import CompletionItem

    from cowshed import config
    from cowshed.images.directory import DirectoryService

    if "/" in incomplete or incomplete.startswith("~"):
        return [CompletionItem(incomplete, type="file")]
    with suppress(CowshedError, OSError):
        settings = config.load()
        if settings.images.service != "directory":
            return []  # asking a server at every press of a key would be too slow
        images = DirectoryService(settings.state / "images", settings.images).list()
        return [image.name for image in images if image.name.startswith(incomplete)]
    return []


def disk_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Of the instance that stands before; from its manifest alone."""
    from cowshed import config
    from cowshed.disks import manifest
    from cowshed.manager.records import Records

    with suppress(CowshedError, OSError, KeyError):
        state = config.load().state
        record = Records(state / "cowshed.db").find(ctx.params["instance"])
        names = manifest.load(state / "instances" / record.uuid).disks
        return [name for name in names if name.startswith(incomplete)]
    return []


def backend_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Those that are configured here."""
    from cowshed import config
    from cowshed.disks import open_backends

    with suppress(CowshedError, OSError):
        found = config.load()
        names = open_backends(found.state / "instances", found.disks, lvm=found.lvm, rbd=found.rbd)
        return [name for name in names if name.startswith(incomplete)]
    return []


def group_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """From the manager's file alone."""
    import json

    from cowshed import config
    from cowshed.manager.groups import FILE

    with suppress(CowshedError, OSError, ValueError, KeyError, TypeError):
        known = json.loads((config.load().state / FILE).read_text())
        return [one["name"] for one in known if one["name"].startswith(incomplete)]
    return []


def directories(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    """For completion: directories, which the shell knows."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="dir")]


def instance_argument(**options: Any) -> Callable[[Function], Function]:
    return click.argument("instance", shell_complete=instance_names, **options)


def instances_argument() -> Callable[[Function], Function]:
    return click.argument("instances", nargs=-1, required=True, shell_complete=instance_names)
