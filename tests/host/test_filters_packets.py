"""Packet filters in the kernel: frames on a tap device of a bridge, and on a macvtap device, pass or are dropped."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pytest

from cowshed.errors import ToolFailed
from cowshed.model.group import Direction, Ethertype, GroupRule, Member
from cowshed.network import rules, ruleset
from cowshed.network.filters import Filters
from cowshed.network.ruleset import Filter
from cowshed.tools import nfnetlink, nft
from tests import packets
from tests.packets import BROADCAST, Port, arp, ether, icmp, ip, neighbour, tcp, udp

OUR_MAC, THEIR_MAC, ROUTER_MAC = "52:54:00:00:00:05", "52:54:00:00:00:06", "52:54:00:00:00:01"
OURS, THEIRS = "10.0.0.5", "10.0.0.6"
OURS6, THEIRS6 = "2001:db8::5", "2001:db8::6"
LOCAL6 = rules.link_local(OUR_MAC)
IN, OUT = Direction.INGRESS, Direction.EGRESS
ALL_OUT = (GroupRule(OUT), GroupRule(OUT, Ethertype.IPV6))
WEB = GroupRule(IN, protocol="tcp", port_min=80, port_max=81)
MARK = b"the end of what is looked at"
IPV4, IPV6 = 0x0800, 0x86DD
FIN, SYN = 0x01, 0x02

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a network namespace"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nft: see scripts/packages.sh test"),
]


@dataclass
class Wire:
    """A guest with its device, and the world at the other end of the bridge."""

    guest: Port
    world: Port
    filters: Filters
    device: str = "t0"
    shares: bool = False

    def allow(self, *rules: GroupRule, addresses: tuple[str, ...] = (OURS, OURS6), **fields: object) -> Filter:
        made = Filter(self.device, "vif-1", OUR_MAC, addresses, tuple(rules), shares=self.shares, **fields)  # type: ignore[arg-type]
        self.filters.ensure([made])
        return made

    def leaves(self, *frames: bytes) -> list[bool]:
        """Which of the guest's frames arrive in the world?"""
        return self._passes(self.guest, self.world, frames, arp(OUR_MAC, OURS, "10.0.0.99") + MARK)

    def arrives(self, *frames: bytes) -> list[bool]:
        """Which of the world's frames arrive at the guest?"""
        return self._passes(self.world, self.guest, frames, arp(THEIR_MAC, THEIRS, "10.0.0.99") + MARK)

    def _passes(self, source: Port, target: Port, frames: tuple[bytes, ...], mark: bytes) -> list[bool]:
        """The mark always passes, and behind the others."""
        for frame in (*frames, mark):
            source.send(frame)
        found = target.receive(MARK)
        return [any(frame[12:].rstrip(b"\0") in one for one in found) for frame in frames]  # a bridge may cut padding


@pytest.fixture
def wire() -> Iterator[Wire]:
    with packets.namespace():
        packets.sh("ip link add br0 type bridge mcast_snooping 0 && ip link set br0 up")
        guest, world = packets.tap("t0"), packets.tap("w0")
        packets.sh(
            "for one in t0 w0; do echo 1 >/proc/sys/net/ipv6/conf/$one/disable_ipv6;"
            " ip link set $one master br0 && ip link set $one up; done"
        )
        try:
            yield Wire(guest, world, Filters())
        finally:
            guest.close()
            world.close()


def out4(payload: bytes, protocol: int, *, source: str = OURS, target: str = THEIRS, mac: str = OUR_MAC) -> bytes:
    return ether(mac, BROADCAST, IPV4, ip(source, target, protocol, payload))


def in4(payload: bytes, protocol: int, *, source: str = THEIRS, mac: str = THEIR_MAC) -> bytes:
    return ether(mac, BROADCAST, IPV4, ip(source, OURS, protocol, payload))


def out6(payload: bytes, protocol: int, *, source: str = OURS6, target: str = THEIRS6) -> bytes:
    return ether(OUR_MAC, BROADCAST, IPV6, ip(source, target, protocol, payload))


def in6(payload: bytes, protocol: int, *, source: str = THEIRS6) -> bytes:
    return ether(THEIR_MAC, BROADCAST, IPV6, ip(source, OURS6, protocol, payload))


