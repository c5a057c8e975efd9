"""The manual pages: every verb has one, and roff understands them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from cowshed.cli import manual
from cowshed.cli.app import VERBS, cowshed
from cowshed.errors import InvalidRequest


def context() -> click.Context:
    return manual.outermost(cowshed)


def test_every_verb_has_a_page(tmp_path: Path) -> None:
    pages = {inner.command_path for _, inner in manual._all(context())}
    assert {f"cowshed {name}" for name in VERBS} <= pages
    assert "cowshed disk move" in pages
    for command, inner in manual._all(context()):
        text = manual.page(command, inner)
        assert text.startswith(".TH ")
        assert all(section in text for section in (".SH NAME", ".SH SYNOPSIS", ".SH OPTIONS", ".SH EXIT STATUS"))


def test_the_page_has_every_name_of_an_option_that_the_help_has() -> None:
    """Asked in processes of their own: click keeps the option as the first context has made it, which may be a test's."""
    assert ".B \\-h, \\-\\-help\n" in said("manual", "nic", "attach")
    assert "-h, --help" in said("help", "nic", "attach")


def said(*words: str) -> str:
    command = [sys.executable, "-m", "cowshed.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def test_nothing_in_a_text_is_taken_for_a_request() -> None:
    command = click.Command("odd", help="First.\n\n.so /etc/passwd and \\fBescapes\\fR")
    text = manual.page(command, click.Context(command, info_name="odd"))
    assert "\n.so" not in text
    assert "\\efBescapes" in text


def test_a_verb_of_two_words_is_given_as_it_is_typed() -> None:
    for words in (["disk", "move"], ["disk move"]):
        done = CliRunner().invoke(cowshed, ["manual", *words])
        assert done.exit_code == 0, done.output
        assert done.stdout.startswith('.TH "COWSHED-DISK-MOVE"')


def test_a_verb_that_is_not_there() -> None:
    with pytest.raises(InvalidRequest, match="nothing"):
        manual.find(context(), "disk nothing")


def test_groff_reads_them_without_a_complaint() -> None:
    for command, inner in [(cowshed, context()), *manual._all(context())]:
        done = subprocess.run(
            ["groff", "-man", "-ww", "-Tutf8"],
            input=manual.page(command, inner),
            text=True,
            capture_output=True,
            check=True,
        )
        assert done.stderr == "", inner.command_path
        assert inner.command_path.split()[-1] in done.stdout
