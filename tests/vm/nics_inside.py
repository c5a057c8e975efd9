"""What ``test_nics_real`` does beside the daemon of its lab: a guest whose interfaces come, are filtered and go.

Run as a program in the namespaces; the last line it prints is ``all done``, each step before says what was seen.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cowshed.errors import HypervisorError
from cowshed.manager import Host, Machine
from cowshed.model.group import Direction, GroupRule
from cowshed.model.vif import Vif
from cowshed.network import ruleset
from cowshed.tools import nft

OURS, GUEST, OTHER = "10.77.0.1", "10.77.0.5", "10.77.0.66"
IN = Direction.INGRESS


def until(look: Callable[[], object], what: str, timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not look():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.05)


def sh(command: str) -> str:
    done = subprocess.run(["sh", "-ec", command], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


class Inside:
    """The guest's shell, on its serial console."""

    def __init__(self, host: Host, machine: Machine) -> None:
        self._machine = machine
        self._console = host.driver.rooms.hypervisor.guest(machine.uuid).open_console(force=True)
        self._number = 0

    def log(self) -> str:
        return self._machine.log(1 << 20).decode(errors="replace").replace("\r", "")

    def do(self, command: str, timeout: float = 60) -> str:
        """Its output. The command is echoed with the sum not yet made, so that its echo is not taken for its end."""
        self._number += 1
        begin, end = f"begin-{1000 + self._number}", f"end-{1000 + self._number}"
        line = f"echo begin-$((1000+{self._number})); {command}; echo end-$((1000+{self._number}))\n"
        self._console.write(line.encode())
        until(lambda: f"{end}\n" in self.log(), command, timeout)
        return self.log().rpartition(f"{begin}\n")[2].partition(end)[0]

    def gives_itself(self, nic: str, address: str, then: str = "true") -> None:
        """The guest's DHCP client, which begins after the guest has said that it sees ``nic``, first takes addresses away."""
        quiet = "until killall udhcpc 2>/dev/null; do usleep 50000; done; while killall -0 dhcp 2>/dev/null; do usleep 50000; done"
        self.do(f"{quiet}; ip link set {nic} up; ip addr add {address} dev {nic}; {then}")

    def sees(self, text: str) -> None:
        until(lambda: text in self.log(), f"the guest seeing {text!r}")

    def close(self) -> None:
        self._console.close()


def answers(port: int, *, to: str = GUEST, timeout: float = 5) -> bool:
    """Does the guest's web server answer there? A dropped packet is no answer."""
    with suppress(OSError), socket.create_connection((to, port), timeout=timeout) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return b"cowshed-guest" in connection.makefile("rb").read()
    return False