# --- what nobody may ------------------------------------------------------------------------------


def test_without_a_filter_everything_passes(wire: Wire) -> None:
    """The other tests prove nothing otherwise."""
    assert wire.leaves(out4(udp(1, 2, b"a"), 17, source="10.9.9.9"), out6(udp(1, 2, b"b"), 17)) == [True, True]
    assert wire.arrives(in4(tcp(1, 22, b"c"), 6), in6(tcp(1, 22, b"d"), 6)) == [True, True]


def test_a_guest_speaks_with_its_own_addresses_only(wire: Wire) -> None:
    wire.allow(*ALL_OUT)
    assert wire.leaves(
        out4(udp(1, 2, b"mine"), 17),
        out4(udp(1, 2, b"not my address"), 17, source=THEIRS),
        out4(udp(1, 2, b"not my card"), 17, mac=THEIR_MAC),
        ether(OUR_MAC, BROADCAST, IPV4, ip(OURS, THEIRS, 17, udp(1, 2, b"in a VLAN")), vlan=7),
        ether(OUR_MAC, BROADCAST, 0x88CC, b"no protocol of ours"),
    ) == [True, False, False, False, False]
    assert wire.leaves(
        out6(udp(1, 2, b"mine"), 17),
        out6(udp(1, 2, b"the link's"), 17, source=LOCAL6),
        out6(udp(1, 2, b"another one's"), 17, source=THEIRS6),
        out6(udp(1, 2, b"nobody's"), 17, source="::"),
    ) == [True, True, False, False]


def test_a_guest_answers_for_its_own_addresses_only(wire: Wire) -> None:
    wire.allow()
    assert wire.leaves(
        arp(OUR_MAC, OURS, THEIRS),
        arp(OUR_MAC, "0.0.0.0", OURS),
        arp(OUR_MAC, THEIRS, "10.0.0.1"),
        arp(OUR_MAC, OURS, "10.0.0.1", sender=THEIR_MAC),
    ) == [True, True, False, False]
    assert wire.leaves(
        out6(neighbour(136, OURS6), 58),
        out6(neighbour(136, LOCAL6), 58, source=LOCAL6),
        out6(neighbour(136, THEIRS6), 58),
        out6(neighbour(135, OURS6), 58, source="::"),
        out6(neighbour(134, OURS6), 58, source=LOCAL6),
    ) == [True, True, False, True, False], "advertisement, twice; of another; is it free?; I am your router"


def test_a_guest_is_no_dhcp_server_and_may_use_one(wire: Wire) -> None:
    wire.allow()
    asks = udp(68, 67, b"an address, please")
    assert wire.leaves(
        out4(asks, 17, source="0.0.0.0"),
        out4(asks, 17),
        out4(asks, 17, source=THEIRS),
        out4(udp(67, 68, b"here is one"), 17),
        out6(udp(546, 547, b"please"), 17, source=LOCAL6),
        out6(udp(547, 546, b"here"), 17, source=LOCAL6),
    ) == [True, True, False, False, True, False]
    assert wire.arrives(in4(udp(67, 68, b"here is one"), 17), in6(udp(547, 546, b"here"), 17)) == [True, True]


def test_addresses_that_are_not_known_are_not_checked_but_the_card_is(wire: Wire) -> None:
    wire.allow(*ALL_OUT, addresses=())
    assert wire.leaves(
        out4(udp(1, 2, b"any"), 17, source="10.9.9.9"),
        out6(udp(1, 2, b"any"), 17, source="2001:db8::99"),
        out4(udp(1, 2, b"not my card"), 17, mac=THEIR_MAC),
        out6(neighbour(134, OURS6), 58),
    ) == [True, True, False, False]


def test_a_router_may_use_every_address_of_one_version(wire: Wire) -> None:
    wire.allow(*ALL_OUT, addresses=(OURS, "0.0.0.0/0", "2001:db8::/64"))
    assert wire.leaves(
        out4(udp(1, 2, b"any"), 17, source="10.9.9.9"),
        arp(OUR_MAC, "10.9.9.9", THEIRS),
        out6(udp(1, 2, b"of the network"), 17, source="2001:db8::99"),
        out6(udp(1, 2, b"of another"), 17, source="2001:db8:1::9"),
    ) == [True, True, True, False]


