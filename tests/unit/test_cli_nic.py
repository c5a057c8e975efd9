"""``cowshed nic`` and ``cowshed group``, and the library under them, on the fake driver."""

from __future__ import annotations

import io
import json
from typing import Any

import click
import pytest

from cowshed.cli.context import group_names
from cowshed.cli.nic import network_names, nic_names
from cowshed.errors import DeadlineExceeded, HypervisorError, ToolFailed
from cowshed.manager.host import Host
from cowshed.model.group import Direction, GroupRule
from cowshed.model.vif import VifType
from cowshed.testing import FakeDriver
from tests.fake_command import Call, cowshed, empty

__all__ = ["cowshed", "empty"]  # fixtures


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def driver(empty: FakeDriver) -> FakeDriver:
    """With the instance web."""
    Host.connect().run("debian", name="web", memory="64M", networks=["none"])
    return empty


def listed(cowshed: Call) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(cowshed("nic", "ls", "web", "-o", "json")[1])["interfaces"]
    return found


def test_an_interface_comes_is_listed_and_goes(cowshed: Call, driver: FakeDriver) -> None:
    code, out, _ = cowshed(
        *("nic", "attach", "web", "--network", "bridge:br0", "--mac", "52-54-00-AA-BB-CC", "--model", "e1000e"),
        *("--ip", "10.0.0.5/24", "--tag", "front"),
    )
    assert (code, out) == (0, "52:54:00:aa:bb:cc\n")
    (one,) = listed(cowshed)
    assert (one["type"], one["source"], one["model"], one["addresses"]) == ("bridge", "br0", "e1000e", ["10.0.0.5"])
    assert (one["device"][:4], one["link"], one["tag"]) == ("fake", "up", "front")
    (found,) = driver.device_metadata(Host.connect().machine("web").record.instance)
    assert (found["mac"], found["tags"]) == ("52:54:00:aa:bb:cc", ["front"])
    (vif,) = driver.guest("web").vifs[-1:]
    assert vif.subnets[0].cidr == "10.0.0.0/24"
    assert [vif.type for vif in Host.connect().machine("web").record.vifs] == [VifType.BRIDGE], "and nowhere no more"
    assert cowshed("nic", "detach", "web", "52:54:00:AA:BB:CC")[:2] == (0, "52:54:00:aa:bb:cc\n")
    assert listed(cowshed) == []


def test_addresses_are_derived_and_never_given_twice(cowshed: Call) -> None:
    first, second = (cowshed("nic", "attach", "web", "--network", "user")[1].strip() for _ in range(2))
    assert first != second
    assert cowshed("nic", "detach", "web", first)[0] == 0
    assert cowshed("nic", "attach", "web", "--network", "user")[1].strip() == first
    code, _, said = cowshed("nic", "attach", "web", "--network", "user", "--mac", first)
    assert (code, "has an interface with the address" in said) == (2, True)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("attach", "web", "--network", "none"), 2, "leads nowhere"),
        (("attach", "web", "--network", "switch:x"), 2, "is not a network"),
        (("attach", "web", "--network", "tap:a/b"), 2, "cannot name a network device"),
        (("attach", "web", "--network", "user", "--mac", "01:00:5e:00:00:01"), 2, "is not a MAC address"),
        (("attach", "web", "--network", "user", "--model", "ne1"), 2, "not a network card"),
        (("attach", "web", "--network", "user", "--ip", "10.0.0.999"), 2, "not an IP address"),
        (("attach", "web", "--network", "bridge:b", "-p", "1:2"), 2, "need a user network"),
        (("attach", "web", "--network", "bridge:b", "--group", "nobody"), 3, "security group nobody does not exist"),
        (("attach", "gone", "--network", "user"), 3, "instance gone does not exist"),
        (("detach", "web", "52:54:00:00:00:01"), 3, "interface 52:54:00:00:00:01 of web does not exist"),
        (("link", "web", "52:54:00:00:00:01", "up"), 3, "does not exist"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    cowshed: Call, words: tuple[str, ...], code: int, said: str
) -> None:
    found, _, err = cowshed("nic", *words)
    assert (found, said in err) == (code, True), err
    assert listed(cowshed) == []


def test_a_failure_leaves_the_record_as_it_was(cowshed: Call, driver: FakeDriver) -> None:
    driver.fail("attach_interface", HypervisorError(action="attach it", reason="no", number=1))
    assert cowshed("nic", "attach", "web", "--network", "user")[0] == 1
    assert listed(cowshed) == []
    address = cowshed("nic", "attach", "web", "--network", "user")[1].strip()
    driver.fail("detach_interface", DeadlineExceeded(what="it", seconds=1))
    assert cowshed("nic", "detach", "web", address)[0] == 7
    assert [one["address"] for one in listed(cowshed)] == [address]


