"""cowshed manual: the command's manual pages, made from the verbs themselves so that they cannot be out of date"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click

from cowshed.cli.context import Session, Verb, own_and_common, verb
from cowshed.errors import InvalidRequest


@click.command(cls=Verb)
@click.argument("words", metavar="[VERB]...", nargs=-1)
@click.option(
    "--directory", type=click.Path(path_type=Path), help="Write every page there, as cowshed.1, cowshed-run.1, ..."
)
@verb
def manual(session: Session, words: tuple[str, ...], directory: Path | None) -> None:
    """Print a manual page: cowshed manual | man -l -"""
    from cowshed.cli.app import cowshed

    context = outermost(cowshed)
    if directory is None:
        print(page(*find(context, " ".join(words))), end="")
        return
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for command, inner in [(cowshed, context), *_all(context)]:
        path = directory / f"{inner.command_path.replace(' ', '-')}.1"
        path.write_text(page(command, inner))
        written.append({"page": str(path)})
    session.emit("pages", written, {"page": lambda row: row["page"]})


def outermost(command: click.Command) -> click.Context:
    """As click makes it: --help is -h too."""
    return click.Context(command, info_name="cowshed", **command.context_settings)


def find(context: click.Context, words: str) -> tuple[click.Command, click.Context]:
    """:raises InvalidRequest: there is no such verb"""
    command = context.command
    for word in words.split():
        found = command.get_command(context, word) if isinstance(command, click.Group) else None
        if found is None:
            raise InvalidRequest(reason=f"there is no verb {words!r}", hint="cowshed --help names them")
        command, context = found, click.Context(found, parent=context, info_name=word)
    return command, context


def _all(context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    assert isinstance(context.command, click.Group)
    for name in context.command.list_commands(context):
        command = context.command.get_command(context, name)
        if command is None or command.hidden:
            continue
        inner = click.Context(command, parent=context, info_name=name)
        yield command, inner
        if isinstance(command, click.Group):
            yield from _all(inner)


def page(command: click.Command, context: click.Context) -> str:
    """The manual page of ``command`` in roff (man(7))."""
    from cowshed import __version__

    path = context.command_path
    title = path.replace(" ", "-")
    usage = " ".join(command.collect_usage_pieces(context))
    text = command.help or command.short_help or ""
    first, _, rest = text.partition("\n")
    lines = [
        f'.TH "{_quoted(title.upper())}" "1" "" "cowshed {__version__}" "cowshed"',
        ".SH NAME",
        f"{_roff(title)} \\- {_roff(first.rstrip('.'))}",
        ".SH SYNOPSIS",
        f".B {_roff(path)}",
        _roff(usage),
        *([".SH DESCRIPTION", *_paragraphs(rest)] if rest.strip() else []),
        *_options(command, context),
        *_verbs(command, context),
        *_ending(command),
    ]
    return "\n".join(lines) + "\n"


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    own, common = own_and_common(command, context)
    if own or common:
        yield ".SH OPTIONS"
    for heading, records in (("", own), (".SS Common options", common)):
        if heading and own and records:
            yield heading
        for names, text in records:
            yield from (".TP", f".B {_roff(names)}", _roff(text or ""))


def _verbs(command: click.Command, context: click.Context) -> Iterator[str]:
    if not isinstance(command, click.Group):
        return
    yield ".SH COMMANDS"
    for name in command.list_commands(context):
        if found := command.get_command(context, name):
            yield from (".TP", f".B {_roff(name)}", _roff(found.get_short_help_str(200)))


def _ending(command: click.Command) -> Iterator[str]:
    from cowshed.cli.explain import EXIT_CODES

    yield ".SH EXIT STATUS"
    for code, meaning in EXIT_CODES.items():
        yield from (".TP", f".B {code}", _roff(meaning))
    yield ".SH ENVIRONMENT"
    yield _roff("COWSHED_CONFIG names a configuration file; COWSHED_<SECTION>_<KEY> sets one option.")


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        yield ".PP"
        yield _roff(" ".join(line.strip() for line in paragraph.replace("\b", "").splitlines()))


def _roff(text: str) -> str:
    """No text is taken for a request or an escape."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text


def _quoted(text: str) -> str:
    return text.replace('"', "")