# --- groups ---------------------------------------------------------------------------------------


def test_nothing_passes_that_no_rule_allows(wire: Wire) -> None:
    wire.allow()
    assert wire.leaves(out4(udp(1, 53, b"a"), 17), out4(tcp(1, 80, b"b"), 6), out4(icmp(8, b"c"), 1)) == [False] * 3
    assert wire.arrives(in4(udp(1, 53, b"a"), 17), in4(tcp(1, 80, b"b"), 6), in4(icmp(8, b"c"), 1)) == [False] * 3


def test_rules_of_protocol_port_and_network(wire: Wire) -> None:
    wire.allow(
        replace(WEB, cidr="10.0.0.0/28"),
        GroupRule(IN, Ethertype.IPV6, "udp", 53, 53),
        GroupRule(IN, protocol="icmp", port_min=8),
        GroupRule(IN, protocol="47"),
        GroupRule(OUT, protocol="tcp", port_min=443, port_max=443, cidr="10.0.0.6"),
    )
    assert wire.arrives(
        in4(tcp(1, 80, b"first port"), 6),
        in4(tcp(1, 81, b"last port"), 6),
        in4(tcp(1, 82, b"beyond"), 6),
        in4(udp(1, 80, b"other protocol"), 17),
        in4(tcp(1, 80, b"other network"), 6, source="10.0.0.77"),
    ) == [True, True, False, False, False]
    assert wire.arrives(
        in6(udp(1, 53, b"a"), 17), in4(udp(1, 53, b"other version"), 17), in4(icmp(8, b"b"), 1), in4(icmp(13, b"c"), 1)
    ) == [True, False, True, False]
    assert wire.arrives(in4(b"some tunnel", 47), in4(b"another", 50)) == [True, False]
    assert wire.leaves(
        out4(tcp(1, 443, b"a"), 6), out4(tcp(1, 443, b"b"), 6, target="10.0.0.7"), out4(tcp(1, 80, b"c"), 6)
    ) == [True, False, False]


def test_members_of_a_group_by_address_and_where_that_is_not_known_by_card(wire: Wire) -> None:
    known, unknown = Member("52:54:00:00:00:0a", (THEIRS, "10.0.0.7", THEIRS6)), Member("52:54:00:00:00:0b")
    rules = (GroupRule(IN, group="db"), GroupRule(IN, Ethertype.IPV6, group="db"), GroupRule(IN, group="empty"))
    wire.allow(*rules, members={"db": [known, unknown], "empty": []})
    assert wire.arrives(
        in4(tcp(1, 5432, b"a"), 6),
        in4(tcp(1, 5432, b"b"), 6, source="10.0.0.8"),
        in4(tcp(1, 5432, b"c"), 6, source="10.0.0.8", mac="52:54:00:00:00:0b"),
        in6(tcp(1, 5432, b"d"), 6),
        in6(tcp(1, 5432, b"e"), 6, source="2001:db8::9"),
    ) == [True, False, True, True, False]


# --- answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 6])
def test_answers_pass_and_only_answers(wire: Wire, version: int) -> None:
    out, into = (out4, in4) if version == 4 else (out6, in6)
    kind, ask, answer = (1, 8, 0) if version == 4 else (58, 128, 129)
    wire.allow(*ALL_OUT)
    assert wire.arrives(
        into(tcp(80, 4000, b"early"), 6), into(udp(53, 4000, b"early"), 17), into(icmp(answer, b"e"), kind)
    ) == [*(False, False, False)]
    assert (
        wire.leaves(
            out(tcp(4000, 80, b"syn", flags=SYN), 6), out(udp(4000, 53, b"question"), 17), out(icmp(ask, b"ping"), kind)
        )
        == [True] * 3
    )
    assert (
        wire.arrives(
            into(tcp(80, 4000, b"answer"), 6), into(udp(53, 4000, b"answer"), 17), into(icmp(answer, b"pong"), kind)
        )
        == [True] * 3
    )
    assert (
        wire.arrives(
            into(tcp(80, 4001, b"other port"), 6),
            into(udp(54, 4000, b"other port"), 17),
            into(icmp(ask, b"ping"), kind),
        )
        == [False] * 3
    )


