"""The pluggers: what they find out before anything is made, what they say to the domain."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cowshed.config import NetworkSection
from cowshed.errors import (
    DataCorrupt,
    InvalidRequest,
    NetworkNotFound,
    PermissionDenied,
    PortInUse,
    ToolMissing,
    UnsupportedOperation,
)
from cowshed.model.host import HostCapabilities
from cowshed.model.vif import PortForward, Protocol, Vif, VifType
from cowshed.network import bridge, open_pluggers
from cowshed.network.bridge import BridgePlugger
from cowshed.network.libvirt_network import NetworkPlugger
from cowshed.network.macvtap import MacvtapPlugger
from cowshed.network.os_vif import OvsPlugger
from cowshed.network.tap import TapPlugger
from cowshed.network.user import UserPlugger, free_port
from tests import packets

MAC = "52:54:00:12:34:56"
SYSTEM = HostCapabilities()
SESSION = HostCapabilities(session=True)
PASST = HostCapabilities(passt=True)


@dataclass(frozen=True)
class Fact:
    name: str
    active: bool = True


def user(*forwards: PortForward) -> Vif:
    return Vif("v", MAC, VifType.USER, forwards=forwards)


def test_every_type_has_its_plugger() -> None:
    asked: list[str] = []
    pluggers = open_pluggers(
        NetworkSection(), networks=lambda: asked.append("networks") or [], start_network=asked.append
    )
    assert set(pluggers) == set(VifType)
    pluggers[VifType.NONE].check(Vif("v", MAC, VifType.NONE), SYSTEM)
    pluggers[VifType.USER].check(user(), SYSTEM)
    assert asked == []


@pytest.mark.parametrize("name", ["user", "bridge", "network"])
def test_an_address_that_is_none_is_refused(name: str) -> None:
    pluggers = open_pluggers(NetworkSection(), networks=lambda: [Fact("br0")], start_network=print)
    with pytest.raises(InvalidRequest, match="MAC"):
        pluggers[VifType(name)].check(Vif("v", f"{MAC},id=x", VifType(name), "br0"), SYSTEM)


# --- user -----------------------------------------------------------------------------------------


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_passt_is_used_where_it_is() -> None:
    plugger = UserPlugger(NetworkSection())
    assert plugger.plug(user(), PASST).backend == "passt"
    assert plugger.plug(user(), SYSTEM).backend == "slirp"
    assert UserPlugger(NetworkSection(user_backend="slirp")).plug(user(), PASST).backend == "slirp"


def test_passt_that_is_demanded_and_not_there_is_refused_before() -> None:
    with pytest.raises(UnsupportedOperation) as caught:
        UserPlugger(NetworkSection(user_backend="passt")).check(user(), SYSTEM)
    assert isinstance(caught.value, NotImplementedError)
    assert "auto" in str(caught.value.hint)


def test_a_port_in_use_is_named(taken: int) -> None:
    with pytest.raises(PortInUse) as caught:
        UserPlugger(NetworkSection()).check(user(PortForward(taken, 22)), SYSTEM)
    assert caught.value.port == taken
    assert str(taken) in str(caught.value)
    assert caught.value.exit_code == 4


def test_a_port_in_use_is_in_use_for_every_address(taken: int) -> None:
    with pytest.raises(PortInUse):
        UserPlugger(NetworkSection()).check(user(PortForward(taken, 22, host_address="0.0.0.0")), SYSTEM)


def test_udp_and_tcp_do_not_meet(taken: int) -> None:
    UserPlugger(NetworkSection()).check(user(PortForward(taken, 53, Protocol.UDP)), SYSTEM)


def test_a_udp_port_in_use_is_found() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        with pytest.raises(PortInUse):
            UserPlugger(NetworkSection()).check(user(PortForward(listener.getsockname()[1], 53, Protocol.UDP)), SYSTEM)


def test_a_port_that_was_just_left_is_free() -> None:
    """A connection that somebody closed a moment ago (TIME_WAIT) is no reason to refuse."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as every server does
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            server, _ = listener.accept()
            server.close()
            client.recv(1)
    UserPlugger(NetworkSection()).check(user(PortForward(port, 22)), SYSTEM)


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_port_is_forwarded_once(address: str) -> None:
    port = free_port()
    forwards = (PortForward(port, 22), PortForward(port, 80, host_address=address))
    with pytest.raises(InvalidRequest, match="forwarded twice"):
        UserPlugger(NetworkSection()).check(user(*forwards), SYSTEM)


