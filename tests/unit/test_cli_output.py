"""What the command prints of results, and of how far it is."""

from __future__ import annotations

import pytest

from cowshed.cli import output, progress
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