def test_a_guest_that_may_only_answer(wire: Wire) -> None:
    wire.allow(WEB, GroupRule(IN, protocol="icmp", port_min=8))
    assert wire.leaves(out4(tcp(80, 4000, b"early"), 6), out4(icmp(0, b"early"), 1)) == [False, False]
    assert wire.arrives(in4(tcp(4000, 80, b"syn", flags=SYN), 6), in4(icmp(8, b"ping"), 1)) == [True, True]
    assert wire.leaves(out4(tcp(80, 4000, b"answer"), 6), out4(icmp(0, b"pong"), 1)) == [True, True]
    assert wire.leaves(out4(tcp(80, 4001, b"other port"), 6), out4(icmp(8, b"ping"), 1)) == [False, False]


def test_a_connection_that_ends_is_forgotten_soon(wire: Wire) -> None:
    made = wire.allow(*ALL_OUT)

    def timeout() -> int:
        listed = subprocess.run(
            ["nft", "-j", "list", "set", "netdev", "cowshed", f"flows4-{made.key}"], capture_output=True, check=True
        )
        (element,) = json.loads(listed.stdout)["nftables"][1]["set"]["elem"]
        return int(element["elem"]["expires"])

    assert wire.leaves(out4(tcp(4000, 80, b"syn", flags=SYN), 6)) == [True]
    assert timeout() > rules.HOUR
    assert wire.arrives(in4(tcp(80, 4000, b"fin", flags=FIN), 6)) == [True]
    assert timeout() <= rules.TCP_CLOSING


def test_the_network_may_say_what_it_could_not_deliver_and_parts_of_packets_pass(wire: Wire) -> None:
    wire.allow()
    assert wire.arrives(in4(icmp(3, b"a", 4), 1), in6(icmp(2, b"b"), 58), in4(icmp(5, b"redirect"), 1)) == [
        *(True, True, False)
    ]
    part = ether(THEIR_MAC, BROADCAST, IPV4, ip(THEIRS, OURS, 17, b"the rest of it", fragment=10))
    part6 = ether(THEIR_MAC, BROADCAST, IPV6, ip(THEIRS6, OURS6, 17, b"the rest of it", fragment=10))
    assert wire.arrives(part, part6) == [True, True]


# --- changes --------------------------------------------------------------------------------------


def test_new_rules_leave_connections_alone(wire: Wire) -> None:
    made = wire.allow(*ALL_OUT)
    assert wire.leaves(out4(tcp(4000, 80, b"syn", flags=SYN), 6)) == [True]
    wire.filters.ensure([replace(made, rules=(WEB,))])
    assert wire.arrives(in4(tcp(80, 4000, b"goes on"), 6), in4(tcp(1, 80, b"new"), 6)) == [True, True]
    assert wire.leaves(out4(tcp(4001, 80, b"new", flags=SYN), 6)) == [False]


