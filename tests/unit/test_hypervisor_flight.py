"""Calls on threads of their own, and the connections they are made on."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import pytest

from cowshed import log
from cowshed.errors import HypervisorUnavailable
from cowshed.hypervisor import flight, lines
from cowshed.hypervisor.flight import Cut, Flight, Late
from cowshed.hypervisor.lines import Lines


def raises() -> None:
    raise ValueError("no")


def test_what_a_call_returns_or_raises() -> None:
    assert Flight(lambda: 7).begin().wait(None) == 7
    with pytest.raises(ValueError, match="no"):
        Flight(raises).begin().wait(5)
    with log.about("web"):
        assert Flight(log._subject.get).begin().wait(5) == "web"


def test_nobody_waits_for_ever() -> None:
    end = threading.Event()
    slow = Flight(end.wait).begin()
    with pytest.raises(Late):
        slow.wait(0.05)
    threading.Timer(0.05, slow.cut).start()
    with pytest.raises(Cut):
        slow.wait(None)
    end.set()
    assert Flight(lambda: 1).begin().wait(5) == 1


def test_what_was_interrupted_is_over_before_it_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def work() -> None:
        time.sleep(0.2)
        done.append("work")

    call = Flight(work)
    wait, asked = call._landed.wait, 0

    def interrupted(seconds: float | None = None) -> bool:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise KeyboardInterrupt
        return wait(seconds)

    monkeypatch.setattr(call._landed, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        call.begin().wait(None)
    assert done == ["work"]


def test_threads_are_used_again_and_a_child_process_has_its_own() -> None:
    names = {Flight(threading.get_ident).begin().wait(5) for _ in range(20) if not time.sleep(0.005)}
    assert len(names) < 5
    assert flight._idle
    child = os.fork()
    if not child:
        code = 1
        try:
            code = int(Flight(lambda: 3).begin().wait(5) != 3)
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


class Connection:
    def __init__(self) -> None:
        self.open = True

    def isAlive(self) -> bool:
        return self.open


class Made:
    """What was dialled and what was ended."""

    def __init__(self, *, fails: bool = False) -> None:
        self.fails, self.dialled, self.ended = fails, 0, list[Any]()

    def dial(self) -> Any:
        if self.fails:
            raise HypervisorUnavailable(uri="x", reason="full")
        self.dialled += 1
        return Connection()


def test_one_call_on_each_connection() -> None:
    made, main = Made(), Connection()
    found = Lines(main, made.dial, made.ended.append)
    one, other = found.take(), found.take()
    assert one.connection is main and other.connection is not main
    other.give_back()
    assert found.take().connection is other.connection  # it was kept
    one.give_back()
    assert found.take().connection is main
    assert made.dialled == 1


def test_what_is_dead_or_too_much_is_not_kept() -> None:
    made, main = Made(), Connection()
    found = Lines(main, made.dial, made.ended.append)
    taken = [found.take() for _ in range(lines.KEPT + 3)]
    taken[1].connection.open = False
    for one in taken:
        one.give_back()
    assert [one.connection for one in (taken[1], taken[-1])] == made.ended
    late = [found.take() for _ in range(2)]
    found.end()
    assert len(made.ended) == 2 + lines.KEPT - 1
    late[1].give_back()  # its call was under way
    assert len(made.ended) == 2 + lines.KEPT


def test_without_another_one_the_first_does_it_all() -> None:
    made, main = Made(fails=True), Connection()
    found = Lines(main, made.dial, made.ended.append)
    assert [found.take().connection for _ in range(3)] == [main] * 3
    assert lines.most("test:///default") > 1000 < lines.most("qemu:///embed?root=/x")
    assert lines.most("qemu:///system") == lines.MOST
