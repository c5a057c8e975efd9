"""XML values, each declared once: the same line writes it and reads it.

A device is a frozen dataclass whose fields say where they stand::

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Rng(Element):
        TAG: ClassVar[str] = "rng"
        model: str = value("@model", "virtio")
        source: Path | None = value("backend")
        rate: int | None = value("rate/@bytes")

``rate/@bytes`` is an attribute of a child, ``backend`` a child's text. The field's type says how
the text is converted: str, int, bool (yes/no), Path, a StrEnum. None is not written. Elements that
are not declared are ignored when reading: libvirt returns much that nobody here asks for.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Final, Self, Union, get_args, get_origin, get_type_hints
from xml.etree import ElementTree as ET
from xml.etree.ElementTree import Element as Node

from cowshed.errors import DataCorrupt, InternalError, InvalidRequest

_ILLEGAL: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_UNITS: Final = {"b": 1, "bytes": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    name: 1 << shift
    for shift, names in {10: ("KiB", "k", "K"), 20: ("MiB", "M"), 30: ("GiB", "G"), 40: ("TiB", "T")}.items()
    for name in names
}


# --- declarations -----------------------------------------------------------------------------


def value(path: str, default: Any = None) -> Any:
    """One value at ``path``; a bool is yes or no."""
    return field(default=default, metadata={"line": ("value", path, ("yes", "no"))})


def switch(path: str, default: Any = None) -> Any:
    """A bool that is written on or off."""
    return field(default=default, metadata={"line": ("value", path, ("on", "off"))})


def present(path: str, default: bool = False) -> Any:
    """A bool that is written as an empty element, or not at all."""
    return field(default=default, metadata={"line": ("present", path, ())})


def size(path: str, default: Any = None) -> Any:
    """Bytes, a multiple of 1024; written in KiB, with the unit."""
    return field(default=default, metadata={"line": ("size", path, ())})


def record(path: str) -> Any:
    """A dataclass of ints and strings whose fields are named like the children of ``path``."""
    return field(default=None, metadata={"line": ("record", path, ())})


def child(path: str = "") -> Any:
    """Another Element, inside ``path``; its class says its tag."""
    return field(default=None, metadata={"line": ("child", path, ())})


def children(path: str = "") -> Any:
    """Any number of Elements of one class, inside ``path``."""
    return field(default=(), metadata={"line": ("children", path, ())})


# --- elements ---------------------------------------------------------------------------------


class Element:
    """Base of everything with declared values. ``NAMESPACE`` applies to its tag and all paths in it."""

    __slots__ = ()
    TAG: ClassVar[str] = ""
    NAMESPACE: ClassVar[str] = ""

    def to_node(self) -> Node:
        """:raises InvalidRequest: a text has characters that XML cannot carry"""
        node = Node(qualified(type(self), type(self).TAG))
        for line in lines(type(self)):
            line.write(node, getattr(self, line.name))
        return node

    @classmethod
    def from_node(cls, node: Node) -> Self:
        """:raises DataCorrupt: a value is not of its type"""
        found = {line.name: line.read(node) for line in lines(cls)}
        return cls(**{name: item for name, item in found.items() if item is not None})

    def to_xml(self) -> str:
        node = self.to_node()
        ET.indent(node)
        return ET.tostring(node, encoding="unicode") + "\n"

    def to_unqualified_xml(self) -> str:
        """Without namespaces: libvirt's setMetadata adds the namespace itself, and refuses one that is there."""
        node = self.to_node()
        for one in node.iter():
            one.tag = one.tag.rpartition("}")[2]
        return ET.tostring(node, encoding="unicode")

    @classmethod
    def parse(cls, xml: str) -> Self:
        """:raises DataCorrupt: it is not XML, has a document type, or is another element"""
        node = parse(xml)
        if node.tag != qualified(cls, cls.TAG):
            raise DataCorrupt(path="XML", reason=f"<{node.tag}> where <{cls.TAG}> was expected")
        return cls.from_node(node)


