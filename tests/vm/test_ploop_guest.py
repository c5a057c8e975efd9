"""A guest on ploop disks: it boots and writes, its QEMU is killed, it goes on; both kinds of data file."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from cowshed import clock
from cowshed.config import DisksSection
from cowshed.model.disk import DiskFormat
from cowshed.model.instance import Instance, PowerState
from cowshed.tools import ploop, qemu_lock
from tests.vm.machines import Machines, machines


@pytest.fixture(params=["raw", "expanded"])
def house(request: pytest.FixtureRequest, libvirt_uri: str, guest_dir: Path) -> Iterator[Machines]:
    with machines(libvirt_uri, guest_dir, disks=DisksSection(ploop_format=request.param)) as made:
        yield made


def booted(house: Machines, instance: Instance, times: int, before: int) -> int:
    house.wait(instance, rf"(?s)\A.{{{before},}}?boot {times}\b.*?cowshed-guest: up")
    return len(house.log(instance))


def killed(house: Machines, instance: Instance) -> None:
    """The guest's QEMU, as the kernel's hunt for memory would."""
    name = f"guest={house.driver.rooms.hypervisor.guest(instance.uuid).name}"
    found = [
        int(place.name)
        for place in Path("/proc").iterdir()
        if place.name.isdigit() and name in _words(place) and "qemu-system" in _words(place)
    ]
    assert len(found) == 1, found
    os.kill(found[0], signal.SIGKILL)
    clock.poll(lambda: house.state_of(instance) != PowerState.RUNNING, clock.Deadline(60, "the guest is gone"))


def _words(place: Path) -> str:
    try:
        return (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def test_a_guest_boots_from_ploop_and_goes_on_after_a_crash(house: Machines) -> None:
    instance = house.spawn(house.image(), backend="ploop")
    end = booted(house, instance, 1, 0)
    disk = house.driver.rooms.backend("ploop").disk(instance.uuid, "disk")
    path = disk.source().path
    assert path is not None
    expanded = disk.format == DiskFormat.PLOOP
    element = ET.fromstring(house.driver.rooms.hypervisor.guest(instance.uuid).xml()).find("devices/disk/driver")
    assert element is not None
    assert element.get("type") == ("ploop" if expanded else "raw")
    assert qemu_lock.held(path)
    if expanded:
        assert marked(path)
        disk.activate()  # nothing is repaired while it is open
        assert marked(path)
    killed(house, instance)
    assert marked(path) == expanded
    house.driver.power_on(None, instance, [])
    booted(house, instance, 2, end)  # what it wrote at the first boot is there
    house.driver.power_off(instance, timeout=60, retry_interval=5)
    if expanded:
        assert not marked(path)
        subprocess.run(["qemu-img", "check", "-f", "parallels", str(path)], check=True, capture_output=True)


def marked(path: Path) -> bool:
    """The data file says that it is open."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.pread(fd, 16, 0)[:7] == b"Without" and ploop.read_header(fd).in_use
    finally:
        os.close(fd)
