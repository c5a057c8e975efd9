"""The checks that keep the pages of docs/capabilities from going stale."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs"))

import pages  # noqa: E402


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page of its own in folders like ours."""
    (tmp_path / "docs" / "capabilities").mkdir(parents=True)
    (tmp_path / "README.md").write_text("# cowshed\n")
    monkeypatch.setattr(pages, "HERE", tmp_path / "docs")
    monkeypatch.setattr(pages, "FOLDER", tmp_path / "docs" / "capabilities")
    return tmp_path / "docs" / "capabilities" / "power.md"


@pytest.mark.parametrize(
    ("line", "verbs"),
    [
        ("cowshed volume attach web data.raw --format raw  # a file", ["volume attach"]),
        ("echo word | cowshed password web --stdin", ["password"]),
        ("COWSHED_DEBUG=1 cowshed ls -o json >list.json && cowshed rm web --yes", ["ls", "rm"]),
        ("cowshed exec web -- sh -c 'cat; exit 3' <in.txt", ["exec"]),
        ("cowshed volume", ["volume"]),
        ("cowshed --version", [""]),
        ("ls -l", []),
    ],
)
def test_the_verbs_of_a_line_for_the_shell(line: str, verbs: list[str]) -> None:
    assert [pages.parse(words) for words in pages.commands(line)] == verbs


@pytest.mark.parametrize(
    "words", ["strat web", "stop", "stop web --tmieout 3", "wait web --timeout", "nic link web 1 sideways"]
)
def test_a_line_that_the_command_would_refuse(words: str) -> None:
    with pytest.raises(click.ClickException):
        pages.parse(["cowshed", *words.split()])


def test_what_is_stale_on_a_page_is_said(page: Path) -> None:
    page.write_text(
        "# Power\n\nOn and off: `cowshed start --now`, not `cowshed pause`.\n\n```console\n$ cowshed halt web\ncowshed: no such thing\n```\n\n"
        "[gone](gone.md)\n\nVerbs: `stop`, `halt`.\n\nDriver: `power`,\n`powre`. More.\n"
    )
    found = "\n".join(pages.problems())
    for expected in (
        "cowshed start --now",
        "there is no verb 'halt'",
        "power.md: no command line shows stop",
        "power.md: Verbs: there is no halt",
        "power.md: Driver: there is no powre",
        "volume attach has no page",
        "rescue has no page: name it in the line 'Driver: '",
        "power.md: there is no gone.md",
    ):
        assert expected in found
    assert "no such thing" not in found  # output
    assert "cowshed pause" not in found  # a name in a sentence
    assert "power has no page" not in found


def test_examples_are_written_for_mypy(page: Path, tmp_path: Path) -> None:
    page.write_text("# Power\n\nOn.\n\n```python\nimport cowshed\n```\n\n```console\n$ cowshed ls\n```\n")
    pages.examples(tmp_path / "examples")
    assert [path.name for path in (tmp_path / "examples").iterdir()] == ["power_1.py"]
