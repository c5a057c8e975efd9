"""Security groups of this host, kept by the manager, and who is in them.

All of them are one small file: a change of one is seen by every reader whole or not at all.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cowshed.errors import Conflict, DataCorrupt, InvalidRequest, NameTaken, NotFound
from cowshed.model.group import Direction, Ethertype, GroupRule, Member, SecurityGroup
from cowshed.model.instance import Instance
from cowshed.model.vif import Vif

if TYPE_CHECKING:
    from cowshed.driver import LibvirtDriver
    from cowshed.manager.records import Records

FILE: Final = "groups.json"
PROTOCOLS: Final = ("any", "tcp", "udp", "sctp", "icmp", "icmpv6")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_WITH_PORTS: Final = ("tcp", "udp", "sctp")
_LAST_PORT: Final = 65535
_LAST_PROTOCOL: Final = 255


class Groups:
    """Make, change and list them. A change is in force for every running member when the call returns."""

    def __init__(self, driver: LibvirtDriver, records: Records, state: Path) -> None:
        self._driver = driver
        self._records = records
        self._path = state / FILE
        self._lock = state / "locks" / "groups"
        driver.rooms.rules = self

    # --- what the driver asks -----------------------------------------------------------------

    def groups(self, instance: Instance, vif: Vif) -> Sequence[SecurityGroup] | None:
        """None: the interface is in no group, and not filtered. :raises NotFound:"""
        if not vif.groups:
            return None
        known = self._load()
        return [_require(known, name) for name in vif.groups]

    def members(self, group_id: str) -> Sequence[Member]:
        from cowshed.driver.steps import filtering

        return [Member(vif.address, filtering.addresses(vif)) for _, vif in self._in(group_id)]

    def _in(self, name: str) -> list[tuple[str, Vif]]:
        """(instance, interface)"""
        return [(record.name, vif) for record in self._records.all() for vif in record.vifs if name in vif.groups]

    # --- look ---------------------------------------------------------------------------------

    def list(self) -> list[SecurityGroup]:
        return [one for _, one in sorted(self._load().items())]

    def find(self, name: str) -> SecurityGroup:
        """:raises NotFound:"""
        return _require(self._load(), name)

    def find_rule(self, name: str, rule_id: str) -> GroupRule:
        """:raises NotFound: the group, or such a rule of it"""
        return _require_rule(self.find(name), rule_id)

    def users(self, name: str) -> Sequence[str]:
        """Names of the instances that have an interface in it."""
        return sorted({instance for instance, _ in self._in(name)})

    def is_named(self, name: str) -> bool:
        """Does a rule of any group mean the members of this one?"""
        return any(rule.group == name for one in self._load().values() for rule in one.rules)

    # --- change -------------------------------------------------------------------------------

    def create(self, name: str, *, description: str = "", empty: bool = False) -> SecurityGroup:
        """:param empty: with no rule at all; else what members send goes anywhere

        :raises NameTaken: :raises InvalidRequest:
        """
        if not _NAME.fullmatch(name):
            raise InvalidRequest(reason=f"{name!r} cannot name a group", hint="small letters, digits, -, _ and .")
        rules = () if empty else tuple(GroupRule(Direction.EGRESS, kind, id=_new_id()) for kind in Ethertype)
        made = SecurityGroup(name, name, rules, description)
        with self._changing() as known:
            if name in known:
                raise NameTaken(kind="security group", name=name)
            known[name] = made
        return made

    def remove(self, name: str) -> None:
        """:raises NotFound: :raises Conflict: an interface is in it, or a rule of another group names it"""
        with self._changing() as known:
            _require(known, name)
            if users := self.users(name):
                raise Conflict(reason=f"security group {name} is used by {', '.join(users)}")
            naming = [one.name for one in known.values() if one.name != name and name in [r.group for r in one.rules]]
            if naming:
                raise Conflict(reason=f"security group {name} is named by rules of {', '.join(naming)}")
            del known[name]

    def add_rule(self, name: str, rule: GroupRule) -> GroupRule:
        """The rule with its id; one that is there already is success, and returned. Again is a retry, too: it is put in force.

        :raises InvalidRequest: it makes no sense :raises NotFound: it or another one that it names does not exist
        """
        rule = check_rule(rule)
        with self._changing() as known:
            group = _require(known, name)
            if rule.group:
                _require(known, rule.group)
            same = dataclasses.replace(rule, id="")
            there = next((one for one in group.rules if dataclasses.replace(one, id="") == same), None)
            if there is None:
                rule = dataclasses.replace(rule, id=_new_id())
                known[name] = dataclasses.replace(group, rules=(*group.rules, rule))
        self._driver.refresh_security_group_rules(name)
        return there or rule

    def remove_rule(self, name: str, rule_id: str) -> None:
        """What has begun by it goes on. A failure leaves it in the group, so that it can be repeated.

        :raises NotFound: :raises CowshedError: some member lets through what it says still
        """
        with self._changing() as known:
            group = _require(known, name)
            gone = _require_rule(group, rule_id)
            known[name] = dataclasses.replace(group, rules=tuple(one for one in group.rules if one is not gone))
        try:
            self._driver.refresh_security_group_rules(name)
        except BaseException:
            with self._changing() as known:
                if name in known:
                    known[name] = dataclasses.replace(known[name], rules=(*known[name].rules, gone))
            raise

    # --- the file -----------------------------------------------------------------------------

    @contextmanager
    def _changing(self) -> Iterator[dict[str, SecurityGroup]]:
        from cowshed.tools import filesystem, locks

        filesystem.make_directory(self._lock.parent)
        with locks.lock(self._lock, timeout=30, what="the security groups"):
            known = self._load()
            before = dict(known)
            yield known
            if known != before:
                text = json.dumps([dataclasses.asdict(one) for one in known.values()], indent=1)
                filesystem.write_atomically(self._path, text.encode())

    def _load(self) -> dict[str, SecurityGroup]:
        """:raises DataCorrupt:"""
        try:
            return {one["name"]: _group(one) for one in json.loads(self._path.read_text())}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataCorrupt(path=self._path, reason=str(error)) from error


def _group(data: dict[str, Any]) -> SecurityGroup:
    return SecurityGroup(**{**data, "rules": tuple(_rule(one) for one in data["rules"])})


def _rule(data: dict[str, Any]) -> GroupRule:
    return GroupRule(**{**data, "direction": Direction(data["direction"]), "ethertype": Ethertype(data["ethertype"])})


def _require(known: dict[str, SecurityGroup], name: str) -> SecurityGroup:
    if name not in known:
        hint = f"known: {', '.join(sorted(known))}" if known else f"make it: cowshed group create {name}"
        raise NotFound(kind="security group", name=name, hint=hint)
    return known[name]


def _require_rule(group: SecurityGroup, rule_id: str) -> GroupRule:
    for one in group.rules:
        if one.id == rule_id:
            return one
    hint = f"cowshed group show {group.name} names them"
    raise NotFound(kind="rule", name=f"{rule_id} of {group.name}", hint=hint)


def _new_id() -> str:
    return secrets.token_hex(4)


def check_rule(rule: GroupRule) -> GroupRule:
    """With its ethertype that of its network. :raises InvalidRequest: it makes no sense"""
    protocol = "" if rule.protocol.lower() == "any" else rule.protocol.lower()
    _check_protocol(protocol)
    _check_ports(protocol, rule.port_min, rule.port_max)
    if rule.cidr and rule.group:
        raise InvalidRequest(reason="a rule names a network or a group, not both")
    if not rule.cidr:
        six = protocol == "icmpv6" or (rule.ethertype == Ethertype.IPV6 and protocol != "icmp")
        return dataclasses.replace(rule, protocol=protocol, ethertype=Ethertype.IPV6 if six else Ethertype.IPV4)
    try:
        network = ipaddress.ip_network(rule.cidr, strict=False)
    except ValueError as error:
        raise InvalidRequest(
            reason=f"{rule.cidr!r} is not a network", hint="such as 10.0.0.0/24 or 2001:db8::/64"
        ) from error
    version = Ethertype.IPV4 if network.version == 4 else Ethertype.IPV6
    if (protocol, version) in (("icmp", Ethertype.IPV6), ("icmpv6", Ethertype.IPV4)):
        raise InvalidRequest(reason=f"there is no {protocol} on {rule.cidr}")
    return dataclasses.replace(rule, protocol=protocol, cidr=str(network), ethertype=version)


def _check_protocol(protocol: str) -> None:
    if protocol in ("", *PROTOCOLS) or (protocol.isdigit() and int(protocol) <= _LAST_PROTOCOL):
        return
    raise InvalidRequest(reason=f"{protocol!r} is not a protocol", hint=f"{', '.join(PROTOCOLS)}, or a number")


def _check_ports(protocol: str, low: int | None, high: int | None) -> None:
    given = [port for port in (low, high) if port is not None]
    if not given:
        return
    if protocol in ("icmp", "icmpv6"):
        if not all(0 <= one <= _LAST_PROTOCOL for one in given):
            raise InvalidRequest(reason="types and codes of ICMP go from 0 to 255")
    elif protocol not in _WITH_PORTS:
        raise InvalidRequest(reason=f"{protocol or 'any protocol'} has no ports", hint=f"name {', '.join(_WITH_PORTS)}")
    elif not all(0 < one <= _LAST_PORT for one in given) or given != sorted(given):
        raise InvalidRequest(
            reason=f"{'-'.join(map(str, given))} are not ports", hint=f"1 to {_LAST_PORT}, low to high"
        )