def test_one_port_may_be_forwarded_from_two_addresses() -> None:
    port = free_port()
    UserPlugger(NetworkSection()).check(
        user(PortForward(port, 22), PortForward(port, 22, host_address="127.0.0.2")), SYSTEM
    )


def test_an_address_of_another_host_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"192\.0\.2\.1"):
        UserPlugger(NetworkSection()).check(user(PortForward(2222, 22, host_address="192.0.2.1")), SYSTEM)


def test_the_model_is_the_vifs_or_the_configured_one() -> None:
    plugger = UserPlugger(NetworkSection(model="e1000"))
    assert plugger.plug(user(), SYSTEM).model == "e1000"
    assert plugger.plug(replace(user(), model="rtl8139"), SYSTEM).model == "rtl8139"


# --- libvirt's networks ---------------------------------------------------------------------------


def network(*facts: Fact) -> tuple[NetworkPlugger, list[str]]:
    started: list[str] = []
    return NetworkPlugger(NetworkSection(), lambda: facts, started.append), started


def lab() -> Vif:
    return Vif("v", MAC, VifType.NETWORK, "lab")


def test_a_missing_network_is_refused_with_the_known_ones() -> None:
    plugger, _ = network(Fact("default"), Fact("corp"))
    with pytest.raises(NetworkNotFound, match="lab") as caught:
        plugger.check(lab(), SYSTEM)
    assert "corp, default" in str(caught.value.hint)
    assert caught.value.exit_code == 3


def test_in_session_mode_the_way_out_is_named() -> None:
    plugger, _ = network()
    with pytest.raises(NetworkNotFound) as caught:
        plugger.check(lab(), SESSION)
    assert "--network user" in str(caught.value.hint)


def test_an_idle_network_is_started_when_it_is_used_and_not_before() -> None:
    plugger, started = network(Fact("lab", active=False))
    plugger.check(lab(), SYSTEM)
    assert started == []
    assert plugger.plug(lab(), SYSTEM).vif == lab()
    assert started == ["lab"]


def test_an_active_network_is_not_started() -> None:
    plugger, started = network(Fact("lab"))
    plugger.plug(lab(), SYSTEM)
    plugger.unplug(lab())
    assert started == []


def test_a_network_that_vanished_since_the_check_is_missing() -> None:
    facts = [Fact("lab")]
    plugger = NetworkPlugger(NetworkSection(), lambda: facts, print)
    plugger.check(lab(), SYSTEM)
    facts.clear()
    with pytest.raises(NetworkNotFound):
        plugger.plug(lab(), SYSTEM)


