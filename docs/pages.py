"""What the pages of docs/capabilities say: their index, and the checks that keep them from going stale.

A page ends with the lines ``Verbs: `volume attach`, ...`` and ``Driver: `volumes`, ...``, as far as it has any.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from cowshed.cli.app import cowshed
from cowshed.driver import LibvirtDriver

HERE = Path(__file__).parent
FOLDER = HERE / "capabilities"
INDEX = "README.md"
# As a reader meets them; what is not named here stands behind.
ORDER = ("lifecycle", "boot", "power", "consoles", "guest", "images", "disks", "snapshots", "limits", "encryption")
ORDER += ("volumes", "shares", "network", "rescue", "rebuild", "resize", "migration", "host", "statistics", "command")

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(cowshed [^`]+)`")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_SHELL = ("", "console", "sh", "bash", "shell")


def index() -> str:
    """The page that leads to all others: title and first sentence of each, and its verbs."""
    rows = "\n".join(
        f"| [{_title(text)}]({path.name}) | {_first_sentence(text)} | {', '.join(f'`{verb}`' for verb in _line(text, 'Verbs'))} |"
        for path, text in _pages().items()
    )
    return (
        "# What it can do, a page each\n\nEach page says what the capability does, shows the commands with what they print, the call of the "
        "library, and what is refused with which error and [exit code](../rooms/cli.md#exit-codes). The outputs are those of the tiny guest that "
        "`make guests` builds; `debian` is its image.\n\n"
        f"| | | verbs |\n|---|---|---|\n{rows}\n"
    )


def problems() -> Iterator[str]:
    """Sentences about what is stale or missing; none when all is well."""
    yield from _unparsable()
    yield from _unclaimed()
    yield from _dead_links()


def _unparsable() -> Iterator[str]:
    """Every command line of every page, the README and the rooms' pages included, is one that click understands."""
    verbs = set(_verbs())
    for path in sorted([HERE.parent / "README.md", *HERE.rglob("*.md")]):
        text = path.read_text()
        mentions = _mentions(text) if path.parent == FOLDER else []
        for line in [*_lines(text), *mentions]:
            for words in commands(line):
                try:
                    parse(words)
                except (click.ClickException, ValueError) as error:
                    if line in mentions and " ".join(words[1:]) in verbs:
                        continue  # the verb's name, in the middle of a sentence
                    reason = error.format_message() if isinstance(error, click.ClickException) else error
                    yield f"{path.relative_to(HERE.parent)}: {' '.join(words)}: {reason}"


def _unclaimed() -> Iterator[str]:
    """Every verb and every capability of the driver has a page, which shows it."""
    modules = {kind.__module__ for kind in LibvirtDriver.__mro__}
    known = {"Verbs": set(_verbs()), "Driver": {name[15:] for name in modules if name.startswith("cowshed.driver.")}}
    for label, expected in known.items():
        claimed = set()
        for path, text in _pages().items():
            names = _line(text, label)
            claimed.update(names)
            yield from (f"{path.name}: {label}: there is no {name}" for name in names if name not in expected)
            if label == "Verbs":
                shown = _shown(text)
                yield from (f"{path.name}: no command line shows {name}" for name in names if name not in shown)
        for name in sorted(expected - claimed):
            yield f"{name} has no page: name it in the line '{label}: ' of one in docs/capabilities"


def _dead_links() -> Iterator[str]:
    for path, text in _pages().items():
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            if not (path.parent / target).exists():
                yield f"{path.name}: there is no {target}"


# --- pages --------------------------------------------------------------------------------------


def _pages() -> dict[Path, str]:
    found = {path.stem: path for path in sorted(FOLDER.glob("*.md")) if path.name != INDEX}
    names = [*(name for name in ORDER if name in found), *(name for name in found if name not in ORDER)]
    return {found[name]: found[name].read_text() for name in names}


def _title(text: str) -> str:
    return text.partition("\n")[0].removeprefix("# ")


def _first_sentence(text: str) -> str:
    paragraph = " ".join(text.split("\n\n")[1].split())
    return re.split(r"(?<=[.])\s", paragraph)[0].rstrip(".")


def _line(text: str, label: str) -> list[str]:
    """The names in the sentence that begins with ``label``."""
    found = re.search(rf"^{label}: (.*?)\.(?:\s|\Z)", text, re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`]+)`", found[1]) if found else []


def examples(folder: Path) -> None:
    """Write the pages' Python as files into ``folder``, where mypy reads them; what was there before goes."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.py"):
        old.unlink()
    for path, text in _pages().items():
        blocks = [block for language, block in _FENCE.findall(text) if language == "python"]
        for number, block in enumerate(blocks, 1):
            (folder / f"{path.stem}_{number}.py").write_text(block)


# --- command lines ------------------------------------------------------------------------------


def _lines(text: str) -> Iterator[str]:
    """What a reader would type. In a block with prompts the rest is output."""
    for language, block in _FENCE.findall(text):
        if language in _SHELL:
            lines = block.replace("\\\n", " ").splitlines()
            typed = [line[2:] for line in lines if line.startswith("$ ")]
            yield from typed or [line for line in lines if line.startswith("cowshed ")]


def _mentions(text: str) -> list[str]:
    """Command lines in the middle of sentences."""
    return _INLINE.findall(_FENCE.sub("", text))


def commands(line: str) -> Iterator[list[str]]:
    """The words of each cowshed in a line for the shell: ``echo x | cowshed exec web -i -- cat >file``."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    redirected = False
    for word in lexer:
        if set(word) <= set("<>"):
            redirected = True
        elif set(word) <= set("();|&"):
            found.append([])
        elif not redirected:
            found[-1].append(word)
        else:
            redirected = False
    for words in found:
        while words and _ASSIGNMENT.match(words[0]):
            del words[0]
        if words[:1] == ["cowshed"]:
            yield words


def parse(words: list[str]) -> str:
    """The verb that these words call (``volume attach``); nothing runs.

    :raises click.ClickException: the command would refuse them
    """
    lenient = bool({"--help", "-h", "--version"} & set(words))  # they would print and end
    command: click.Command = cowshed
    context, rest, path = None, words[1:], []
    while rest or not isinstance(command, click.Group):  # `cowshed volume` is said of the whole group
        name = " ".join(["cowshed", *path])
        context = command.make_context(name, list(rest), parent=context, resilient_parsing=lenient)
        if not isinstance(command, click.Group):
            break
        rest = [*context._protected_args, *context.args]
        if rest:
            _, found, rest = command.resolve_command(context, rest)
            assert found is not None
            command = found
            path.append(str(found.name))
    return " ".join(path)


def _shown(text: str) -> set[str]:
    """The verbs that the page's command lines call."""
    found = set()
    for line in [*_lines(text), *_mentions(text)]:
        for words in commands(line):
            try:
                found.add(parse(words))
            except click.ClickException:
                found.add(" ".join(words[1:]))  # its name alone, in a sentence
    return found


def _verbs() -> Iterator[str]:
    """All that can be typed, without the groups: ``run``, ``volume attach``, ..."""

    def below(group: click.Group, path: tuple[str, ...]) -> Iterator[str]:
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            if isinstance(command, click.Group):
                yield from below(command, (*path, name))
            elif command is not None:
                yield " ".join((*path, name))

    return below(cowshed, ())


if __name__ == "__main__":
    examples(Path(sys.argv[1]))