def test_what_is_in_force_is_not_written_again_and_what_is_broken_is(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied: list[object] = []
    real = nft.apply
    monkeypatch.setattr(nft, "apply", lambda commands: (applied.append(commands), real(commands)))
    made = wire.allow(WEB)
    wire.filters.ensure([made])
    assert len(applied) == 1
    packets.sh(f"nft delete rule netdev cowshed in-{made.key} handle {last_handle(f'in-{made.key}')}")
    assert wire.arrives(in4(tcp(1, 80, b"lost"), 6)) == [False]
    wire.filters.ensure([made])
    assert wire.arrives(in4(tcp(1, 80, b"again"), 6)) == [True]
    packets.sh("nft flush ruleset")
    wire.filters.ensure([made])
    assert wire.arrives(in4(tcp(1, 22, b"no"), 6), in4(tcp(1, 80, b"yes"), 6)) == [False, True]


def test_a_chain_that_somebody_opened_is_closed_again(wire: Wire) -> None:
    made = wire.allow(WEB)
    packets.sh(f"nft chain netdev cowshed in-{made.key} '{{ policy accept; }}'")
    assert wire.arrives(in4(tcp(1, 22, b"open"), 6)) == [True]
    wire.filters.ensure([made])
    assert wire.arrives(in4(tcp(1, 22, b"closed"), 6), in4(tcp(1, 80, b"web"), 6)) == [False, True]


def test_a_change_that_the_kernel_does_not_keep_is_an_error(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    made = wire.allow(WEB)
    real = nft.apply

    def lose(commands: Sequence[nft.Statement]) -> None:
        real(commands)
        packets.sh(f"nft flush chain netdev cowshed in-{made.key}")

    monkeypatch.setattr(nft, "apply", lose)
    with pytest.raises(ToolFailed, match="not as they were to be"):
        wire.filters.ensure([replace(made, rules=())])


def test_what_is_remembered_is_bounded_and_takes_no_memory_before(wire: Wire) -> None:
    """A set that is made with a size has 2 MiB in the kernel from the beginning."""
    commands: list[nft.Statement] = list(ruleset.create(wire.allow(WEB), present=frozenset(), stale=False))
    assert not any("size" in one["add"]["set"] for one in commands if "set" in one.get("add", {}))
    sizes = [one.split("size ")[1].split()[0] for one in listed("set ") if "timeout" in one]
    assert sizes == ["65535"] * len(ruleset.SETS)


def test_sets_that_all_share_cannot_be_changed_and_are_not_taken_from_others(wire: Wire) -> None:
    """A set of the same name that could be changed would let anything through later."""
    packets.sh("nft add table netdev cowshed; nft 'add set netdev cowshed kinds { type ether_type; }'")
    with pytest.raises(ToolFailed):
        wire.allow(WEB)
    packets.sh("nft flush ruleset")
    wire.allow(WEB)
    for name, (_, elements) in ruleset.CONSTANTS.items():
        for words in (["add", "element", "{ 99 }"], ["delete", "element", f"{{ {elements[0]} }}"], ["delete", "set"]):
            command = ["nft", *words[:2], "netdev", "cowshed", name, *words[2:]]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode and "busy" in done.stderr, done
    assert wire.arrives(in4(tcp(1, 80, b"web"), 6), in4(tcp(1, 22, b"ssh"), 6)) == [True, False]


def test_a_change_costs_the_same_however_many_others_there_are(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    applied: list[int] = []
    real_apply, real_receive, read = nft.apply, nfnetlink.Connection._receive, [0]

    def apply(commands: Sequence[nft.Statement]) -> None:
        applied.append(len(commands))
        real_apply(commands)

    def receive(self: nfnetlink.Connection) -> bytes:
        found = real_receive(self)
        read[0] += len(found)
        return found

    def cost() -> tuple[int, int, int]:
        """Commands of the change and bytes read for it; bytes read when there is nothing to do."""
        read[0] = 0
        wire.filters.ensure([replace(made, rules=(WEB, *ALL_OUT))])
        changed, looked = read[0], -read[0]
        wire.filters.ensure([replace(made, rules=(WEB, *ALL_OUT))])
        looked += read[0]
        wire.filters.ensure([made])
        (count, _), applied[:] = applied, []
        return count, changed, looked

    made = wire.allow(WEB)
    monkeypatch.setattr(nft, "apply", apply)
    monkeypatch.setattr(nfnetlink.Connection, "_receive", receive)
    alone = cost()
    others = [replace(made, owner=f"other-{number}", device="w0", address=THEIR_MAC) for number in range(30)]
    wire.filters.ensure(others)
    assert len(applied) == 1, "many changes, one transaction"
    applied.clear()
    assert cost() == alone
    assert 0 < alone[2] < alone[1] < 100_000, "the kernel tells the rules themselves, too"


def test_a_transaction_is_all_or_nothing(wire: Wire) -> None:
    made = wire.allow(WEB)
    broken = Filter("w0", "vif-2", THEIR_MAC, rules=(GroupRule(IN, Ethertype.IPV6, cidr="10.0.0.0/24"),))
    with pytest.raises(ToolFailed):
        wire.filters.ensure([replace(made, rules=()), broken])
    assert wire.arrives(in4(tcp(1, 80, b"as before"), 6)) == [True]
    assert wire.filters.in_force() == {made.key}


def test_deferred_changes_come_together(wire: Wire) -> None:
    wire.allow(WEB)
    wire.filters.defer()
    wire.allow()
    wire.filters.remove(["vif-3"])
    assert wire.arrives(in4(tcp(1, 80, b"as before"), 6)) == [True]
    wire.filters.apply_deferred()
    assert wire.arrives(in4(tcp(2, 80, b"not any more"), 6)) == [False]
    wire.filters.ensure([])
    wire.filters.remove(["vif-1"])
    assert wire.filters.in_force() == set()


def test_who_is_not_filtered_yet_does_not_wait_for_deferred_changes(wire: Wire) -> None:
    """A guest that starts meanwhile, also where what was deferred cannot be put in force."""
    wire.filters.defer()
    broken = Filter("w0", "vif-3", THEIR_MAC, rules=(GroupRule(IN, Ethertype.IPV6, cidr="10.0.0.0/24"),))
    with pytest.raises(ToolFailed):
        wire.filters.ensure([broken])
    made = wire.allow(WEB)
    assert wire.filters.in_force() == {made.key}
    assert wire.arrives(in4(tcp(1, 80, b"web"), 6), in4(tcp(1, 22, b"ssh"), 6)) == [True, False]
    wire.filters.ensure([replace(broken, owner="vif-1", device="t0")])
    with pytest.raises(ToolFailed):
        wire.filters.apply_deferred()
    other = Filter("w0", "vif-2", THEIR_MAC, rules=ALL_OUT)
    wire.filters.ensure([other])
    assert wire.filters.in_force() == {made.key, other.key}
    wire.filters.remove(["vif-1", "vif-3"])
    wire.filters.apply_deferred()
    assert wire.filters.in_force() == {other.key}


def test_what_was_deferred_does_not_outrun_what_another_process_has_changed_since(wire: Wire) -> None:
    """It has planned later: what was collected is what the groups were before."""
    made, another, ssh = wire.allow(WEB), Filters(), replace(WEB, port_min=22, port_max=22)
    third = packets.tap("d0")
    other, gone = (replace(made, owner=owner, device="d0", address=THEIR_MAC) for owner in ("vif-2", "vif-3"))
    wire.filters.ensure([gone, other])
    wire.filters.defer()
    wire.allow(ssh, WEB)
    wire.filters.ensure([replace(other, rules=())])
    wire.filters.remove(["vif-3"])
    wire.filters.remove(["vif-1"])
    another.ensure([replace(made, rules=(ssh,))])
    wire.filters.apply_deferred()
    assert wire.arrives(in4(tcp(1, 22, b"as they are now"), 6), in4(tcp(1, 80, b"not any more"), 6)) == [True, False]
    assert wire.filters.in_force() == {made.key, other.key}
    wire.filters.defer()
    wire.allow(WEB)
    another.ensure([replace(made, rules=())])
    wire.allow(WEB, ssh)
    wire.filters.apply_deferred()
    assert wire.arrives(in4(tcp(2, 22, b"collected"), 6), in4(tcp(2, 80, b"after that"), 6)) == [True, True]
    third.close()


def test_a_removal_that_was_deferred_clears_up_after_a_device_that_went(wire: Wire) -> None:
    wire.allow(WEB)
    wire.filters.defer()
    wire.filters.remove(["vif-1"])
    packets.sh("ip link del t0")
    wire.filters.apply_deferred()
    assert left() == []


def test_removed_filters_leave_nothing_and_no_device(wire: Wire) -> None:
    made = wire.allow(WEB)
    wire.filters.remove(["vif-1", "never-there"])
    wire.filters.remove(["vif-1"])
    assert left() == []
    assert wire.arrives(in4(tcp(1, 22, b"open"), 6)) == [True]
    wire.filters.ensure([made])
    assert wire.filters.sweep(["vif-1"]) == []
    assert wire.filters.sweep([]) == [made.key]
    assert left() == []


def test_a_device_that_comes_again_is_filtered_again(wire: Wire) -> None:
    """Some kernels drop the chains of a device that goes, some keep them for the next one of its name."""
    made = wire.allow(WEB)
    wire.guest.close()
    wire.guest = packets.tap("t0")
    packets.sh("echo 1 >/proc/sys/net/ipv6/conf/t0/disable_ipv6; ip link set t0 master br0 && ip link set t0 up")
    wire.filters.ensure([made])
    assert wire.arrives(in4(tcp(1, 22, b"no"), 6), in4(tcp(1, 80, b"yes"), 6)) == [False, True]


def test_a_filter_moves_to_another_device(wire: Wire) -> None:
    made = wire.allow(WEB)
    wire.filters.ensure([replace(made, device="w0")])
    assert wire.leaves(out4(tcp(1, 22, b"no"), 6), out4(tcp(1, 80, b"yes"), 6)) == [False, True]
    assert [one.split('"')[1] for one in listed("chain") if "device" in one] == ["w0", "w0"]


def last_handle(chain: str) -> str:
    """Of its last rule."""
    done = subprocess.run(
        ["nft", "-a", "list", "chain", "netdev", "cowshed", chain], capture_output=True, text=True, check=True
    )
    return [line for line in done.stdout.splitlines() if "# handle" in line][-1].split()[-1]


def left() -> list[str]:
    """What the kernel has, but of the table itself and the sets that all interfaces share."""
    done = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True)
    heads = [line.strip(" {\t") for line in done.stdout.splitlines() if line.endswith("{")]
    shared = ["table netdev cowshed", *(f"set {name}" for name in ruleset.CONSTANTS)]
    return [head for head in heads if head not in shared]


def listed(word: str) -> list[str]:
    """Paragraphs of nft's own listing that begin with ``word``."""
    done = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True)
    return [word + one for one in done.stdout.split(word)[1:]]


def test_two_processes_at_once(wire: Wire) -> None:
    made = [Filter("t0", f"vif-{number}", OUR_MAC, rules=(WEB,)) for number in range(2)]
    failed: list[BaseException] = []
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)

    def work(one: Filter) -> None:
        try:
            assert packets._libc.setns(home, packets._NEWNET) == 0
            filters = Filters()
            for number in range(6):
                filters.ensure([replace(one, rules=(replace(WEB, port_max=90 + number),))])
                filters.remove([one.owner])
            filters.ensure([one])
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(one,)) for one in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    os.close(home)
    assert not failed
    assert wire.filters.in_force() == {one.key for one in made}