@dataclass(frozen=True, slots=True)
class Line:
    """One declaration: the field, where its value stands, and how it is converted."""

    name: str
    kind: str
    path: tuple[str, ...]
    attribute: str
    type: Any
    words: tuple[str, ...]

    def write(self, root: Node, item: Any) -> None:
        if item is None or (item is False and self.kind == "present"):
            return
        if self.kind == "children":
            for one in item:
                _place(root, self.path).append(one.to_node())
            return
        node = _place(root, self.path)
        match self.kind:
            case "child":
                node.append(item.to_node())
            case "size":
                node.set("unit", "KiB")
                node.text = str(item // 1024)
            case "record":
                for one in fields(item):
                    if (inner := getattr(item, one.name)) is not None:
                        _place(node, (one.name,)).text = legal(str(inner))
            case "value":
                self._set(node, self._text(item))

    def read(self, root: Node) -> Any:
        """None when it is not there; the default of the field applies then."""
        if self.kind == "children":
            path = "/".join((*self.path, qualified(self.type, self.type.TAG)))
            return tuple(self.type.from_node(node) for node in root.findall(path))
        if self.kind == "child":
            found = root.find("/".join((*self.path, qualified(self.type, self.type.TAG))))
            return None if found is None else self.type.from_node(found)
        node = root.find("/".join(self.path)) if self.path else root
        if node is None:
            return None
        try:
            return self._from(node)
        except (ValueError, KeyError) as error:
            raise DataCorrupt(path=f"<{root.tag}>", reason=f"{self.name}: {error}") from error

    def _from(self, node: Node) -> Any:
        if self.kind == "present":
            return True
        if self.kind == "size":
            return int(node.text or "") * _UNITS[node.get("unit", "KiB")]
        if self.kind == "record":
            hints = get_type_hints(self.type)
            known = {name: node.findtext(name) for name in hints}
            return self.type(**{name: _plain(hints[name])(text) for name, text in known.items() if text is not None})
        text = node.get(self.attribute) if self.attribute else node.text
        return None if text is None else self._value(text)

    def _set(self, node: Node, text: str) -> None:
        if self.attribute:
            node.set(self.attribute, text)
        else:
            node.text = text

    def _text(self, item: Any) -> str:
        if isinstance(item, bool):
            return self.words[0] if item else self.words[1]
        return legal(str(item))

    def _value(self, text: str) -> Any:
        if self.type is bool:
            if text not in self.words:
                raise ValueError(f"{text!r} is not one of {self.words}")
            return text == self.words[0]
        return self.type(text)


_LINES: Final[dict[type[Element], tuple[Line, ...]]] = {}


def lines(kind: type[Element]) -> tuple[Line, ...]:
    """All declarations of ``kind``, in the order they are written."""
    if kind not in _LINES:
        hints = get_type_hints(kind)
        declared = fields(kind)  # type: ignore[arg-type]  # every subclass is a dataclass
        _LINES[kind] = tuple(_line(kind, one.name, one.metadata, hints[one.name]) for one in declared)
    return _LINES[kind]


def _line(kind: type[Element], name: str, metadata: Any, hint: Any) -> Line:
    if "line" not in metadata:
        raise InternalError(reason=f"{kind.__name__}.{name} does not say where it stands")
    what, path, words = metadata["line"]
    *parents, last = path.split("/")
    attribute = last.removeprefix("@") if last.startswith("@") else ""
    places = parents if attribute or not last else [*parents, last]
    return Line(name, what, tuple(qualified(kind, place) for place in places), attribute, _plain(hint), words)


def _plain(hint: Any) -> Any:
    """``str`` of ``str | None``, ``Disk`` of ``tuple[Disk, ...]``."""
    if get_origin(hint) in (Union, types.UnionType):
        return next(one for one in get_args(hint) if one is not type(None))
    return get_args(hint)[0] if get_origin(hint) is tuple else hint


def elements(root: Element) -> Iterator[Element]:
    """``root`` and every Element in it."""
    yield root
    for line in lines(type(root)):
        item = getattr(root, line.name)
        for one in item if isinstance(item, tuple) else (item,):
            if isinstance(one, Element):
                yield from elements(one)


# --- XML --------------------------------------------------------------------------------------


def qualified(kind: type[Element], tag: str) -> str:
    return f"{{{kind.NAMESPACE}}}{tag}" if kind.NAMESPACE else tag


def legal(text: str) -> str:
    """:raises InvalidRequest: XML cannot carry it"""
    if match := _ILLEGAL.search(text):
        raise InvalidRequest(reason=f"{text!r} has a character that XML cannot carry: {match.group()!r}")
    return text


class _Builder(ET.TreeBuilder):
    """Refuses a document type: entities could make a short text long, and libvirt writes none."""

    def doctype(self, *_: object) -> None:
        raise DataCorrupt(path="XML", reason="it has a document type")


def parse(xml: str) -> Node:
    """:raises DataCorrupt: it is not XML, or has a document type"""
    parser = ET.XMLParser(target=_Builder())  # noqa: S314 - libvirt's own words, without entities
    try:
        parser.feed(xml)
        node: Node = parser.close()
    except ET.ParseError as error:
        raise DataCorrupt(path="XML", reason=str(error)) from error
    return node


def _place(root: Node, path: tuple[str, ...]) -> Node:
    """The node at ``path``, made if it is not there."""
    node = root
    for tag in path:
        found = node.find(tag)
        node = ET.SubElement(node, tag) if found is None else found
    return node