# --- bridges --------------------------------------------------------------------------------------


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A host with the bridge br0 and the card eth0; its helper is set-uid."""
    (tmp_path / "net" / "br0" / "bridge").mkdir(parents=True)
    (tmp_path / "net" / "eth0").mkdir()
    (tmp_path / "helper").touch()
    (tmp_path / "helper").chmod(0o4755)
    return tmp_path


def bridged(host: Path, acl: str | None = None) -> BridgePlugger:
    if acl is not None:
        (host / "bridge.conf").write_text(acl)
    return BridgePlugger(
        NetworkSection(), sys=host / "net", acl=host / "bridge.conf", helpers=[host / "nowhere", host / "helper"]
    )


def br0(name: str = "br0") -> Vif:
    return Vif("v", MAC, VifType.BRIDGE, name)


def test_the_system_needs_no_list(host: Path) -> None:
    bridged(host).check(br0(), SYSTEM)
    assert bridged(host).plug(br0(), SYSTEM).model == "virtio"


@pytest.mark.parametrize("name", ["br1", "eth0", ""])
def test_what_is_no_bridge_is_missing(host: Path, name: str) -> None:
    with pytest.raises(NetworkNotFound) as caught:
        bridged(host).check(br0(name), SYSTEM)
    assert "br0" in str(caught.value.hint)


def test_a_host_without_bridges_says_so(tmp_path: Path) -> None:
    with pytest.raises(NetworkNotFound) as caught:
        BridgePlugger(NetworkSection(), sys=tmp_path).check(br0(), SYSTEM)
    assert "no bridge" in str(caught.value.hint)


@pytest.mark.parametrize("acl", ["allow br0\n", "# all of them\nallow all\n", "\tallow  br0 # ours\nallow x\n"])
def test_an_allowed_bridge_may_be_used_in_a_session(host: Path, acl: str) -> None:
    bridged(host, acl).check(br0(), SESSION)


@pytest.mark.parametrize("acl", [None, "", "allow br1\n", "#allow br0\n", "allow\n", "allow br0 br1\n"])
def test_a_bridge_that_is_not_allowed_needs_a_line(host: Path, acl: str | None) -> None:
    with pytest.raises(PermissionDenied) as caught:
        bridged(host, acl).check(br0(), SESSION)
    assert "allow br0" in str(caught.value.hint)
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("acl", ["allow all\ndeny br0\n", "deny all\nallow br0\n"])
def test_a_denied_bridge_is_denied_wherever_the_line_stands(host: Path, acl: str) -> None:
    with pytest.raises(PermissionDenied) as caught:
        bridged(host, acl).check(br0(), SESSION)
    assert "deny" in str(caught.value.hint)


def test_lists_include_lists(host: Path) -> None:
    (host / "more.conf").write_text(f"allow br0\ninclude {host}/bridge.conf\n")  # a circle
    bridged(host, f"include {host}/more.conf\n").check(br0(), SESSION)


def test_a_helper_without_privilege_is_named(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (host / "helper").chmod(0o755)
    bridged(host, "allow br0\n").check(br0(), SESSION) if os.geteuid() == 0 else None
    monkeypatch.setattr(bridge.os, "geteuid", lambda: 1000)
    with pytest.raises(PermissionDenied) as caught:
        bridged(host, "allow br0\n").check(br0(), SESSION)
    assert "chmod u+s" in str(caught.value.hint)


def test_a_missing_helper_is_named(host: Path) -> None:
    (host / "helper").unlink()
    with pytest.raises(ToolMissing, match="qemu-bridge-helper"):
        bridged(host, "allow br0\n").check(br0(), SESSION)


# --- devices of the host --------------------------------------------------------------------------


@pytest.fixture
def devices(tmp_path: Path) -> Path:
    """As /sys/class/net, with a card and a tap."""
    for name in ("eth0", "tap0"):
        (tmp_path / name).mkdir()
    (tmp_path / "tap0" / "tun_flags").touch()
    return tmp_path


def on(kind: VifType, source: str, **fields: object) -> Vif:
    return Vif("v", MAC, kind, source, **fields)  # type: ignore[arg-type]


def test_a_tap_that_is_there_is_used_and_left(devices: Path) -> None:
    plugger = TapPlugger(NetworkSection(), sys=devices)
    plugger.check(on(VifType.TAP, "tap0"), SESSION)
    assert plugger.plug(on(VifType.TAP, "tap0"), SESSION).target == "tap0"
    plugger.unplug(on(VifType.TAP, "tap0"))
    assert (devices / "tap0").exists()


def test_what_is_no_tap_or_not_there_is_refused(devices: Path) -> None:
    plugger = TapPlugger(NetworkSection(), sys=devices)
    with pytest.raises(InvalidRequest, match="eth0 is not a tap"):
        plugger.check(on(VifType.TAP, "eth0"), SYSTEM)
    with pytest.raises(NetworkNotFound, match="tap tap1") as caught:
        plugger.check(on(VifType.TAP, "tap1"), SESSION)
    assert "ip tuntap add tap1" in str(caught.value.hint)
    plugger.check(on(VifType.TAP, "tap1"), SYSTEM)
    with pytest.raises(InvalidRequest):
        plugger.check(on(VifType.TAP, "a-name-that-is-too-long"), SYSTEM)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a network namespace")
def test_a_missing_tap_is_made_and_only_that_is_removed() -> None:
    with packets.namespace(), packets.sysfs() as sys:
        plugger = TapPlugger(NetworkSection(), sys=sys)
        packets.sh("ip tuntap add theirs mode tap")
        for name in ("ours", "theirs"):
            plugger.plug(on(VifType.TAP, name), SYSTEM)
            plugger.plug(on(VifType.TAP, name), SYSTEM)
        assert (sys / "ours" / "ifalias").read_text() == "cowshed v\n"
        plugger.unplug(Vif("another", MAC, VifType.TAP, "ours"))
        assert (sys / "ours").exists()
        for name in ("ours", "theirs", "ours"):
            plugger.unplug(on(VifType.TAP, name))
        assert not (sys / "ours").exists()
        assert (sys / "theirs").exists()


def test_a_shared_device_must_be_there_and_needs_root(devices: Path) -> None:
    plugger = MacvtapPlugger(NetworkSection(), sys=devices)
    plugger.check(on(VifType.MACVTAP, "eth0"), SYSTEM)
    with pytest.raises(NetworkNotFound, match="device eth1") as caught:
        plugger.check(on(VifType.MACVTAP, "eth1"), SYSTEM)
    assert "eth0" in str(caught.value.hint)
    with pytest.raises(UnsupportedOperation, match="root"):
        plugger.check(on(VifType.MACVTAP, "eth0"), SESSION)


def test_open_vswitch_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plugger = OvsPlugger(NetworkSection())
    with pytest.raises(UnsupportedOperation):
        plugger.check(on(VifType.OVS, "br-int"), SESSION)
    monkeypatch.setenv("COWSHED_PATH", str(tmp_path))
    monkeypatch.setattr("cowshed.tools.run.PATH", "/nowhere")
    with pytest.raises(ToolMissing, match="ovs-vsctl") as caught:
        plugger.check(on(VifType.OVS, "br-int"), SYSTEM)
    assert "openvswitch-switch" in str(caught.value.hint)
    for tool in ("ovs-vsctl", "ovs-dpctl"):
        (tmp_path / tool).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / tool).chmod(0o755)
    monkeypatch.setitem(sys.modules, "os_vif", None)
    with pytest.raises(ToolMissing, match="os-vif") as caught:
        plugger.check(on(VifType.OVS, "br-int"), SYSTEM)
    assert "cowshed[ovs]" in str(caught.value.hint)


def a_switch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: str, *, kernel: bool = False) -> None:
    """Its tools, with what ovs-vsctl lists, and with or without the kernel's module."""
    vsctl = f"#!/bin/sh\necho '{listed}'\n" if listed else "#!/bin/sh\necho database connection failed >&2; exit 1\n"
    for tool, text in (("ovs-vsctl", vsctl), ("ovs-dpctl", f"#!/bin/sh\nexit {0 if kernel else 1}\n")):
        (tmp_path / tool).write_text(text)
        (tmp_path / tool).chmod(0o755)
    monkeypatch.setenv("COWSHED_PATH", str(tmp_path))
    monkeypatch.setattr("cowshed.network.os_vif._library", lambda: (None, None))


