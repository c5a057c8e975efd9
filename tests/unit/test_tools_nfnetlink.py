"""What the kernel says of packet filters, read from netlink: messages that are whole, cut, refused and interrupted."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable

import pytest

from cowshed.errors import DataCorrupt, PermissionDenied, ToolFailed
from cowshed.tools import nfnetlink
from cowshed.tools.nfnetlink import Connection

NEW_CHAIN, NEW_RULE = 10 << 8 | 3, 10 << 8 | 6
Says = Callable[..., Connection]


def message(kind: int, body: bytes, *, flags: int = 0, serial: int = 1) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, serial, 0) + body + bytes(-len(body) % 4)


def failure(number: int, *, serial: int = 1) -> bytes:
    return message(2, struct.pack("=i", -number) + bytes(16), serial=serial)


def done(*, serial: int = 1, flags: int = 0) -> bytes:
    return message(3, bytes(4), serial=serial, flags=flags)


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def rule(comment: bytes, *, table: bytes = b"cowshed", serial: int = 1, flags: int = 0) -> bytes:
    """With something else in front of the comment in its user data."""
    data = b"\x05\x02xx" + bytes([0, len(comment) + 1]) + comment + b"\0"
    body = bytes(4) + attribute(1, table + b"\0") + attribute(7, data)
    return message(NEW_RULE, body, serial=serial, flags=flags)


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> Says:
    def made(*answers: bytes) -> Connection:
        left = list(answers)
        monkeypatch.setattr(Connection, "_ask", lambda self, *_: setattr(self, "_serial", self._serial + 1))
        monkeypatch.setattr(Connection, "_receive", lambda _: left.pop(0))
        return Connection("cowshed")

    return made


def test_comments_come_in_order_and_of_our_table_only(says: Says) -> None:
    with says(rule(b"one") + rule(b"foreign", table=b"filter"), rule(b"two") + done()) as kernel:
        assert kernel.comments("in-1") == ["one", "two"]


def test_a_rule_without_a_comment(says: Says) -> None:
    with says(message(NEW_RULE, bytes(4) + attribute(1, b"cowshed\0")) + done()) as kernel:
        assert kernel.comments("in-1") == [""]


def test_hook_policy_and_devices_of_a_chain(says: Says) -> None:
    devices = attribute(1, b"tap0\0") + attribute(1, b"tap1\0")
    hook = attribute(1, (1).to_bytes(4, "big")) + attribute(4 | 0x8000, devices)
    body = bytes(4) + attribute(3, b"in-1\0") + attribute(4 | 0x8000, hook) + attribute(5, (1).to_bytes(4, "big"))
    with says(message(NEW_CHAIN, body)) as kernel:
        assert kernel.chain("in-1") == nfnetlink.Chain("in-1", "egress", "accept", ("tap0", "tap1"))


def test_what_is_not_there(says: Says) -> None:
    with says(*(failure(errno.ENOENT, serial=number) for number in range(1, 6))) as kernel:
        assert kernel.chain("in-1") is None
        assert kernel.comments("in-1") == []
        assert kernel.has_set("flows4-1") is False
        assert kernel.exists() is False
        assert kernel.chains() == []


def test_an_answer_that_changed_while_it_was_given_is_asked_for_again(says: Says) -> None:
    first = [rule(b"old", flags=0x10), done()]
    second = [failure(errno.EINTR, serial=2)]
    third = [rule(b"late", serial=1) + rule(b"new", serial=3) + done(serial=3)]
    with says(*first, *second, *third) as kernel:
        assert kernel.comments("in-1") == ["new"]
    with says(*(done(serial=number, flags=0x10) for number in range(1, 20))) as kernel, pytest.raises(ToolFailed):
        kernel.comments("in-1")


def test_refusals_have_a_type(says: Says) -> None:
    with says(failure(errno.EPERM)) as kernel, pytest.raises(PermissionDenied, match="packet filters"):
        kernel.exists()
    with says(failure(errno.EINVAL)) as kernel, pytest.raises(ToolFailed, match="Invalid argument"):
        kernel.exists()


@pytest.mark.parametrize("data", [b"short", message(NEW_RULE, bytes(40))[:30], rule(b"x")[:24] + b"\xff" * 20])
def test_what_is_cut_is_an_error(says: Says, data: bytes) -> None:
    with says(data) as kernel, pytest.raises(DataCorrupt):
        kernel.comments("in-1")
