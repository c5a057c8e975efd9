"""What the kernel has of an nftables table, asked over netlink: only the objects that are named.

nft(8) reads every rule and every set of a table before it lists one chain (7 s with 200 filtered interfaces, under
nft 1.0.6). The kernel itself knows how to give one chain. Changes are nft's; here is only reading. The numbers are
those of linux/netlink.h, linux/netfilter/nfnetlink.h and linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Final

from cowshed.errors import DataCorrupt, PermissionDenied, ToolFailed

_NETFILTER: Final = 12  # NETLINK_NETFILTER
_NF_TABLES: Final = 10 << 8  # NFNL_SUBSYS_NFTABLES
_GET_TABLE, _GET_CHAIN, _GET_RULE, _GET_SET = 1, 4, 7, 10  # NFT_MSG_GET...; its answer is one less
_NETDEV: Final = 5  # NFPROTO_NETDEV
_REQUEST, _DUMP, _INTERRUPTED = 0x1, 0x300, 0x10  # NLM_F_...
_ERROR, _DONE = 2, 3  # NLMSG_...
_NESTED: Final = 0x3FFF  # of an attribute's type, without the flags NLA_F_...
_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY = 1, 3, 4, 5  # NFTA_...
_RULE_CHAIN, _RULE_USERDATA, _SET_NAME, _SET_FLAGS = 2, 7, 2, 3
_CONSTANT: Final = 0x2  # NFT_SET_CONSTANT
_HOOK_NUMBER, _HOOK_DEVICE, _HOOK_DEVICES, _DEVICE_NAME = 1, 3, 4, 1
_COMMENT: Final = 0  # NFTNL_UDATA_RULE_COMMENT: what nft(8) writes into a rule's user data
_HOOKS: Final = ("ingress", "egress")
_POLICIES: Final = ("drop", "accept")
_BUFFER: Final = 256 << 10  # bytes; the kernel sends no longer message
_ATTEMPTS: Final = 10  # another change may come in between
_TIMEOUT: Final = 60.0  # seconds

Attributes = Mapping[int, bytes]


@dataclass(frozen=True, slots=True)
class Chain:
    """``hook``, ``policy`` and ``devices`` are empty where the chain has none."""

    name: str
    hook: str = ""
    policy: str = ""
    devices: tuple[str, ...] = ()


class Connection:
    """To nf_tables of the network namespace of this thread, for one table of family netdev.

    :raises PermissionDenied: we may not ask :raises ToolFailed: the kernel has no nf_tables, or says no
    """

    def __init__(self, table: str) -> None:
        self._table = table
        self._serial = 0
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER)
        except OSError as error:
            raise _refusal(error.errno or 0) from error
        self._socket.settimeout(_TIMEOUT)

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def exists(self) -> bool:
        """Is the table there?"""
        return self._get(_GET_TABLE) is not None

    def chain(self, name: str) -> Chain | None:
        found = self._get(_GET_CHAIN, {_CHAIN_NAME: _text(name)})
        return None if found is None else _chain(found)

    def comments(self, chain: str) -> list[str]:
        """Of each rule, in their order; "" where one has none."""
        return [_comment(one.get(_RULE_USERDATA, b"")) for one in self._all(_GET_RULE, {_RULE_CHAIN: _text(chain)})]

    def has_set(self, name: str) -> bool:
        return self._get(_GET_SET, {_SET_NAME: _text(name)}) is not None

    def has_constant(self, name: str) -> bool:
        """Is it a set that nobody can change while a rule uses it?"""
        found = self._get(_GET_SET, {_SET_NAME: _text(name)})
        return found is not None and bool(_number(found.get(_SET_FLAGS, b"")) & _CONSTANT)

    def chains(self) -> list[Chain]:
        return [_chain(one) for one in self._all(_GET_CHAIN)]

    def sets(self) -> list[str]:
        """The names of those that have one of their own."""
        names = [_word(one[_SET_NAME]) for one in self._all(_GET_SET)]
        return [name for name in names if not name.startswith("__")]

    # --- messages -----------------------------------------------------------------------------

    def _get(self, kind: int, more: Attributes | None = None) -> Attributes | None:
        """One object; None where it is not there."""
        self._ask(kind, _REQUEST, more or {})
        try:
            return next(iter(self._answers(kind)[1]), None)
        except FileNotFoundError:
            return None

    def _all(self, kind: int, more: Attributes | None = None) -> list[Attributes]:
        """Those of our table. The kernel says when they have changed while it told them."""
        for _ in range(_ATTEMPTS):
            self._ask(kind, _REQUEST | _DUMP, more or {})
            try:
                whole, found = self._answers(kind, dump=True)
            except FileNotFoundError:
                return []
            if whole:
                return [one for one in found if _word(one.get(_TABLE, b"")) == self._table]
        raise ToolFailed(
            command="nfnetlink", status=errno.EINTR, output="the rules change faster than they can be read"
        )

    def _ask(self, kind: int, flags: int, more: Attributes) -> None:
        self._serial += 1
        body = struct.pack("!BBH", _NETDEV, 0, 0) + _packed({_TABLE: _text(self._table), **more})
        self._socket.send(struct.pack("=IHHII", 16 + len(body), _NF_TABLES | kind, flags, self._serial, 0) + body)

    def _answers(self, kind: int, *, dump: bool = False) -> tuple[bool, list[Attributes]]:
        """Are they of one state? And they.

        :raises FileNotFoundError: there is no such object
        """
        found: list[Attributes] = []
        whole = True
        while True:
            for answer, flags, serial, body in _messages(self._receive()):
                if serial != self._serial:
                    continue  # the rest of an answer that was given up
                whole = whole and not flags & _INTERRUPTED
                if answer == _ERROR:
                    (number,) = struct.unpack_from("=i", body)
                    if -number == errno.ENOENT:
                        raise FileNotFoundError
                    if -number in (errno.EINTR, errno.EAGAIN):
                        return False, []
                    raise _refusal(-number)
                if answer == _DONE:
                    return whole, found
                if answer == _NF_TABLES | (kind - 1):
                    found.append(_attributes(body[4:]))
                    if not dump:
                        return whole, found

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(_BUFFER)
        except OSError as error:
            raise _refusal(error.errno or errno.ETIMEDOUT) from error


def _refusal(number: int) -> PermissionDenied | ToolFailed:
    if number in (errno.EPERM, errno.EACCES):
        return PermissionDenied(
            action="read the packet filters of", path="this host", hint="that needs root (CAP_NET_ADMIN)"
        )
    return ToolFailed(command="nfnetlink", status=number, output=os.strerror(number))


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(type, flags, serial, body) of each. :raises DataCorrupt:"""
    while data:
        try:
            length, kind, flags, serial, _ = struct.unpack_from("=IHHII", data)
        except struct.error:
            length = kind = flags = serial = 0
        if not 16 <= length <= len(data):
            raise DataCorrupt(path="nfnetlink", reason="a message is cut")
        yield kind, flags, serial, data[16:length]
        data = data[length + -length % 4 :]


