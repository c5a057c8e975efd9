"""What the command prints of results, and of how far it is."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress

import pytest

from cowshed.cli import explain, output, progress
from cowshed.errors import NotFound
from cowshed.units import MiB


def test_quiet_says_nothing_of_what_has_no_name(capfd: pytest.CaptureFixture[str]) -> None:
    output.emit("table", "host", {"state": "enabled"}, None, quiet=True)
    output.emit("table", "pages", [{"page": "a.1"}, {}, {"id": "b"}], {}, quiet=True)
    assert capfd.readouterr().out == "a.1\nb\n"


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the clock says; to be changed."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_plain_progress_ends_with_how_much_and_how_long(
    seconds: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    with progress.chosen("plain") as shown:
        shown.phase("migrate", 256 * MiB)
        for done in (0, 64 * MiB, 192 * MiB):
            seconds[0] += 1
            shown.update(done)
    assert capfd.readouterr().err.splitlines() == [
        "migrate 256 MiB",
        "migrate 64 MiB of 256 MiB",
        "migrate 256 MiB in 3 s",
    ]


def test_plain_progress_of_a_short_phase_is_one_line(seconds: list[float], capfd: pytest.CaptureFixture[str]) -> None:
    with progress.chosen("plain") as shown:
        shown.phase("hash", MiB)
        shown.update(MiB)
    assert capfd.readouterr().err.splitlines() == ["hash 1 MiB"]


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        ("plain", "cowshed: it waits?\n"),
        ("json", '{"note": "it waits\\u0007"}\n'),
        ("auto", "cowshed: it waits?\n"),
        ("none", ""),
    ],
)
def test_a_note_is_told_also_where_there_is_no_terminal(
    kind: str, shown: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with progress.chosen(kind) as meter:
        meter.note("it waits\a")
    assert capfd.readouterr().err == shown


def test_a_note_stands_alone_on_a_terminal(seconds: list[float], capfd: pytest.CaptureFixture[str]) -> None:
    bar = progress.Bar()
    bar.phase("download", 4 * MiB)
    seconds[0] += 1
    bar.update(MiB)
    bar.note("it waits")
    assert capfd.readouterr().err.endswith("\r\x1b[Kcowshed: it waits\n")


@pytest.fixture
def nobody_listens(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """To standard error."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        yield
        monkeypatch.undo()
        with suppress(BrokenPipeError):
            stream.close()


@pytest.mark.parametrize("kind", ["plain", "json", "auto"])
def test_what_goes_on_does_not_end_because_nobody_sees_how_far_it_is(nobody_listens: None, kind: str) -> None:
    with progress.chosen(kind) as meter:
        meter.phase("download", MiB)
        meter.update(MiB)
        meter.note("it waits")


def test_a_bar_that_nobody_sees(nobody_listens: None) -> None:
    bar = progress.Bar()
    bar.show("download", 1, 2, 1.0)
    bar.done("download", 2, 1.0)
    bar.told("it waits")


def test_all_attempts_are_made_and_the_first_error_is_raised_where_nobody_hears_of_the_others(
    nobody_listens: None,
) -> None:
    made = []
    with pytest.raises(NotFound, match="image a"), output.collecting() as attempt:
        for name in ("a", "b", "c"):
            with attempt():
                made.append(name)
                raise NotFound(kind="image", name=name)
    assert made == ["a", "b", "c"]


def test_only_a_broken_standard_output_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """What breaks may be the pipe to a tool, or to another host."""
    saved = os.dup(1)
    reader, writer = os.pipe()
    try:
        os.dup2(writer, 1)
        assert explain.explain(BrokenPipeError(32, "Broken pipe")) == 1
        os.close(reader)
        assert explain.explain(BrokenPipeError(32, "Broken pipe")) == 0
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(writer)
