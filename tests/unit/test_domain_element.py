# ruff: noqa: RUF009 - declarations return dataclass fields
"""Declarations: what is written is what is read, and what cannot be is refused."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cowshed.domain.domain import Domain
from cowshed.domain.element import Element, child, children, lines, present, size, switch, value
from cowshed.domain.metadata import Metadata
from cowshed.errors import DataCorrupt, InternalError, InvalidRequest


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner(Element):
    TAG: ClassVar[str] = "inner"

    number: int | None = value("@number")
    inner: Inner | None = child()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer(Element):
    NAMESPACE: ClassVar[str] = ""
    TAG: ClassVar[str] = "outer"

    text: str | None = value("a/b")
    colour: Colour | None = value("a/b/@colour")
    place: Path | None = value("@place")
    yes: bool | None = value("@yes")
    on: bool | None = switch("@on")
    there: bool = present("there")
    memory: int | None = size("memory")
    inner: Inner | None = child("box")
    many: tuple[Inner, ...] = children("boxes")


FULL = Outer(
    text="<&>",
    colour=Colour.RED,
    place=Path("/x y"),
    yes=False,
    on=True,
    there=True,
    memory=2048,
    inner=Inner(number=1, inner=Inner(number=2, inner=Inner())),
    many=(Inner(number=3), Inner()),
)


def test_written_as_declared() -> None:
    assert re.sub(r">\s+<", "><", FULL.to_xml()) == (
        '<outer place="/x y" yes="no" on="on"><a><b colour="red">&lt;&amp;&gt;</b></a><there />'
        '<memory unit="KiB">2</memory><box><inner number="1"><inner number="2"><inner /></inner></inner></box>'
        '<boxes><inner number="3" /><inner /></boxes></outer>\n'
    )


@pytest.mark.parametrize("element", [FULL, Outer()])
def test_read_back(element: Outer) -> None:
    assert Outer.parse(element.to_xml()) == element


def test_nothing_is_written_for_nothing() -> None:
    assert Outer().to_xml() == "<outer />\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("<memory>5</memory>", 5120), ("<memory unit='b'>5</memory>", 5), ("<memory unit='GiB'>1</memory>", 1 << 30)],
)
def test_sizes_are_read_in_any_unit(text: str, expected: int) -> None:
    assert Outer.parse(f"<outer>{text}</outer>").memory == expected


def test_what_is_not_declared_is_ignored() -> None:
    assert Outer.parse("<outer><b/><more x='1'/><!-- comment --><?pi?></outer>") == Outer()


@pytest.mark.parametrize(
    "xml",
    [
        "",
        "<outer>",
        "<other/>",
        "<!DOCTYPE outer [<!ENTITY a 'b'>]><outer>&a;</outer>",
        "<!DOCTYPE outer SYSTEM 'file:///etc/passwd'><outer/>",
        "<outer yes='maybe'/>",
        "<outer><memory>much</memory></outer>",
        "<outer><memory unit='stones'>1</memory></outer>",
        "<outer><a><b colour='blue'/></a></outer>",
        "<outer><box><inner number='one'/></box></outer>",
    ],
)
def test_damaged_xml_is_refused(xml: str) -> None:
    with pytest.raises(DataCorrupt):
        Outer.parse(xml)


@pytest.mark.parametrize("text", ["\0", "a\x1b[m", "\ud800", "\ufffe"])
def test_characters_that_xml_cannot_carry_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="XML cannot carry"):
        Outer(text=text).to_xml()


@given(st.text())
def test_a_text_is_read_as_it_was_written_or_refused(text: str) -> None:
    try:
        xml = Outer(text="x" + text + "x").to_xml()
    except InvalidRequest:
        return
    read = Outer.parse(xml).text
    # XML itself makes one newline of the three kinds of line ends.
    assert read == ("x" + text + "x").replace("\r\n", "\n").replace("\r", "\n")


def test_a_field_without_a_place_is_a_bug() -> None:
    @dataclass(frozen=True, slots=True)
    class Lost(Element):
        TAG: ClassVar[str] = "lost"
        field: str = ""

    with pytest.raises(InternalError, match=r"Lost\.field"):
        lines(Lost)


@pytest.mark.parametrize("text", ["{", "[1]", '[{"id": "x"}]', '[{"type": "tunnel"}]'])
def test_damaged_metadata_is_refused(text: str) -> None:
    with pytest.raises(DataCorrupt):
        metadata = Metadata(network=text, tags=text)
        metadata.vifs()
        metadata.instance("x")


def test_a_domain_of_somebody_else_is_read() -> None:
    xml = "<domain type='kvm'><name>x</name><devices><disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk></devices></domain>"
    domain = Domain.parse(xml)
    assert (domain.name, domain.metadata, domain.disks[0].target) == ("x", None, "sda")
