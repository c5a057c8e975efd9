"""Assembled domains are what the files say. ``UPDATE_GOLDEN=1 pytest tests/golden`` writes the files anew."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from cowshed.domain.domain import Domain
from cowshed.domain.element import Element, Line, elements, lines
from tests.golden.domains import CASES, FILES

UPDATE = bool(os.environ.get("UPDATE_GOLDEN"))
LIVE = sorted((FILES.parent / "live").glob("*.xml"))


@pytest.mark.parametrize("name", CASES)
def test_xml(name: str) -> None:
    file = FILES / f"{name}.xml"
    xml = CASES[name]().to_xml()
    if UPDATE:
        file.parent.mkdir(exist_ok=True)
        file.write_text(xml)
    assert xml == file.read_text()


@pytest.mark.parametrize("name", CASES)
def test_read_back(name: str) -> None:
    domain = CASES[name]()
    assert Domain.parse(domain.to_xml()) == domain


def test_no_file_without_a_case() -> None:
    assert {path.stem for path in FILES.glob("*.xml")} == set(CASES)


def test_every_declared_value_is_exercised() -> None:
    """A value that no domain here writes, and no recorded live domain has, is declared in vain."""
    domains = [case() for case in CASES.values()] + [Domain.parse(path.read_text()) for path in LIVE]
    used = {(type(one), line.name) for domain in domains for one in elements(domain) for line in _used(one)}
    kinds = [kind for kind in _kinds(Element) if kind.__module__ != "cowshed.domain.secret"]  # no part of a domain
    declared = {(kind, line.name) for kind in kinds for line in lines(kind)}
    assert {f"{kind.__name__}.{name}" for kind, name in declared - used} == set()


def _used(element: Element) -> Iterator[Line]:
    """A False counts where it is written (no, off), not where it means that there is nothing to write."""
    for line in lines(type(element)):
        item = getattr(element, line.name)
        if item is None or item == () or (item is False and line.kind == "present"):
            continue
        yield line


def _kinds(base: type[Element]) -> Iterator[type[Element]]:
    """Every class with declarations; ``slots=True`` leaves an empty twin of each behind, without fields."""
    for kind in base.__subclasses__():
        if (
            "__dataclass_fields__" in kind.__dict__
            and "__slots__" in kind.__dict__
            and kind.__module__.startswith("cowshed.")
        ):
            yield kind
        yield from _kinds(kind)
