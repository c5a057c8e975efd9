"""The tiny guest itself, under plain QEMU: what the other tests build on works in every way it is started."""

from __future__ import annotations

import json
import re
import selectors
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.vm.machines import KERNEL_OPTIONS

OVMF = Path("/usr/share/OVMF")


class Machine:
    """A QEMU process with a serial line and a control socket."""

    def __init__(self, control: Path, *arguments: str) -> None:
        self._control = control
        self.text = ""
        self.process = subprocess.Popen(
            ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "256", "-display", "none", "-nodefaults",
             "-serial", "stdio", "-qmp", f"unix:{control},server=on,wait=off", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0,
        )  # fmt: skip
        self._selector = selectors.DefaultSelector()
        assert self.process.stdout is not None
        self._selector.register(self.process.stdout, selectors.EVENT_READ)

    def wait(self, pattern: str, timeout: float = 60) -> str:
        """Returns the first line of the serial output in which ``pattern`` is found."""
        deadline = time.monotonic() + timeout
        while (found := re.search(rf"^.*{pattern}.*\r?\n", self.text, re.MULTILINE)) is None:
            assert time.monotonic() < deadline, f"no {pattern!r} within {timeout} s in:\n{self.text}"
            if self._selector.select(0.2):
                assert self.process.stdout is not None
                data = self.process.stdout.read(65536)
                assert data, f"QEMU ended before {pattern!r}:\n{self.text}"
                self.text += data.decode(errors="replace")
        return found.group().strip()

    def qmp(self, command: str, **arguments: Any) -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(self._control))
            stream = connection.makefile("rw")
            for line in ({"execute": "qmp_capabilities"}, {"execute": command, "arguments": arguments}):
                stream.write(json.dumps(line) + "\n")
                stream.flush()
                while True:
                    answer = json.loads(stream.readline())
                    assert "error" not in answer, answer
                    if "return" in answer:
                        break

    def close(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self._selector.close()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


@contextmanager
def machine(place: Path, *arguments: str) -> Iterator[Machine]:
    made = Machine(place / "qmp", *arguments)
    try:
        yield made
    finally:
        made.close()


def disk(file: Path) -> list[str]:
    return ["-drive", f"if=none,id=root,format=raw,file={file}", "-device", "virtio-blk-pci,drive=root"]


def test_kernel_boot(guest_dir: Path, tmp_path: Path) -> None:
    kernel = [
        "-kernel",
        str(guest_dir / "vmlinuz"),
        "-initrd",
        str(guest_dir / "initramfs"),
        "-append",
        KERNEL_OPTIONS,
    ]
    with machine(tmp_path, *kernel) as guest:
        guest.wait("cowshed-guest: up")
        assert "cowshed-guest: firmware bios" in guest.text


def test_boots_are_counted_and_the_power_button_works(guest_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "disk"
    shutil.copy(guest_dir / "tiny.raw", copy)
    for count, board in ((1, "pc"), (2, "q35")):
        with machine(tmp_path, "-M", board, *disk(copy)) as guest:
            guest.wait("cowshed-guest: up")
            assert f"cowshed-guest: boot {count}\r\n" in guest.text
            assert re.search(r"cowshed-guest: disk vda 67108864 rw\r\n", guest.text)
            guest.qmp("system_powerdown")
            guest.wait("cowshed-guest: down")
            assert guest.process.wait(20) == 0


@pytest.mark.skipif(not (OVMF / "OVMF_CODE_4M.fd").exists(), reason="needs UEFI firmware: package ovmf")
def test_uefi_boot(guest_dir: Path, tmp_path: Path) -> None:
    shutil.copy(OVMF / "OVMF_VARS_4M.fd", tmp_path / "vars")
    firmware = [
        "-drive", f"if=pflash,format=raw,readonly=on,file={OVMF / 'OVMF_CODE_4M.fd'}",
        "-drive", f"if=pflash,format=raw,file={tmp_path / 'vars'}",
    ]  # fmt: skip
    with machine(tmp_path, "-M", "q35", "-snapshot", *firmware, *disk(guest_dir / "tiny.raw")) as guest:
        guest.wait("cowshed-guest: up", timeout=120)
        assert "cowshed-guest: firmware uefi" in guest.text


def test_seed_network_and_hotplug(guest_dir: Path, tmp_path: Path) -> None:
    seed = tmp_path / "seed"
    seed.mkdir()
    (seed / "meta-data").write_text("instance-id: i-42\nlocal-hostname: web\n")
    (seed / "user-data").write_text("#!/bin/sh\necho from the user data\n")
    drive = tmp_path / "seed.img"
    drive.touch()
    subprocess.run(["truncate", "-s", "1M", str(drive)], check=True, timeout=10)
    subprocess.run(["mformat", "-i", str(drive), "-v", "cidata", "::"], check=True, timeout=10)
    subprocess.run(["mcopy", "-i", str(drive), *map(str, seed.iterdir()), "::"], check=True, timeout=10)
    extra = tmp_path / "extra"
    subprocess.run(["truncate", "-s", "10M", str(extra)], check=True, timeout=10)
    devices = [
        "-drive", f"if=none,id=seed,format=raw,readonly=on,file={drive}", "-device", "virtio-blk-pci,drive=seed",
        "-nic", "user,model=virtio-net-pci", "-device", "pcie-root-port,id=free,slot=1",
    ]  # fmt: skip
    with machine(tmp_path, "-M", "q35", "-snapshot", *disk(guest_dir / "tiny.raw"), *devices) as guest:
        guest.wait("cowshed-guest: up")
        for line in ("seed vdb cidata", "instance-id i-42", "hostname web", "user-data 0"):
            assert f"cowshed-guest: {line}\r\n" in guest.text
        assert "\nfrom the user data\r\n" in guest.text
        guest.wait(r"cowshed-guest: net eth0 10\.0\.2\.15")

        guest.qmp(
            "blockdev-add", driver="raw", **{"node-name": "extra"}, file={"driver": "file", "filename": str(extra)}
        )
        guest.qmp("device_add", driver="virtio-blk-pci", drive="extra", id="extra", bus="free", serial="s1")
        guest.wait("cowshed-guest: disk vdc 10485760 rw serial s1")
        guest.qmp("block_resize", **{"node-name": "extra"}, size=20 << 20)
        guest.wait("cowshed-guest: disk vdc 20971520")
        guest.qmp("device_del", id="extra")
        guest.wait("cowshed-guest: disk vdc gone")