def test_very_many_at_once(wire: Wire) -> None:
    """What nft lists of them is longer than what other tools may say."""
    rules = [GroupRule(IN, protocol="tcp", port_min=port, port_max=port) for port in range(1, 41)]
    made = [Filter("t0", f"vif-{number}", OUR_MAC, rules=tuple(rules)) for number in range(60)]
    wire.filters.ensure(made)
    assert wire.filters.in_force() == {one.key for one in made}
    assert wire.arrives(in4(tcp(1, 40, b"yes"), 6), in4(tcp(1, 41, b"no"), 6)) == [True, False]
    assert len(wire.filters.sweep([made[0].owner])) == len(made) - 1


# --- macvtap --------------------------------------------------------------------------------------


@pytest.fixture
def shared() -> Iterator[Wire]:
    """A macvtap device on one end of a cable; the world is the other end."""
    with packets.namespace():
        packets.sh(
            "ip link add v0 type veth peer name v1 && ip link set v0 up && ip link set v1 up;"
            f"ip link add link v0 name m0 address {OUR_MAC} type macvtap mode bridge && ip link set m0 up"
        )
        guest, world = packets.macvtap("m0"), packets.packet_socket("v1")
        try:
            yield Wire(guest, Port(world.fileno()), Filters(), device="m0", shares=True)
        finally:
            guest.close()
            world.close()


def test_a_shared_device(shared: Wire) -> None:
    shared.allow(*ALL_OUT, WEB)
    assert shared.leaves(
        out4(udp(4000, 53, b"question"), 17), out4(udp(1, 2, b"spoofed"), 17, source=THEIRS), out6(udp(1, 2, b"a"), 17)
    ) == [True, False, True]
    assert shared.arrives(
        in4(udp(53, 4000, b"answer"), 17), in4(tcp(1, 80, b"web"), 6), in4(tcp(1, 22, b"ssh"), 6)
    ) == [True, True, False]