def _attributes(data: bytes) -> dict[int, bytes]:
    """:raises DataCorrupt:"""
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if not 4 <= length <= len(data):
            raise DataCorrupt(path="nfnetlink", reason="an attribute is cut")
        found[kind & _NESTED] = data[4:length]
        data = data[length + -length % 4 :]
    return found


def _packed(attributes: Attributes) -> bytes:
    return b"".join(
        struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4) for kind, value in attributes.items()
    )


def _text(word: str) -> bytes:
    return word.encode() + b"\0"


def _word(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def _number(value: bytes) -> int:
    return int.from_bytes(value, "big")


def _chain(found: Attributes) -> Chain:
    name = _word(found[_CHAIN_NAME])
    if _CHAIN_HOOK not in found:
        return Chain(name)
    hook = _attributes(found[_CHAIN_HOOK])
    number, policy = _number(hook.get(_HOOK_NUMBER, b"")), _number(found.get(_CHAIN_POLICY, b""))
    devices = (
        [hook[_HOOK_DEVICE]] if _HOOK_DEVICE in hook else list(_listed(hook.get(_HOOK_DEVICES, b""), _DEVICE_NAME))
    )
    return Chain(
        name,
        hook=_HOOKS[number] if number < len(_HOOKS) else str(number),
        policy=_POLICIES[policy] if policy < len(_POLICIES) else str(policy),
        devices=tuple(dict.fromkeys(_word(device) for device in devices)),
    )


def _listed(data: bytes, wanted: int) -> Iterator[bytes]:
    """The attributes of one type of a list, where a mapping would keep the last only."""
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if not 4 <= length <= len(data):
            raise DataCorrupt(path="nfnetlink", reason="an attribute is cut")
        if kind & _NESTED == wanted:
            yield data[4:length]
        data = data[length + -length % 4 :]


def _comment(userdata: bytes) -> str:
    while len(userdata) >= 2:
        kind, length = userdata[0], userdata[1]
        if kind == _COMMENT:
            return _word(userdata[2 : 2 + length])
        userdata = userdata[2 + length :]
    return ""
