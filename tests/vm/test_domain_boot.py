"""Assembled domains really boot: every machine, firmware and bus, with the devices that matter to the guest."""

from __future__ import annotations

import re
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pycdlib
import pytest

from cowshed.clock import Deadline, poll
from cowshed.config import GuestSection
from cowshed.domain import naming, read
from cowshed.domain.assemble import ConsolePlan, KernelBoot, assemble
from cowshed.domain.domain import Domain
from cowshed.errors import CowshedError, PortInUse
from cowshed.hypervisor import Guest, Hypervisor
from cowshed.model.disk import AttachedDisk, Bus, Device, DiskFormat, DiskSource, DiskType
from cowshed.model.flavor import Flavor
from cowshed.model.host import HostCapabilities, VirtType
from cowshed.model.image import Image
from cowshed.model.instance import Instance, PowerState
from cowshed.model.vif import PluggedVif, PortForward, Vif
from cowshed.tools import run
from cowshed.units import MiB
from tests.vm.machines import KERNEL_OPTIONS

MAC = "52:54:00:12:34:56"
Launch = Callable[..., "Running"]


class Running:
    """A guest and its console log, read by polling as a user's pager would."""

    def __init__(self, guest: Guest, log: Path) -> None:
        self.guest = guest
        self._log = log

    @property
    def text(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def wait(self, pattern: str, timeout: float = 90) -> str:
        deadline = time.monotonic() + timeout
        while (found := re.search(pattern, self.text)) is None:
            assert time.monotonic() < deadline, f"no {pattern!r} within {timeout} s in:\n{self.text[-3000:]}"
            time.sleep(0.1)
        return found.group()

    def live(self) -> Domain:
        return Domain.parse(self.guest.xml())


@pytest.fixture(scope="module")
def capabilities(libvirt_uri: str, tmp_path_factory: pytest.TempPathFactory) -> HostCapabilities:
    with Hypervisor(libvirt_uri) as hypervisor:
        return hypervisor.capabilities(
            cache=tmp_path_factory.mktemp("capabilities") / "capabilities.json", virt_type=VirtType.QEMU
        )


@pytest.fixture
def launch(hypervisor: Hypervisor, capabilities: HostCapabilities, tmp_path: Path) -> Iterator[Launch]:
    """Assembles, defines and starts a guest; it is gone after the test."""
    made: list[Guest] = []

    def start(
        disks: list[AttachedDisk] | None = None,
        properties: dict[str, str] | None = None,
        *,
        vifs: list[PluggedVif] | None = None,
        kernel: KernelBoot | None = None,
        memory: int = 192 * MiB,
        consoles: ConsolePlan | None = None,
        guest: GuestSection | None = None,
    ) -> Running:
        log = tmp_path / "console.log"
        instance = Instance(uuid=str(uuid.uuid4()), name=f"domain-{len(made)}", flavor=Flavor(memory=memory))
        domain = assemble(
            instance,
            Image(id="tiny", properties=properties or {}),
            disks=disks or [],
            vifs=vifs or [],
            host=capabilities,
            guest=guest or GuestSection(),
            consoles=consoles or ConsolePlan(log),
            directory=tmp_path,
            kernel=kernel,
        )
        made.append(hypervisor.define(domain.to_xml()))
        begin(made[-1])
        return Running(made[-1], log)

    yield start
    for guest in made:
        for clean in (guest.destroy, guest.undefine):
            try:
                clean()
            except CowshedError as error:
                print(f"clean-up of {guest.name}: {error}")


def begin(guest: Guest) -> None:
    """Start it. Another libvirt on this host may take the VNC port that ours has just found free: once more then."""
    try:
        guest.start()
    except PortInUse:
        guest.start()


def overlay(base: Path, path: Path) -> DiskSource:
    """A qcow2 overlay on the raw ``base``, with its chain."""
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(base), str(path)]
    subprocess.run(command, check=True, timeout=30)
    return DiskSource(DiskType.FILE, DiskFormat.QCOW2, path, backing=DiskSource(DiskType.FILE, DiskFormat.RAW, base))


def blank(path: Path, size: int) -> DiskSource:
    with path.open("wb") as file:
        file.truncate(size)
    return DiskSource(DiskType.FILE, DiskFormat.RAW, path)


