"""Errors: one sentence, fields to match on, an exit code each."""

from __future__ import annotations

import pickle

import pytest

from cowshed import errors


def every(kind: type[errors.CowshedError] = errors.CowshedError) -> list[type[errors.CowshedError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in every(child))]


def test_fields_are_attributes_and_the_sentence_names_them() -> None:
    error = errors.NoSpace(place="/tmp", needed=5 << 20, free=3)
    assert str(error) == "no space left in /tmp: 5 MiB is needed, 3 B is free"
    assert (error.place, error.needed, error.free) == ("/tmp", 5 << 20, 3)


def test_missing_field_is_a_bug_at_once() -> None:
    with pytest.raises(TypeError, match="free"):
        errors.NoSpace(place="/tmp", needed=5)


def test_errors_travel_between_processes() -> None:
    error = pickle.loads(pickle.dumps(errors.InstanceNotFound(name="web", hint="see cowshed ls")))
    assert isinstance(error, errors.InstanceNotFound)
    assert (error.name, error.hint) == ("web", "see cowshed ls")


def test_codes_are_unique() -> None:
    codes = [kind.code for kind in every()]
    assert sorted(set(codes)) == sorted(codes)


def test_exit_codes_are_the_documented_ones() -> None:
    assert {kind.exit_code for kind in every()} == {1, 2, 3, 4, 5, 6, 7, 8, 130}


def test_there_are_few_of_them() -> None:
    assert len(every()) <= 40


def test_unsupported_is_the_protocol_answer() -> None:
    with pytest.raises(NotImplementedError):
        raise errors.UnsupportedOperation(subject="raw", operation="snapshot", reason="files have none")