def cli(*words: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-m", "cowshed.cli", "--connect", "qemu:///system", *words, "-o", "json"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def step(text: str) -> None:
    print(f"step: {text}", flush=True)


def prepare() -> None:
    sh(f"ip link add cowbr0 type bridge && ip addr add {OURS}/24 dev cowbr0 && ip link set cowbr0 up")
    sh(
        "ip link add v0 type veth peer name v1 && ip link set v0 up && ip link set v1 up && ip addr add 10.78.0.1/24 dev v1"
    )


def filtered() -> int:
    with nft.kernel() as kernel:
        return len(kernel.chains())


def main(image: str) -> None:
    prepare()
    with Host.connect("qemu:///system") as host:
        host.groups.create("web")
        host.groups.add_rule("web", GroupRule(IN, protocol="tcp", port_min=80, port_max=80))
        machine = host.run(image, name="one", memory="160M", networks=["none"])
        try:
            machine.wait("log:cowshed-guest: up", timeout=150)
            inside = Inside(host, machine)
            work(host, machine, inside)
            inside.close()
            again(host, machine)
        except BaseException:
            print(machine.log(4000).decode(errors="replace"), file=sys.stderr)
            raise
        finally:
            machine.remove()
        nothing_left(host)
    print("all done")


def work(host: Host, machine: Machine, inside: Inside) -> None:
    made = cli("nic", "attach", "one", "--network", "bridge:cowbr0", "--ip", f"{GUEST}/24", "--group", "web")[
        "interface"
    ]
    assert isinstance(made, dict)
    address = made["address"]
    assert made["link"] == "up" and made["device"].startswith("cow") and made["groups"] == ["web"], made
    inside.sees(f"cowshed-guest: nic eth0 {address}")
    assert filtered() == len(ruleset.CHAINS)
    inside.gives_itself("eth0", f"{GUEST}/24", then="httpd -p 81 -h /run/www")
    step("attached while it runs")

    until(lambda: answers(80), "an answer of the allowed port")
    assert not answers(81, timeout=2)
    assert "1 packets received" in inside.do(f"ping -c 1 -W 10 {OURS}")
    inside.do(f"ip addr add {OTHER}/24 dev eth0")
    assert " 0 packets received" in inside.do(f"ping -c 1 -W 2 -I {OTHER} {OURS}")
    inside.do(f"ip addr del {OTHER}/24 dev eth0")
    step("packets pass or are dropped as the group says")

    with socket.create_server((OURS, 5555)) as server:
        server.settimeout(60)
        inside.do(f"mkfifo /run/pipe; nc {OURS} 5555 <>/run/pipe >/run/heard & true")
        connection, _ = server.accept()
    with connection:
        connection.sendall(b"before\n")
        inside.do("until grep -q before /run/heard; do usleep 50000; done")
        rule = host.groups.add_rule("web", GroupRule(IN, protocol="tcp", port_min=81, port_max=81))
        until(lambda: answers(81), "an answer of the port that is allowed now")
        host.groups.remove_rule("web", rule.id)
        assert not answers(81, timeout=2)
        connection.sendall(b"after\n")
        inside.do("until grep -q after /run/heard; do usleep 50000; done")
        inside.do("echo and back >/run/pipe")
        connection.settimeout(30)
        assert connection.recv(100) == b"and back\n"
    step("new rules at once, and the connection goes on")

    download(host, machine, inside)
    host.nics.set_link("one", address, up=False)
    until(lambda: "0" in inside.do("cat /sys/class/net/eth0/carrier"), "the guest seeing its cable pulled")
    host.nics.set_link("one", address, up=True)
    until(lambda: answers(80), "an answer with the cable in again")
    host.nics.set_groups("one", address, [])
    until(lambda: answers(81), "an answer of an interface that is not filtered")
    assert filtered() == 0
    host.nics.set_groups("one", address, ["web"])
    assert not answers(81, timeout=2)
    step("counters, link and groups")

    others(host, machine, inside)


@contextmanager
def nodes() -> Iterator[None]:
    """What udev does elsewhere: the node of a macvtap device appears with it. libvirt waits 0.2 s for it."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(0.002):
            for place in Path("/sys/class/net").glob("*/macvtap/*/dev"):
                node = Path("/dev", place.parent.name)
                if not node.exists():
                    major, minor = place.read_text().split(":")
                    os.mknod(node, 0o600 | stat.S_IFCHR, os.makedev(int(major), int(minor)))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def attach_shared(host: Host) -> Vif:
    """Again where the node came too late; what failed has left nothing then."""
    with nodes():
        for attempt in range(5):
            try:
                return host.nics.attach("one", "macvtap:v0", groups=["shared"], ip="10.78.0.5/24")
            except HypervisorError as error:
                if "macvtap tap device" not in str(error) or attempt == 4:
                    raise
            assert len(host.nics.list("one")) == 1
    raise AssertionError("unreachable")


def download(host: Host, machine: Machine, inside: Inside) -> None:
    """The counters are the guest's: what it receives is in."""
    size = 300_000
    with socket.create_server((OURS, 5556)) as server:
        server.settimeout(60)

        def serve() -> None:
            with server.accept()[0] as connection:
                connection.sendall(bytes(size))

        thread = threading.Thread(target=serve)
        thread.start()
        inside.do(f"nc {OURS} 5556 </dev/null | wc -c")
        thread.join(30)
    (counted,) = host.driver.get_all_bw_counters([machine.record.instance])
    assert counted["bw_in"] > size > counted["bw_out"] > 0, counted


def others(host: Host, machine: Machine, inside: Inside) -> None:
    """A device of the host that is shared, a tap that is made, a libvirt network: each comes, works and goes."""
    host.groups.create("shared")
    host.groups.add_rule("shared", GroupRule(IN, protocol="tcp", port_min=80, port_max=80))
    shared = attach_shared(host)
    inside.sees(f"cowshed-guest: nic eth1 {shared.address}")
    inside.gives_itself("eth1", "10.78.0.5/24")
    assert "1 packets received" in inside.do("ping -c 1 -W 10 10.78.0.1")
    until(lambda: answers(80, to="10.78.0.5"), "an answer of the shared device")
    assert not answers(81, to="10.78.0.5", timeout=2)
    (counted,) = [
        one
        for one in host.driver.get_all_bw_counters([machine.record.instance])
        if one["mac_address"] == shared.address
    ]
    tap = host.nics.attach("one", "tap:cowtap")
    network = host.nics.attach("one", "lab")
    inside.sees(f"cowshed-guest: nic eth2 {tap.address}")
    inside.sees(f"cowshed-guest: nic eth3 {network.address}")
    assert {nic.link for _, nic in host.nics.list("one")} == {"up"}
    assert "cowtap" in sh("ls /sys/class/net")
    assert counted["bw_in"] > 0 and counted["bw_out"] > 0
    for vif in (shared, tap, network):
        host.nics.detach("one", vif.address)
    inside.sees("cowshed-guest: nic eth1 gone")
    inside.sees("cowshed-guest: nic eth2 gone")
    assert "cowtap" not in sh("ls /sys/class/net")
    assert filtered() == len(ruleset.CHAINS)
    host.driver.detach_interface(machine.record.instance, shared)
    step("macvtap, tap and a libvirt network came and went")


def again(host: Host, machine: Machine) -> None:
    """The interfaces, and their filters, outlive a restart; virsh's start gives no open network."""
    machine.suspend()
    machine.resume()
    until(lambda: answers(80), "an answer of the restored guest")
    assert not answers(81, timeout=2)
    machine.suspend()
    sh("virsh -q -c qemu:///system start one")
    assert {nic.link for _, nic in host.nics.list("one")} == {"down"}, "restored by somebody else"
    assert not answers(80, timeout=2)
    host.driver.ensure_filtering_rules_for_instance(machine.record.instance, machine.record.vifs)
    until(lambda: answers(80), "an answer of the restored guest")
    machine.stop(force=True)
    sh("virsh -q -c qemu:///system start one")
    assert {nic.link for _, nic in host.nics.list("one")} == {"down"}
    machine.stop(force=True)
    late_groups(host, machine)
    machine.stop(force=True)
    extra = host.nics.attach("one", "bridge:cowbr0")
    machine.start()
    assert {nic.link for _, nic in host.nics.list("one")} == {"up"}
    assert len(host.nics.list("one")) == 2
    assert filtered() == len(ruleset.CHAINS)
    machine.stop(force=True)
    host.nics.detach("one", extra.address)
    machine.start()
    assert len(host.driver.interfaces(machine.record.instance)) == 1
    sh("virsh -q -c qemu:///system destroy one")
    host.driver.init_host("here")
    assert filtered() == 0, "what somebody else has ended is swept"
    step("outlived restarts")


def late_groups(host: Host, machine: Machine) -> None:
    """An interface that came into its groups after it was defined, while it ran or not."""
    (vif,) = machine.record.vifs
    for running in (True, False):
        host.nics.set_groups("one", vif.address, [])
        machine.start()
        assert {nic.link for _, nic in host.nics.list("one")} == {"up"}
        if not running:
            machine.stop(force=True)
        host.nics.set_groups("one", vif.address, vif.groups)
        if running:
            assert {nic.link for _, nic in host.nics.list("one")} == {"up"}
            machine.stop(force=True)
        sh("virsh -q -c qemu:///system start one")
        assert {nic.link for _, nic in host.nics.list("one")} == {"down"}
        machine.stop(force=True)


def nothing_left(host: Host) -> None:
    assert filtered() == 0
    devices = set(sh("ls /sys/class/net").split())
    assert devices == {"lo", "cowbr0", "cowlab0", "v0", "v1"}, devices
    for name in ("web", "shared"):
        host.groups.remove(name)
    assert host.groups.list() == []


if __name__ == "__main__":
    main(sys.argv[1])
