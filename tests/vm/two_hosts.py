"""Two hosts on one machine: each a libvirt daemon of the system kind in namespaces of its own, joined by a cable.

Processes, network, host name and everything libvirt keeps are apart; the file system below /tmp is common, so that
the driver of either host runs in the test's own process, on a state directory of its own. Needs root.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.vm import apart

TOOLS = ("libvirtd", "ip", "unshare", "nsenter")
_NET = f"10.213.{os.getpid() % 200 + 20}"
OUTSIDE = f"{_NET}.254"  # where both reach the process of the test

# $2: the host's name, $3: its UUID. The daemon is started again as soon as the file "up" is there: it can be killed and
# comes back when the test says so.
_DAEMON = r"""
hostname "$2"
cat >>"$place/conf/libvirtd.conf" <<X
listen_tcp = 1
auth_tcp = "none"
unix_sock_rw_perms = "0777"
host_uuid = "$3"
X
mkdir "$place/pki"
cat >>"$place/conf/qemu.conf" <<X
migrate_tls_x509_cert_dir = "$place/pki"
migrate_tls_x509_verify = 1
X
while true; do
    while [ ! -e "$place/up" ]; do sleep 0.05; done
    libvirtd --listen -f "$place/conf/libvirtd.conf" >>"$place/libvirtd.log" 2>&1 &
    echo $! >"$place/inner.pid"
    wait $! || true
    sleep 0.1
done
"""


@dataclass
class Host:
    """``address`` is where the other host reaches it; ``state`` is for its driver."""

    name: str
    place: Path
    address: str
    process: subprocess.Popen[bytes]

    @property
    def uri(self) -> str:
        return f"qemu+unix:///system?socket={self.place}/run/libvirt/libvirt-sock"

    @property
    def state(self) -> Path:
        return self.place / "state"

    def processes(self, program: str, word: str = "") -> list[int]:
        """Those of this host that are ``program`` with ``word`` in their command line, by our numbers."""
        mine, found = os.readlink(f"/proc/{self.init}/ns/net"), []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                words = (path / "cmdline").read_text()
                name = words.partition("\0")[0].rpartition("/")[2]
                if name.startswith(program) and word in words and os.readlink(path / "ns/net") == mine:
                    found.append(int(path.name))
            except OSError:
                continue
        return found

    @property
    def init(self) -> int:
        """The first process in the namespaces."""
        text = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return int(text.split()[0])

    def kill(self, program: str, word: str = "", number: int = signal.SIGKILL) -> None:
        pids = self.processes(program, word)
        assert pids, f"{self.name} has no {program}"
        for pid in pids:
            os.kill(pid, number)

    def kill_libvirt(self) -> None:
        """It stays away until :meth:`start`."""
        (self.place / "up").unlink(missing_ok=True)
        self.kill("libvirtd")

    def start(self, timeout: float = 90) -> None:
        from cowshed.errors import CowshedError
        from cowshed.hypervisor import Hypervisor

        (self.place / "up").touch()
        deadline = time.monotonic() + timeout
        said = ""
        while time.monotonic() < deadline:
            try:
                with Hypervisor(self.uri) as hypervisor:
                    hypervisor.libvirt_version()
                    return
            except CowshedError as error:
                said = str(error)
                time.sleep(0.1)
        log = self.place / "libvirtd.log"
        pytest.fail(f"{self.name} does not answer: {said}\n{log.read_text()[-2000:] if log.exists() else ''}")


def missing() -> str:
    """Why there can be no two hosts here; empty: there can."""
    if os.geteuid() != 0:
        return "needs root: two network namespaces with a libvirt daemon each"
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"needs {', '.join(absent)}: see scripts/packages.sh test" if absent else ""


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    hosts: list[Host] = []
    with apart.folder("cowshed-two-") as place:
        try:
            for number, name in enumerate(("cow-a", "cow-b"), 1):
                hosts.append(_host(place / name[-1], name, number))
            _join(hosts)
            for host in hosts:
                host.start()
            yield hosts[0], hosts[1]
        finally:
            for host in hosts:
                _end(host)


def _host(place: Path, name: str, number: int) -> Host:
    place.mkdir()
    script = apart.NAMESPACE + _DAEMON
    identity = f"00000000-0000-4000-8000-00000000000{number}"
    with (place / "host.log").open("wb") as log:
        process = subprocess.Popen(
            [*apart.UNSHARE, "-u", "bash", "-c", script, "host", str(place), name, identity],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    return Host(name, place, f"{_NET}.{number}", process)


def _join(hosts: list[Host]) -> None:
    deadline = time.monotonic() + 20
    for host in hosts:
        while not (host.place / "conf/qemu.conf").exists():
            assert host.process.poll() is None and time.monotonic() < deadline, (host.place / "host.log").read_text()
            time.sleep(0.05)
    one, other = hosts
    # A switch in the first: to the second, and to us, who are a driver of either that asks where a guest is.
    outside = f"cow{os.getpid()}"
    _ip(one, "link", "add", "cable", "type", "bridge")
    _ip(one, "link", "add", "port1", "type", "veth", "peer", "name", "cable", "netns", str(other.init))
    _ip(one, "link", "add", "port2", "type", "veth", "peer", "name", outside, "netns", str(os.getpid()))
    for port in ("port1", "port2"):
        _ip(one, "link", "set", port, "master", "cable", "up")
    subprocess.run(["ip", "address", "add", f"{OUTSIDE}/24", "dev", outside], check=True)
    subprocess.run(["ip", "link", "set", outside, "up"], check=True)
    for host in hosts:
        _ip(host, "address", "add", f"{host.address}/24", "dev", "cable")
        _ip(host, "link", "set", "cable", "up")
        # Each knows the other by its name too: that is what migrations are told.
        (host.place / "hosts").write_text(
            "127.0.0.1 localhost\n" + "".join(f"{one.address} {one.name}\n" for one in hosts)
        )
        subprocess.run(
            ["nsenter", "-t", str(host.init), "-m", "mount", "--bind", str(host.place / "hosts"), "/etc/hosts"],
            check=True,
        )


def _ip(host: Host, *words: str) -> None:
    subprocess.run(["nsenter", "-t", str(host.init), "-n", "ip", *words], check=True)


def _end(host: Host) -> None:
    """Its processes with it: they have a process namespace of their own."""
    try:
        os.kill(host.init, signal.SIGKILL)
    except (OSError, IndexError, ValueError):
        pass
    host.process.terminate()
    host.process.wait(20)
