"""Packet filters go with a guest: at no moment does it speak where they are not in force, here or there.

As a user does it, on the hosts themselves: in their network namespaces, where nftables has a table for each.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cowshed.hypervisor import Hypervisor
from cowshed.model.instance import PowerState
from cowshed.network import ruleset
from tests import packets
from tests.vm.doors import inside
from tests.vm.test_cli_migrate import configure
from tests.vm.two_hosts import Host
from tests.volume_servers import need, until

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("moves"), pytest.mark.timeout(300)]

COWSHED = [sys.executable, "-m", "cowshed.cli"]
ARP, IPV4, ICMP = 0x0806, 0x0800, 1
# What no rule allows, ten times a second, and what is always allowed.
TALKER = """#!/bin/sh
killall udhcpc 2>/dev/null
ip link set eth0 up
ip addr add 10.77.0.5/24 dev eth0
(for one in 0 1 2 3 4 5 6 7 8 9; do ping 10.77.0.255 >/dev/null 2>&1 & usleep 100000; done) &
(while :; do arping -c 1 -w 1 -I eth0 10.77.0.98 >/dev/null 2>&1 & usleep 200000; done) &
"""


def on(host: Host) -> list[str]:
    """The beginning of a command that runs in its network, and sees its devices in /sys."""
    within = ["nsenter", "-t", str(host.init), "-n", "-u", "--", "unshare", "-m"]
    return [*within, "sh", "-c", 'mount -t sysfs sysfs /sys && exec "$@"', "sh"]


def start(host: Host, *words: str) -> subprocess.Popen[str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("COWSHED_")}
    return subprocess.Popen(
        [*on(host), *COWSHED, *words],
        env={**ours, "COWSHED_CONFIG": str(host.place / "config.toml")},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def cowshed(host: Host, *words: str, status: int = 0) -> str:
    process = start(host, *words)
    out, err = process.communicate(timeout=150)
    assert process.returncode == status, f"{words}: {process.returncode}\n{out}\n{err}"
    return out + err


def filtered(host: Host) -> set[str]:
    """The chains in force there."""
    done = subprocess.run([*on(host), "nft", "-j", "list", "chains"], capture_output=True, text=True, check=True)
    return {one["chain"]["name"].rpartition("-")[0] for one in json.loads(done.stdout)["nftables"] if "chain" in one}


class Wire:
    """What a guest has said at the other end of a bridge."""

    def __init__(self) -> None:
        self.allowed = self.forbidden = 0

    def heard(self, frame: bytes) -> None:
        kind = int.from_bytes(frame[12:14], "big")
        if frame[6:9] != packets.mac("52:54:00:00:00:00")[:3]:
            return  # the bridge's own
        self.allowed += kind == ARP
        self.forbidden += kind == IPV4 and frame[23] == ICMP

    def speaks(self) -> None:
        """It is heard again, and says nothing that is forbidden."""
        before = self.allowed
        until(lambda: self.allowed >= before + 5, "the guest heard", timeout=90)
        assert self.forbidden == 0


@contextmanager
def wire(host: Host) -> Iterator[Wire]:
    for words in (
        "link add guests type bridge mcast_snooping 0", "link set guests up",
        "link add inner type veth peer name outer", "link set inner master guests up", "link set outer up",
    ):  # fmt: skip
        subprocess.run([*on(host), "ip", *words.split()], check=True)
    made, over = Wire(), threading.Event()
    socket = inside(host, lambda: packets.packet_socket("outer"))

    def listen() -> None:
        while not over.is_set():
            if select.select([socket], [], [], 0.1)[0]:
                made.heard(socket.recv(70000))

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        yield made
    finally:
        over.set()
        thread.join()
        socket.close()
        for name in ("inner", "guests"):
            subprocess.run([*on(host), "ip", "link", "delete", name], check=True)


def waiting(host: Host) -> int:
    """The process of cowshed that another host has started there."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            ours = f"COWSHED_CONFIG={host.place}/config.toml" in (path / "environ").read_text()
            if ours and (path / "cmdline").read_text().endswith("cowshed.cli\0serve\0"):
                return int(path.name)
        except OSError:
            continue
    raise AssertionError("nobody waits")


@pytest.fixture
def wires(hosts: tuple[Host, Host]) -> Iterator[tuple[Wire, Wire]]:
    need("nft", "ip")
    for host, other in (hosts, hosts[::-1]):
        configured(host, other)
    with wire(hosts[0]) as one, wire(hosts[1]) as two:
        yield one, two


def configured(host: Host, other: Host, **options: Any) -> None:
    """Post-copy is allowed: it is not for these guests."""
    configure(host, other, reach=on(other), more="post_copy = true", **options)


def test_filters_are_there_before_the_guest(
    hosts: tuple[Host, Host], wires: tuple[Wire, Wire], guest_dir: Path, tmp_path: Path
) -> None:
    (here, there), (wire_here, wire_there) = hosts, wires
    talker = tmp_path / "talker"
    talker.write_text(TALKER)
    cowshed(here, "group", "create", "quiet", "--empty")
    cowshed(
        here, "run", str(guest_dir / "tiny.qcow2"), "--name", "web", "--memory", "160M", "--network", "bridge:guests",
        "--group", "quiet", "--user-data", str(talker), "--wait", "log:cowshed-guest: up",
    )  # fmt: skip
    wire_here.speaks()
    whole = filtered(here)
    assert len(whole) == len(ruleset.CHAINS)

    # The other host knows no such group: nothing begins.
    assert "quiet" in cowshed(here, "migrate", "web", there.address, "--live", status=3)
    cowshed(there, "group", "create", "quiet", "--empty")

    # Given up in the middle: filtered here as before, and nothing is left there.
    configured(here, there, bandwidth=2 << 20)
    process = start(here, "migrate", "web", there.address, "--live", "--progress", "json")
    assert process.stderr
    while '"migrate"' not in (said := process.stderr.readline()):
        assert said, "it ended"
    until(lambda: filtered(there) == whole, "filters at the destination, while the guest is on its way")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert filtered(here) == whole and not filtered(there)
    wire_here.speaks()
    configured(here, there)

    cowshed(here, "migrate", "web", there.address, "--live")
    wire_there.speaks()
    assert filtered(there) == whole and not filtered(here)

    cowshed(there, "migrate", "web", here.address, "--cold", "--timeout", "20")
    wire_here.speaks()
    assert filtered(here) == whole and not filtered(there)

    # Nobody waits for it there any more: it arrives, and stays paused until it is looked after.
    configured(here, there, bandwidth=20 << 20)
    process = start(here, "migrate", "web", there.address, "--live")
    until(lambda: filtered(there) == whole, "filters at the destination, while the guest is on its way")
    os.kill(waiting(there), signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    with Hypervisor(there.uri) as hypervisor:
        (guest,) = hypervisor.guests()
        assert guest.state() == PowerState.PAUSED
    cowshed(here, "migrate", "web", there.address, "--live")  # ends what was begun
    wire_there.speaks()
    assert filtered(there) == whole and not filtered(here)

    # Without groups what was forbidden is heard: nothing was proven otherwise.
    address = json.loads(cowshed(there, "nic", "ls", "web", "-o", "json"))["interfaces"][0]["address"]
    assert wire_here.forbidden == wire_there.forbidden == 0
    cowshed(there, "nic", "groups", "web", address)
    until(lambda: wire_there.forbidden > 5, "what was forbidden heard")
    cowshed(there, "rm", "--yes", "web")
    assert not filtered(there)
    for host in hosts:
        cowshed(host, "group", "rm", "quiet", "--yes")
        assert not list((host.state / "transit").glob("*"))
