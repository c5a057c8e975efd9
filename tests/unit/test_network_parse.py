"""Words of the command line become interfaces, forwards and MAC addresses, or one clear refusal."""

from __future__ import annotations

import socket
import uuid

import pytest

from cowshed.errors import InvalidRequest
from cowshed.model.vif import PortForward, Protocol, VifType
from cowshed.network import mac, parse

INSTANCE = str(uuid.UUID(int=7))


def vifs(*words: str, forwards: tuple[str, ...] = (), default: str = "user") -> list[tuple[VifType, str]]:
    return [(vif.type, vif.source) for vif in parse.vifs(words, forwards, instance=INSTANCE, default=default)]


def test_a_network_has_options_behind_it() -> None:
    first, second = parse.vifs(
        ["bridge:br0,mac=52-54-00-AA-BB-CC,model=e1000e,tag=front", "user,tag=back"], (), instance=INSTANCE, default=""
    )
    assert (first.source, first.address, first.model, first.tag) == ("br0", "52:54:00:aa:bb:cc", "e1000e", "front")
    assert (second.type, second.address, second.tag) == (VifType.USER, mac.derived(INSTANCE, 1), "back")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["user,speed=9"], "no option of an interface"),
        (["user,tag"], "no option of an interface"),
        (["user,tag="], "no option of an interface"),
        (["user,mac=01:00:5e:00:00:01"], "not a MAC address"),
        (["none,tag=x"], "has no options"),
        (["user,mac=52:54:00:aa:bb:cc", "user,mac=52:54:00:AA:BB:CC"], "two interfaces have the address"),
    ],
)
def test_wrong_options_are_refused(words: list[str], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        parse.vifs(words, (), instance=INSTANCE, default="")


# --- networks -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("user", (VifType.USER, "")),
        ("none", (VifType.NONE, "")),
        ("default", (VifType.NETWORK, "default")),
        ("network:user", (VifType.NETWORK, "user")),
        ("network:lab-1", (VifType.NETWORK, "lab-1")),
        ("bridge:br0", (VifType.BRIDGE, "br0")),
        ("br0", (VifType.NETWORK, "br0")),
        ("tap:tap-1", (VifType.TAP, "tap-1")),
        ("macvtap:eth0", (VifType.MACVTAP, "eth0")),
        ("ovs:br-int", (VifType.OVS, "br-int")),
    ],
)
def test_a_word_is_a_network(word: str, expected: tuple[VifType, str]) -> None:
    assert vifs(word) == [expected]


def test_no_word_is_the_default() -> None:
    assert vifs(default="bridge:br0") == [(VifType.BRIDGE, "br0")]


@pytest.mark.parametrize(
    "word",
    ["", ":", "bridge:", "network:", "vlan:7", "network:a:b", "bridge:../x", "-x", "a b", "ä", "x" * 64, "user:x"],
)
def test_nonsense_is_refused(word: str) -> None:
    with pytest.raises(InvalidRequest):
        vifs(word)


def test_interfaces_keep_their_order_and_have_addresses_of_their_own() -> None:
    made = parse.vifs(["user", "default", "bridge:br0"], [], instance=INSTANCE, default="user")
    assert [vif.type for vif in made] == [VifType.USER, VifType.NETWORK, VifType.BRIDGE]
    assert len({vif.address for vif in made}) == len({vif.id for vif in made}) == 3
    assert made == parse.vifs(["user", "default", "bridge:br0"], [], instance=INSTANCE, default="user")


def test_forwards_belong_to_the_first_user_network() -> None:
    made = parse.vifs(["default", "user", "user"], ["2222:22"], instance=INSTANCE, default="user")
    assert [len(vif.forwards) for vif in made] == [0, 1, 0]


def test_forwards_without_a_user_network_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="user network") as caught:
        vifs("default", forwards=("2222:22",))
    assert "--network user" in str(caught.value.hint)


# --- port forwards --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2222:22", PortForward(2222, 22)),
        ("2222:22/tcp", PortForward(2222, 22)),
        ("5353:53/UDP", PortForward(5353, 53, Protocol.UDP)),
        ("127.0.0.2:2222:22", PortForward(2222, 22, host_address="127.0.0.2")),
        ("0.0.0.0:8080:80/tcp", PortForward(8080, 80, host_address="0.0.0.0")),
        ("[::1]:2222:22", PortForward(2222, 22, host_address="::1")),
        ("::1:2222:22", PortForward(2222, 22, host_address="::1")),
        ("65535:65535", PortForward(65535, 65535)),
    ],
)
def test_a_forward_is_read(text: str, expected: PortForward) -> None:
    assert parse.port_forward(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "22", ":22", "2222:", "2222:22/", "2222:22/sctp", "2222:22/tcp/udp", "a:b", "2222:22:", ":2222:22"),
        *("host:2222:22", "localhost:2222:22", "1.2.3:2222:22", "[::1:2222:22", "2222:0", "65536:22", "22:65536"),
        *("-1:22", "+1:22", " 22:22", "22:22 ", "2_2:22", "٢٢:22", "22:22\n", "1e3:22", "99999999999:22", "[]:1:2"),
    ],
)
def test_what_is_no_forward_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse.port_forward(text)
    assert "2222:22" in str(caught.value.hint)


@pytest.mark.parametrize("text", ["0:22", "127.0.0.1:0:22/tcp", "0:53/udp"])
def test_port_zero_is_a_free_one(text: str) -> None:
    forward = parse.port_forward(text)
    assert 1024 <= forward.host_port < 65536
    kind = socket.SOCK_DGRAM if forward.protocol == Protocol.UDP else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", forward.host_port))


def test_no_port_is_free_on_somebody_elses_address() -> None:
    with pytest.raises(InvalidRequest, match="not an address of this host"):
        parse.port_forward("192.0.2.1:0:22")


# --- MAC addresses --------------------------------------------------------------------------------


def test_derived_addresses_are_stable_valid_and_different() -> None:
    made = [mac.derived(INSTANCE, number) for number in range(200)]
    assert made == [mac.derived(INSTANCE, number) for number in range(200)]
    assert len(set(made)) == 200
    assert all(mac.check(address) == address and address.startswith("52:54:00:") for address in made)
    assert mac.derived(str(uuid.UUID(int=8)), 0) != made[0]


def test_addresses_are_written_one_way() -> None:
    assert mac.check("52-54-00-AB-cd-EF") == "52:54:00:ab:cd:ef"


@pytest.mark.parametrize(
    "address",
    [
        *("", "52:54:00:12:34", "52:54:00:12:34:5g", "52:54:00:12:34:56:78", "525400123456", "52:54:00:12:34:56\n"),
        *("01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "52:54:00:12:34:56,romfile=/etc/shadow"),
    ],
)
def test_what_is_no_address_of_one_interface_is_refused(address: str) -> None:
    with pytest.raises(InvalidRequest, match="not a MAC address"):
        mac.check(address)
