"""Bulk statistics are shared for a moment, and never over a change."""

from __future__ import annotations

import pytest

from cowshed.hypervisor import recent
from cowshed.hypervisor.recent import Recent


class Asked:
    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> recent.Stats:
        self.times += 1
        return {"a": {"number": self.times}}


def test_an_answer_is_good_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(recent.time, "monotonic", lambda: now[0])
    found, asked = Recent(), Asked()
    assert found.known() is None
    assert found.all(asked) is found.all(asked) is found.known()
    now[0] += recent.GOOD_FOR
    assert found.known() is None
    assert found.all(asked)["a"] == {"number": 2}


def test_what_changed_is_asked_again() -> None:
    found, asked = Recent(), Asked()
    found.all(asked)
    found.forget()
    assert found.known() is None
    found.all(asked)
    assert asked.times == 2


def test_an_answer_that_a_change_has_overtaken_is_not_kept() -> None:
    found = Recent()

    def ask() -> recent.Stats:
        found.forget()
        return {}

    assert found.all(ask) == {}
    assert found.known() is None
