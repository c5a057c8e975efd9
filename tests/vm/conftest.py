"""What the tests with real guests share: a libvirt of their own that knows no KVM, and the tiny guest as a domain."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.sax.saxutils import escape

import pytest

from cowshed.errors import CowshedError
from cowshed.hypervisor import Guest, Hypervisor, session
from cowshed.model.image import Image
from cowshed.tools import run
from tests import processes
from tests.vm import machines
from tests.vm.two_hosts import Host, missing, two_hosts

MakeXml = Callable[..., str]
MakeGuest = Callable[..., Guest]


def start_daemon(*, hide: bool = True) -> int:
    """Start a session daemon in this process's XDG directories that stays until it is ended; returns its pid."""
    folder = session.runtime_directory()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    program = run.require("libvirtd")
    root = os.geteuid() == 0
    words = session.command(program, folder, hide=hide, root=root)
    run.run([word for word in words if not word.startswith("--timeout=")], timeout=30, env=session.environment())
    deadline = time.monotonic() + 20
    while session.answering(folder) is None:
        assert time.monotonic() < deadline, "libvirtd did not answer"
        time.sleep(0.02)
    return int((folder / "libvirtd.pid").read_text())


def end(pid: int, number: int = signal.SIGTERM) -> None:
    """Send ``number`` to a daemon or a guest of the XDG directories as they are, and wait until it is gone."""
    processes.end(pid, Path(os.environ["XDG_RUNTIME_DIR"]).parent, number)


@pytest.fixture(scope="session")
def libvirt_uri() -> Iterator[str]:
    """The address of a private session daemon that sees no KVM. It also answers ``qemu:///session`` in this process."""
    if run.find("libvirtd") is None:
        pytest.skip("needs libvirtd: see scripts/packages.sh")
    pid = start_daemon()
    yield f"qemu+unix:///session?socket={session.runtime_directory()}/libvirt-sock"
    end(pid)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """XDG directories of this test alone, with a path short enough for sockets. Their daemon ends with the test."""
    place = Path(tempfile.mkdtemp(prefix="cowshed-", dir="/tmp"))
    for variable in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"):
        folder = place / variable[4:7].lower()
        folder.mkdir(mode=0o700)
        monkeypatch.setenv(variable, str(folder))
    yield place
    processes.end_all(place)
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    """Two libvirt hosts, joined by a cable; see ``two_hosts``. They start in two seconds."""
    if reason := missing():
        pytest.skip(reason)
    with two_hosts() as both:
        yield both


@pytest.fixture(autouse=True)
def _instances_end_with_their_test() -> Iterator[None]:
    """Those of the module's fixtures stay. Else guests that nobody looks at any more would boot, and idle, beside all others."""
    before = [(one, one.made()) for one in machines.OPEN]
    yield
    for one, kept in before:
        if one in machines.OPEN:
            one.end(kept)


@pytest.fixture(scope="module")
def house(libvirt_uri: str, guest_dir: Path) -> Iterator[machines.Machines]:
    """A driver with the usual configuration; a file that needs another has its own."""
    with machines.machines(libvirt_uri, guest_dir) as made:
        yield made


@pytest.fixture(scope="module")
def tiny(house: machines.Machines) -> Image:
    return house.image()


@pytest.fixture(scope="module")
def store() -> Iterator[Path]:
    """Where the storage keeps its files: not below pytest's directory, where a QEMU of another user could not enter."""
    place = Path(tempfile.mkdtemp(prefix="cowshed-store-", dir="/tmp"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def hypervisor(libvirt_uri: str) -> Iterator[Hypervisor]:
    with Hypervisor(libvirt_uri) as opened:
        yield opened


@pytest.fixture
def tiny_xml(guest_dir: Path, tmp_path: Path) -> MakeXml:
    """Makes the XML of a tiny guest: ``tiny_xml("name", agent=True, log=path, devices="<more/>")``."""

    def make(
        name: str = "tiny", *, identity: str = "", agent: bool = False, log: Path | None = None, devices: str = ""
    ) -> str:
        initramfs = guest_dir / ("initramfs-agent" if agent else "initramfs")
        log = log or tmp_path / "console.log"
        channel = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
        return f"""
<domain type='qemu'>
  <name>{escape(name)}</name><uuid>{identity or uuid.uuid4()}</uuid>
  <memory unit='MiB'>{192 if agent else 128}</memory><vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{guest_dir}/vmlinuz</kernel><initrd>{initramfs}</initrd><cmdline>{machines.KERNEL_OPTIONS}</cmdline>
  </os>
  <features><acpi/></features>
  <devices>
    <serial type='pty'><log file='{log}' append='off'/></serial>
    {channel if agent else ""}{devices}
  </devices>
</domain>"""

    return make


@pytest.fixture
def tiny_guest(hypervisor: Hypervisor, tiny_xml: MakeXml) -> Iterator[MakeGuest]:
    """Defines tiny guests (the arguments are those of ``tiny_xml``); they are gone after the test."""
    made: list[Guest] = []

    def make(name: str = "tiny", **options: object) -> Guest:
        made.append(hypervisor.define(tiny_xml(name, **options)))
        return made[-1]

    yield make
    for guest in made:
        for clean in (guest.destroy, guest.undefine):
            try:
                clean()
            except CowshedError as error:
                print(f"clean-up of {guest.name}: {error}")
