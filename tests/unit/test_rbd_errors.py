"""What librados and librbd report, in our words; no cluster is needed."""

from __future__ import annotations

import errno
import sys

import pytest

from cowshed.errors import (
    Busy,
    CowshedError,
    DeadlineExceeded,
    DiskNotFound,
    NameTaken,
    NoSpace,
    NotFound,
    PermissionDenied,
    SnapshotNotFound,
    ToolFailed,
    ToolMissing,
    UnsupportedOperation,
)
from cowshed.tools.rbd import Access, Cluster
from cowshed.tools.rbd.errors import translated


class Reported(Exception):
    """As the bindings' errors: positive or negative numbers, by version."""

    def __init__(self, number: int) -> None:
        super().__init__("error doing it")
        self.errno = number


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOENT, DiskNotFound),
        (errno.EEXIST, NameTaken),
        (errno.EBUSY, Busy),
        (errno.ENOTEMPTY, Busy),
        (errno.EPERM, PermissionDenied),
        (errno.EACCES, PermissionDenied),
        (errno.EROFS, PermissionDenied),
        (errno.ENOSPC, NoSpace),
        (errno.EDQUOT, NoSpace),
        (errno.ETIMEDOUT, DeadlineExceeded),
        (errno.EOPNOTSUPP, UnsupportedOperation),
        (errno.ESHUTDOWN, ToolFailed),
        (errno.EIO, ToolFailed),
    ],
)
def test_numbers_become_errors(number: int, sign: int, expected: type[CowshedError]) -> None:
    error = translated(Reported(sign * number), "clone", "image", "pool/image", 5.0)
    assert type(error) is expected
    assert "pool" in str(error)


@pytest.mark.parametrize(
    ("kind", "expected"), [("image", DiskNotFound), ("snapshot", SnapshotNotFound), ("pool", NotFound)]
)
def test_what_is_missing_is_named(kind: str, expected: type[CowshedError]) -> None:
    error = translated(Reported(errno.ENOENT), "open", kind, "the-name", 5.0)
    assert type(error) is expected
    assert "the-name" in str(error)


def test_an_error_without_a_number_keeps_its_words() -> None:
    assert "error doing it" in str(translated(Exception("error doing it"), "open", "image", "x", 5.0))


def test_bindings_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rados", None)
    with pytest.raises(ToolMissing) as caught:
        Cluster(Access()).rados()
    assert "python3-rados" in (caught.value.hint or "")