def seed(path: Path) -> DiskSource:
    """A NoCloud seed: a small ISO image with the label cloud-init looks for."""
    files = {"meta-data": b"instance-id: i-1\nlocal-hostname: web\n", "user-data": b"#!/bin/sh\necho hello\n"}
    image = pycdlib.PyCdlib()
    image.new(interchange_level=4, vol_ident="cidata", joliet=3, rock_ridge="1.09")
    for name, data in files.items():
        image.add_fp(BytesIO(data), len(data), f"/{name}", rr_name=name, joliet_path=f"/{name}")
    image.write(str(path))
    image.close()
    return DiskSource(DiskType.FILE, DiskFormat.ISO, path)


def forwarded(port: int, guest_port: int) -> PluggedVif:
    return PluggedVif(Vif("user", MAC, forwards=(PortForward(port, guest_port),)), backend="slirp")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fetch(port: int, timeout: float = 30) -> bytes:
    """What HTTP on ``port`` answers; the forward accepts before the guest does, so it is asked again."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                connection.settimeout(5)
                connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
                data = b""
                while part := connection.recv(4096):
                    data += part
                if data:
                    return data
        except OSError:
            pass
        assert time.monotonic() < deadline, f"nothing answers on port {port}"
        time.sleep(0.2)


def test_disk_boot_with_all_that_an_instance_has(guest_dir: Path, tmp_path: Path, launch: Launch) -> None:
    port = free_port()
    disks = [
        AttachedDisk(overlay(guest_dir / "tiny.raw", tmp_path / "disk"), "vda", boot_order=1, discard="unmap"),
        AttachedDisk(blank(tmp_path / "data", 10 * MiB), "vdb", serial="data-1", alias="ua-data"),
        AttachedDisk(seed(tmp_path / "seed"), "vdc", readonly=True),
    ]
    guest = launch(disks, vifs=[forwarded(port, 80)], memory=256 * MiB)
    guest.wait("cowshed-guest: up")
    for line in ("firmware bios", "disk vda 67108864 rw", "disk vdb 10485760 rw serial data-1"):
        assert f"cowshed-guest: {line}" in guest.text
    assert re.search(r"cowshed-guest: disk vdc \d+ ro", guest.text)
    assert "cowshed-guest: seed vdc cidata" in guest.text
    assert "cowshed-guest: hostname web" in guest.text
    assert b"cowshed-guest" in fetch(port)

    domain = guest.live()
    vnc = domain.graphics[0]
    assert (vnc.type, vnc.listens[0].address) == ("vnc", "127.0.0.1")
    with socket.create_connection(("127.0.0.1", vnc.port), timeout=10) as connection:
        connection.settimeout(10)
        assert connection.recv(4) == b"RFB "

    found = read.disks(guest.guest.xml())
    assert [one.target for one in found] == ["vda", "vdb", "vdc"]
    assert found[0].source == disks[0].source
    assert [one.readonly for one in found] == [False, False, True]
    assert (found[1].serial, found[1].alias) == ("data-1", "ua-data")
    recovered = read.recover(guest.guest.xml())
    assert recovered is not None
    assert recovered.vifs == (forwarded(port, 80).vif,)


def test_console_is_logged_and_interactive_at_once(guest_dir: Path, launch: Launch) -> None:
    kernel = KernelBoot(guest_dir / "vmlinuz", guest_dir / "initramfs", KERNEL_OPTIONS)
    guest = launch(kernel=kernel)
    guest.wait("cowshed-guest: up")
    assert f"cowshed-guest: cmdline {KERNEL_OPTIONS}" in guest.text
    with guest.guest.open_console() as console:
        console.write(b"\r")
        time.sleep(0.5)
        console.write(b"echo typed-$((40 + 2))\r")
        deadline, heard = time.monotonic() + 20, b""
        while b"typed-42" not in heard:
            assert time.monotonic() < deadline, heard
            heard += console.read(timeout=1)
    guest.wait("typed-42", timeout=10)  # the log comes through another process, a moment later


@pytest.mark.parametrize(
    ("name", "bus", "generic", "properties"),
    [
        ("sda", Bus.SATA, True, {}),
        ("sda", Bus.SCSI, False, {}),
        ("hda", Bus.IDE, False, {"hw_machine_type": "pc"}),
        ("vda", Bus.VIRTIO, False, {"hw_machine_type": "pc"}),
    ],
    ids=["q35-sata", "q35-scsi", "pc-ide", "pc-virtio"],
)
def test_buses(
    name: str,
    bus: Bus,
    generic: bool,
    properties: dict[str, str],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    launch: Launch,
) -> None:
    folder: Path = request.getfixturevalue("guest_dir_generic" if generic else "guest_dir")
    port = free_port()
    cdrom = {"sda": "sdb", "hda": "hdb", "vda": "hda"}[name]
    cdrom_bus = Bus.IDE if cdrom.startswith("hd") else bus
    disks = [
        AttachedDisk(overlay(folder / "tiny.raw", tmp_path / "disk"), name, bus=bus, boot_order=1),
        AttachedDisk(seed(tmp_path / "seed"), cdrom, bus=cdrom_bus, device=Device.CDROM, readonly=True),
    ]
    guest = launch(disks, properties, vifs=[forwarded(port, 80)])
    guest.wait("cowshed-guest: up")
    assert re.search(r"cowshed-guest: disk [svh]d[a-z] 67108864 rw", guest.text)
    assert "cowshed-guest: seed sr0 cidata" in guest.text
    assert b"cowshed-guest" in fetch(port)


@pytest.mark.parametrize("machine", ["q35", "pc"])
def test_uefi(machine: str, guest_dir: Path, tmp_path: Path, capabilities: HostCapabilities, launch: Launch) -> None:
    if not capabilities.firmwares:
        pytest.skip("needs UEFI firmware: package ovmf")
    disk = AttachedDisk(overlay(guest_dir / "tiny.raw", tmp_path / "disk"), "vda", boot_order=1)
    guest = launch([disk], {"hw_machine_type": machine, "hw_firmware_type": "uefi"})
    guest.wait("cowshed-guest: up", timeout=180)
    assert "cowshed-guest: firmware uefi" in guest.text
    assert (tmp_path / "nvram.fd").stat().st_size > 0
    guest.guest.destroy()
    guest.guest.undefine()
    assert not (tmp_path / "nvram.fd").exists()


def test_many_scsi_disks_share_one_controller(guest_dir: Path, tmp_path: Path, launch: Launch) -> None:
    names = [f"sd{letter}" for letter in "abcdefghij"]
    disks = [AttachedDisk(blank(tmp_path / name, MiB), name, bus=Bus.SCSI) for name in names]
    guest = launch(disks, kernel=KernelBoot(guest_dir / "vmlinuz", guest_dir / "initramfs", KERNEL_OPTIONS))
    guest.wait("cowshed-guest: up")
    assert sorted(re.findall(r"disk (sd\w) 1048576 rw", guest.text)) == names
    assert [one.model for one in guest.live().controllers if one.type == "scsi"] == ["virtio-scsi"]


def test_the_agent_and_rarer_devices(
    guest_dir: Path, tmp_path: Path, capabilities: HostCapabilities, launch: Launch
) -> None:
    port = free_port()
    properties = {
        "hw_watchdog_action": "reset",
        "hw_boot_menu": "true",
        "hw_serial_port_count": "2",
        "hw_video_model": "virtio" if "virtio" in capabilities.video_models else "vga",
        "hw_input_bus": "virtio",
        "hw_time_hpet": "true",
    }
    if run.find("swtpm"):
        properties["hw_tpm_version"] = "2.0"
    consoles = ConsolePlan(tmp_path / "console.log", spice="spice" in capabilities.graphics, serial_ports=(port,))
    guest = launch(
        kernel=KernelBoot(guest_dir / "vmlinuz", guest_dir / "initramfs-agent", KERNEL_OPTIONS),
        properties=properties,
        consoles=consoles,
        memory=320 * MiB,
        vifs=[PluggedVif(Vif("user", MAC), backend="slirp")],
    )
    guest.wait("cowshed-guest: up")
    guest.wait(r"cowshed-guest: net \w+ 10\.0\.2\.15")
    guest.wait("cowshed-guest: agent")  # which answers a moment later
    poll(guest.guest.agent.ping, Deadline(30, "an answer of the agent"))
    assert read.interfaces(guest.guest.xml())[0].address == MAC
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.settimeout(20)
        connection.sendall(b"\r")
        assert connection.recv(100)


def test_secure_boot_is_defined_and_starts(tmp_path: Path, capabilities: HostCapabilities, launch: Launch) -> None:
    if not any(one.secure_boot for one in capabilities.firmwares):
        pytest.skip("needs UEFI firmware with secure boot: package ovmf")
    guest = launch(properties={"os_secure_boot": "required"})
    domain = guest.live()
    assert domain.os is not None
    assert domain.os.loader_secure
    assert domain.features is not None
    assert domain.features.smm


def test_disks_and_interfaces_can_be_added_while_it_runs(
    guest_dir: Path, tmp_path: Path, hypervisor: Hypervisor, launch: Launch
) -> None:
    from cowshed.domain.disk import disk

    guest = launch(kernel=KernelBoot(guest_dir / "vmlinuz", guest_dir / "initramfs", KERNEL_OPTIONS))
    guest.wait("cowshed-guest: up")
    for number in range(4):
        added = disk(
            AttachedDisk(blank(tmp_path / f"added{number}", MiB), f"vd{chr(97 + number)}", serial=f"h{number}")
        )
        guest.guest.call("attach a disk to", lambda d, added=added: d.attachDeviceFlags(added.to_xml(), 1))
        guest.wait(rf"disk vd\w 1048576 rw serial h{number}", timeout=30)


def test_windows_is_given_what_it_knows(guest_dir: Path, launch: Launch) -> None:
    """Not booted here; QEMU takes all of it and the machine runs."""
    guest = launch(
        properties={"os_type": "windows", "hw_disk_bus": "sata", "hw_vif_model": "e1000e"},
        vifs=[PluggedVif(Vif("user", MAC), backend="slirp", model="virtio")],
        kernel=KernelBoot(guest_dir / "vmlinuz", guest_dir / "initramfs", KERNEL_OPTIONS),
    )
    guest.wait("cowshed-guest: up")
    clock = guest.live().clock
    assert clock is not None
    assert clock.offset == "localtime"
    assert guest.live().interfaces[0].model == "e1000e"


def test_qemu_knows_every_card_we_give_it(launch: Launch) -> None:
    """With forwards the card is named to QEMU by us, not by libvirt."""
    for model in naming.VIF_MODELS:
        guest = launch(properties={"hw_vif_model": model}, vifs=[forwarded(free_port(), 22)])
        assert guest.guest.state() == PowerState.RUNNING
        guest.guest.destroy()


@pytest.mark.parametrize("machine", ["q35", "pc"])
def test_many_devices_find_room(machine: str, guest_dir: Path, tmp_path: Path, launch: Launch) -> None:
    """As many virtio disks as there are names for, and interfaces at our own places on the bus."""
    most = {"q35": 26, "pc": 23}[machine]
    names = naming.Names()
    disks = [AttachedDisk(blank(tmp_path / f"{n}", MiB), names.take(Bus.VIRTIO)) for n in range(most)]
    vifs = [
        PluggedVif(Vif(f"{n}", f"52:54:00:12:34:0{n}", forwards=(PortForward(free_port(), 80),)), backend="slirp")
        for n in range(2)
    ]
    kernel = KernelBoot(guest_dir / "vmlinuz", guest_dir / "initramfs", KERNEL_OPTIONS)
    guest = launch(disks, {"hw_machine_type": machine}, vifs=vifs, kernel=kernel, memory=320 * MiB)
    guest.wait("cowshed-guest: up")
    assert len(re.findall(r"cowshed-guest: disk vd\w 1048576 rw", guest.text)) == most
    assert len(re.findall(r"cowshed-guest: nic eth\d", guest.text)) == 2


def test_a_usb_disk(guest_dir_generic: Path, tmp_path: Path, launch: Launch) -> None:
    disk = AttachedDisk(blank(tmp_path / "disk", MiB), "sda", Bus.USB)
    kernel = KernelBoot(guest_dir_generic / "vmlinuz", guest_dir_generic / "initramfs", KERNEL_OPTIONS)
    guest = launch([disk], kernel=kernel, consoles=ConsolePlan(tmp_path / "console.log", vnc=False))
    guest.wait("cowshed-guest: up")
    assert [one.model for one in guest.live().controllers if one.type == "usb"] == ["qemu-xhci"]
