"""The undo list: backwards, complete, and never hiding the first error."""

from __future__ import annotations

import pytest

from cowshed.undo import Undo, is_complete


def test_inverses_run_last_first_and_the_error_goes_on() -> None:
    done: list[str] = []
    with pytest.raises(ValueError, match="first") as caught, Undo() as undo:
        undo.push("one", done.append, "one")
        undo.push("two", done.append, "two")
        raise ValueError("first")
    assert done == ["two", "one"]
    assert is_complete(caught.value)


def test_success_drops_the_list() -> None:
    done: list[str] = []
    with Undo() as undo:
        undo.push("one", done.append, "one")
    assert done == []


def test_a_failing_inverse_does_not_stop_the_others() -> None:
    done: list[str] = []

    def fail() -> None:
        raise OSError("cannot")

    with pytest.raises(ValueError, match="first") as caught, Undo() as undo:
        undo.push("one", done.append, "one")
        undo.push("two", fail)
        raise ValueError("first")
    assert done == ["one"]
    assert not is_complete(caught.value)


def test_interruption_is_undone_too() -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt), Undo() as undo:
        undo.push("one", done.append, "one")
        raise KeyboardInterrupt
    assert done == ["one"]


def test_dropped_steps_stay() -> None:
    done: list[str] = []
    with pytest.raises(ValueError), Undo() as undo:
        undo.push("one", done.append, "one")
        undo.drop()
        undo.push("two", done.append, "two")
        raise ValueError
    assert done == ["two"]