def test_a_guest_has_the_time_to_let_go_that_is_given(cowshed: Call, driver: FakeDriver) -> None:
    address = cowshed("nic", "attach", "web", "--network", "user")[1].strip()
    driver.guest("web").deaf = True
    code, _, said = cowshed("nic", "detach", "web", address, "--wait", "1m")
    assert (code, "within 60 s" in said) == (7, True), said
    assert [one["address"] for one in listed(cowshed)] == [address]
    assert cowshed("nic", "detach", "web", address, "--wait", "soon")[0] == 2
    driver.guest("web").deaf = False
    assert cowshed("nic", "detach", "web", address, "--wait", "1m")[:2] == (0, address + "\n")


def test_who_waits_for_another_cowshed_is_told(
    cowshed: Call, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cowshed.manager.states._LOCK_TIMEOUT", 0.1)
    monkeypatch.setattr("cowshed.manager.states._SILENT", 0.05)
    host = Host.connect()
    with host.instances.holding("web", "held"):
        code, _, said = cowshed("pause", "web")
        assert (code, "waiting" in said) == (4, False), "a program is not told"
        monkeypatch.setattr("sys.stderr.isatty", lambda: True)
        code, out, said = cowshed("pause", "web", "--progress", "none")
    assert (code, out) == (4, "")
    assert said.startswith("cowshed: waiting for another cowshed, which changes web (process ")


def happened(cowshed: Call, event: str) -> list[str]:
    """The details of all such events."""
    rows = json.loads(cowshed("events", "web", "-o", "json")[1])["events"]
    return [row["detail"] for row in rows if row["event"] == event]


def test_links_go_down_and_up(cowshed: Call) -> None:
    address = cowshed("nic", "attach", "web", "--network", "user")[1].strip()
    for state in ("down", "up"):
        assert cowshed("nic", "link", "web", address, state)[:2] == (0, address + "\n")
        assert listed(cowshed)[0]["link"] == state
    found = json.loads(cowshed("nic", "link", "web", address, "down", "-o", "json")[1])["interface"]
    assert (found["address"], found["link"]) == (address, "down")
    assert happened(cowshed, "link changed") == [f"{address} {state}" for state in ("down", "up", "down")]
    assert cowshed("stop", "web", "--force")[0] == 0
    assert cowshed("nic", "link", "web", address, "down")[0] == 4
    assert listed(cowshed)[0]["link"] == "", "nothing runs that could have a link"


def test_a_user_network_has_a_link_and_no_device(cowshed: Call, driver: FakeDriver) -> None:
    """As libvirt tells of it: no device on the host, with the cable plugged or not."""
    address = cowshed("nic", "attach", "web", "--network", "user")[1].strip()
    cowshed("nic", "link", "web", address, "down")
    (one,) = listed(cowshed)
    assert (one["device"], one["link"]) == ("", "down")


def test_reset_says_which_interfaces_it_has_reset(cowshed: Call, driver: FakeDriver) -> None:
    first, second = (cowshed("nic", "attach", "web", "--network", "bridge:br0")[1].strip() for _ in range(2))
    cowshed("nic", "link", "web", second, "down")
    assert cowshed("nic", "reset", "web")[:2] == (0, first + "\n")
    found = json.loads(cowshed("nic", "reset", "web", "-o", "json")[1])["interfaces"]
    assert [one["address"] for one in found] == [first]
    assert happened(cowshed, "interfaces reset") == [first, first]
    cowshed("nic", "detach", "web", first)
    code, out, said = cowshed("nic", "reset", "web")
    assert (code, out, "no interface whose link is up" in said) == (6, "", True), said
    cowshed("stop", "web", "--force")
    assert cowshed("nic", "reset", "web")[0] == 4


# --- groups ---------------------------------------------------------------------------------------


def test_a_group_and_its_rules(cowshed: Call) -> None:
    assert cowshed("group", "create", "web", "--description", "servers")[0] == 0
    assert cowshed("group", "create", "web")[0] == 4
    code, out, _ = cowshed(
        "group", "rule", "add", "web", "in", "--protocol", "tcp", "--port", "80-81", "--from", "10.1.2.3/8"
    )
    assert (code, out.partition(": ")[2]) == (0, "in, IPv4, tcp 80-81 from 10.0.0.0/8\n")
    again = cowshed(
        "group", "rule", "add", "web", "in", "--protocol", "tcp", "--port", "80-81", "--from", "10.0.0.0/8"
    )[1]
    assert again == out, "a rule that is there is not made again"
    cowshed("group", "rule", "add", "web", "in", "--protocol", "icmpv6", "--port", "128")
    cowshed("group", "rule", "add", "web", "out", "--to", "2001:db8::/32")
    rules = json.loads(cowshed("group", "show", "web", "-o", "json")[1])["group"]["rules"]
    assert [
        (one["direction"], one["ethertype"], one["protocol"], one["port_min"], one["port_max"]) for one in rules
    ] == [
        ("egress", "IPv4", "", None, None),
        ("egress", "IPv6", "", None, None),
        ("ingress", "IPv4", "tcp", 80, 81),
        ("ingress", "IPv6", "icmpv6", 128, None),
        ("egress", "IPv6", "", None, None),
    ]
    assert cowshed("group", "rule", "rm", "web", rules[2]["id"], "--yes")[:2] == (0, f"REMOVED\n{rules[2]['id']}\n")
    assert cowshed("group", "rule", "rm", "web", rules[2]["id"], "--yes")[0] == 3
    code, out, _ = cowshed("group", "rule", "rm", "web", rules[3]["id"], "--yes", "-o", "json")
    assert (code, json.loads(out)["removed"]) == (0, [{"group": "web", "id": rules[3]["id"]}])
    assert "servers" in cowshed("group", "ls")[1]
    assert cowshed("group", "rm", "web", "--yes")[0] == 0
    assert cowshed("group", "rm", "web", "--yes")[0] == 3


def test_who_removes_is_asked(cowshed: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    cowshed("group", "create", "web")
    rule, _ = json.loads(cowshed("group", "show", "web", "-o", "json")[1])["group"]["rules"]
    for words in (("rm", "web"), ("rule", "rm", "web", rule["id"])):
        code, _, said = cowshed("group", *words)
        assert (code, "--yes" in said) == (2, True), said
    monkeypatch.setattr("sys.stdin", Terminal("n\n" * 2))
    code, _, said = cowshed("group", "rm", "web")
    assert (code, "Remove the security group web?" in said) == (1, True), said
    code, _, said = cowshed("group", "rule", "rm", "web", rule["id"])
    assert (code, f"Remove the rule {rule['id']}: out, IPv4, anything to anybody, from web?" in said) == (1, True), said
    assert len(json.loads(cowshed("group", "show", "web", "-o", "json")[1])["group"]["rules"]) == 2


def test_groups_that_are_gone_are_named_for_programs(cowshed: Call) -> None:
    cowshed("group", "create", "one")
    cowshed("group", "create", "two")
    code, out, said = cowshed("group", "rm", "one", "none", "two", "--yes", "-o", "json")
    assert (code, "group none" in said) == (3, True)
    assert json.loads(out)["removed"] == [{"name": "one"}, {"name": "two"}]
    assert cowshed("group", "ls", "-q")[1] == ""
    cowshed("group", "create", "one")
    assert cowshed("group", "rm", "one", "-y", "-q")[1] == "one\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--protocol", "gre"), "is not a protocol"),
        (("--protocol", "300"), "is not a protocol"),
        (("--port", "80"), "has no ports"),
        (("--protocol", "tcp", "--port", "http"), "is not a port"),
        (("--protocol", "tcp", "--port", "90-80"), "are not ports"),
        (("--protocol", "udp", "--port", "70000"), "are not ports"),
        (("--protocol", "icmp", "--port", "256"), "go from 0 to 255"),
        (("--from", "10.0.0.0/33"), "is not a network"),
        (("--from", "10.0.0.0/8", "--group", "web"), "not both"),
        (("--protocol", "icmp", "--from", "2001:db8::/64"), "there is no icmp"),
        (("--ipv6", "--from", "10.0.0.0/8"), "10.0.0.0/8 is IPv4"),
        (("--ipv6", "--protocol", "icmp"), "icmp is IPv4"),
        (("--group", "others"), "does not exist"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(cowshed: Call, words: tuple[str, ...], said: str) -> None:
    cowshed("group", "create", "web", "--empty")
    code, _, err = cowshed("group", "rule", "add", "web", "in", *words)
    assert code in (2, 3)
    assert said in err
    assert json.loads(cowshed("group", "show", "web", "-o", "json")[1])["group"]["rules"] == []


def test_members_are_told_of_each_other(cowshed: Call, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(driver, "refresh_security_group_rules", told.append)
    host = Host.connect()
    host.groups.create("db")
    third = host.nics.attach("web", "bridge:br0", groups=["db"])
    host.nics.detach("web", third.address)
    assert told == [], "no rule means its members"
    host.groups.add_rule("db", GroupRule(Direction.INGRESS, group="db"))
    told.clear()
    first = host.nics.attach("web", "bridge:br0", groups=["db"], ip="10.0.0.5/24")
    second = host.run("debian", name="other", memory="64M", networks=["bridge:br0"], groups=["db"])
    assert told == ["db", "db"]
    known = {one.address: one.addresses for one in host.groups.members("db")}
    assert known == {first.address: ("10.0.0.5",), second.record.vifs[0].address: ()}
    assert host.groups.users("db") == ["other", "web"]
    assert cowshed("group", "rm", "db", "--yes")[0] == 4
    second.remove()
    host.nics.set_groups("web", first.address, [])
    assert told == ["db"] * 4
    assert [vif.groups for vif in driver.guest("web").vifs] == [()]
    assert host.groups.groups(host.machine("web").record.instance, first) is not None
    host.groups.remove("db")


def test_groups_that_cannot_be_put_in_force_are_not_recorded(cowshed: Call, driver: FakeDriver) -> None:
    cowshed("group", "create", "old")
    cowshed("group", "create", "new")
    address = cowshed("nic", "attach", "web", "--network", "bridge:br0", "--group", "old")[1].strip()
    driver.fail("refresh_instance_security_rules", ToolFailed(command="nft", status=1, output="no"))
    code, _, said = cowshed("nic", "groups", "web", address, "new")
    assert (code, "nft failed" in said, f"{address} stays as it was: in the groups old" in said) == (1, True, True), (
        said
    )
    assert [one["groups"] for one in listed(cowshed)] == [["old"]]
    assert driver.guest("web").vifs[-1].groups == ("old",), "also in the domain"
    assert len(driver.called("refresh_instance_security_rules")) == 2, "the old ones are put in force again"
    driver.fail("refresh_instance_security_rules", ToolFailed(command="nft", status=1, output="no"), times=2)
    code, _, said = cowshed("nic", "groups", "web", address)
    assert (code, "may not be filtered as its groups say" in said) == (1, True), said
    assert [one["groups"] for one in listed(cowshed)] == [["old"]]


def test_groups_that_the_domain_is_not_told_of_are_not_recorded(
    cowshed: Call, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The contract's call swallows that; who asks for groups hears of it."""
    cowshed("group", "create", "old")
    cowshed("group", "create", "new")
    address = cowshed("nic", "attach", "web", "--network", "bridge:br0", "--group", "old")[1].strip()
    before = len(driver.called("refresh_instance_security_rules"))

    def refuse(*words: object) -> None:
        raise HypervisorError(action="write the metadata of web", reason="no", number=1)

    with monkeypatch.context() as patch:
        patch.setattr(driver, "tell_network", refuse)
        code, out, said = cowshed("nic", "groups", "web", address, "new")
    assert (code, out, f"{address} stays as it was: in the groups old" in said) == (1, "", True), said
    assert [one["groups"] for one in listed(cowshed)] == [["old"]]
    assert driver.guest("web").vifs[-1].groups == ("old",)
    assert len(driver.called("refresh_instance_security_rules")) == before, "they were never out of force"
    assert cowshed("nic", "groups", "web", address, "new")[0] == 0


def test_a_change_of_a_group_that_is_repeated_is_put_in_force(
    cowshed: Call, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first time the file was written, and some guest kept the old rules."""
    host = Host.connect()
    host.groups.create("db")
    told: list[str] = []
    fails = [True]

    def refresh(name: str) -> None:
        told.append(name)
        if fails.pop():
            raise ToolFailed(command="nft", status=1, output="no")

    monkeypatch.setattr(driver, "refresh_security_group_rules", refresh)
    rule = GroupRule(Direction.INGRESS, protocol="tcp", port_min=80, port_max=80)
    with pytest.raises(ToolFailed):
        host.groups.add_rule("db", rule)
    fails.append(False)
    made = host.groups.add_rule("db", rule)
    assert told == ["db", "db"]
    assert [one for one in host.groups.find("db").rules if one.port_min] == [made]
    fails.append(True)
    code, _, said = cowshed("group", "rule", "rm", "db", made.id, "--yes")
    assert code and "nft" in said
    assert made in host.groups.find("db").rules
    fails.append(False)
    assert cowshed("group", "rule", "rm", "db", made.id, "--yes")[0] == 0
    assert made not in host.groups.find("db").rules
    assert told == ["db"] * 4


def test_a_group_that_a_rule_names_is_not_removed(cowshed: Call) -> None:
    host = Host.connect()
    host.groups.create("one")
    host.groups.create("two")
    host.groups.add_rule("one", GroupRule(Direction.INGRESS, group="two"))
    code, _, said = cowshed("group", "rm", "two", "--yes")
    assert (code, "rules of one" in said) == (4, True)
    assert cowshed("group", "rm", "one", "two", "--yes")[0] == 0


def test_completion(cowshed: Call) -> None:
    cowshed("group", "create", "servers")
    address = cowshed("nic", "attach", "web", "--network", "user")[1].strip()
    context = click.Context(click.Command("x"))
    context.params["instance"] = "web"
    option = click.Option(["--x"])
    assert nic_names(context, option, "52:54") == [address]
    assert group_names(context, option, "ser") == ["servers"]
    assert "macvtap:" in network_names(context, option, "mac")
