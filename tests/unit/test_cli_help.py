"""The help of each verb: its own options first, those of all verbs in a section at the end."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from cowshed.cli import manual
from cowshed.cli.app import cowshed, run

COMMON = ("--output", "--progress", "--quiet", "--verbose", "--debug", "--help")


def verbs(command: click.Command, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    if not isinstance(command, click.Group):
        yield command, context
        return
    for name in command.list_commands(context):
        below = command.get_command(context, name)
        assert below is not None
        yield from verbs(below, click.Context(below, parent=context, info_name=name))


ALL = list(verbs(cowshed, manual.outermost(cowshed)))


@pytest.mark.parametrize(("command", "context"), ALL, ids=[context.command_path for _, context in ALL])
def test_common_options_stand_at_the_end_of_the_help(command: click.Command, context: click.Context) -> None:
    before, heading, common = command.get_help(context).partition("Common options:")
    assert heading
    assert all(option in common for option in COMMON)
    assert not any(f"{option} " in before for option in ("--output", "--progress", "--debug"))
    options = [option for option in command.params if isinstance(option, click.Option) and not option.hidden]
    own = [option for option in options if not any(name in COMMON for name in option.opts)]
    assert all(option.opts[-1] in before for option in own)
    assert ("\nOptions:" in before) == bool(own)


@pytest.mark.parametrize(("command", "context"), ALL, ids=[context.command_path for _, context in ALL])
def test_every_option_says_what_it_does(command: click.Command, context: click.Context) -> None:
    for option in command.params:
        if not isinstance(option, click.Option):
            continue
        assert option.help, option.name
        assert not option.multiple or "repeatable" in option.help, option.name
        if option.name in ("timeout", "interval", "wait"):
            assert option.metavar == "TIME", option.name


def test_what_groups_list_is_not_cut() -> None:
    groups = {context.parent.command_path: context.parent for _, context in ALL if context.parent}
    assert len(groups) > 10
    for path, context in groups.items():
        assert "..." not in context.command.get_help(context).replace("[ARGS]...", ""), path


def test_help_of_a_verb_is_what_the_verb_says(capsys: pytest.CaptureFixture[str]) -> None:
    def said(*words: str) -> str:
        assert run(words) == 0
        return capsys.readouterr().out

    for words in ((), ("disk",), ("disk", "snapshot", "create"), ("info",)):
        assert said("help", *words) == said(*words, "--help")
    assert said("help", "exit-codes").startswith("CODE")


def test_the_manual_keeps_them_apart_too() -> None:
    pages = {context.command_path: manual.page(command, context) for command, context in ALL}
    own, heading, common = pages["cowshed stats"].partition(".SS Common options\n")
    assert heading
    assert "interval" in own
    assert "interval" not in common
    assert "progress" in common