BRIDGES = '{"data":[["br-kernel",""],["br-system","system"],["br-user","netdev"]],"headings":["name","datapath_type"]}'


def test_open_vswitch_refuses_what_it_could_not_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plugger = OvsPlugger(NetworkSection())
    a_switch(tmp_path, monkeypatch, BRIDGES)
    plugger.check(on(VifType.OVS, "br-user"), SYSTEM)
    for name in ("br-kernel", "br-system", "br-new"):
        with pytest.raises(UnsupportedOperation, match="no module openvswitch") as caught:
            plugger.check(on(VifType.OVS, name), SYSTEM)
        assert "modprobe" in str(caught.value.hint)
        plugger.check_filtering(on(VifType.OVS, name))
    with pytest.raises(UnsupportedOperation, match="filters see them"):
        plugger.check_filtering(on(VifType.OVS, "br-user"))
    a_switch(tmp_path, monkeypatch, BRIDGES, kernel=True)
    for name in ("br-kernel", "br-system", "br-user", "br-new"):
        plugger.check(on(VifType.OVS, name), SYSTEM)
    a_switch(tmp_path, monkeypatch, "")
    with pytest.raises(UnsupportedOperation, match="does not answer: database connection failed"):
        plugger.check(on(VifType.OVS, "br-user"), SYSTEM)
    a_switch(tmp_path, monkeypatch, "not JSON")
    with pytest.raises(DataCorrupt):
        plugger.check(on(VifType.OVS, "br-user"), SYSTEM)
