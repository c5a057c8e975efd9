"""A small XML reader for files that somebody else may have written: no entities, no surprises."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NoReturn
from xml.parsers import expat

from cowshed.tools.ploop.errors import PloopError

_LARGEST: Final = 1 << 20  # bytes
_DEEPEST: Final = 16
_MOST: Final = 20_000  # elements


@dataclass(slots=True)
class Node:
    """An element; attributes are not kept, as none means anything here."""

    name: str
    text: str = ""
    children: list[Node] = field(default_factory=list)

    def all(self, name: str) -> list[Node]:
        return [child for child in self.children if child.name == name]

    def one(self, name: str) -> Node:
        """:raises PloopError: there is none, or more than one"""
        found = self.all(name)
        if len(found) != 1:
            raise PloopError(f"<{self.name}> has {len(found)} elements <{name}>, not one")
        return found[0]

    def word(self, name: str) -> str:
        return self.one(name).text.strip()

    def number(self, name: str, largest: int) -> int:
        """:raises PloopError: it is not a number from 0 to ``largest``"""
        word = self.word(name)
        if not (word.isascii() and word.isdigit() and len(word) < 20 and int(word) <= largest):
            raise PloopError(f"<{name}> is {word[:40]!r}, not a number from 0 to {largest}")
        return int(word)


def parse(text: bytes) -> Node:
    """The root element. :raises PloopError: it is not XML, or has what nobody needs"""
    if len(text) > _LARGEST:
        raise PloopError(f"it is larger than {_LARGEST} bytes")
    builder = _Builder()
    parser = expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse
    parser.EntityDeclHandler = _refuse
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise PloopError(f"it is not XML: {error}") from error
    (root,) = builder.top.children
    return root


def _refuse(*_: object) -> NoReturn:
    raise PloopError("it declares a document type or an entity")


class _Builder:
    def __init__(self) -> None:
        self.top = Node("")
        self._open = [self.top]
        self._count = 0

    def start(self, name: str, _: dict[str, str]) -> None:
        self._count += 1
        if len(self._open) > _DEEPEST or self._count > _MOST:
            raise PloopError("it has too many elements")
        node = Node(name)
        self._open[-1].children.append(node)
        self._open.append(node)

    def end(self, _: str) -> None:
        self._open.pop()

    def data(self, text: str) -> None:
        self._open[-1].text += text
