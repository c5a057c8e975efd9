"""What the machine starts from: BIOS, UEFI with or without secure boot, or a kernel."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cowshed.config import GuestSection
from cowshed.domain.naming import Machine
from cowshed.domain.os import Os
from cowshed.domain.properties import Properties
from cowshed.errors import HostUnsuitable, InvalidRequest
from cowshed.model.host import Firmware, HostCapabilities

NVRAM: Final = "nvram.fd"
MENU: Final = 5000  # milliseconds the boot menu waits


@dataclass(frozen=True, slots=True)
class KernelBoot:
    """A kernel and perhaps its ramdisk, as files of the instance; ``cmdline`` "" means the default."""

    kernel: Path
    ramdisk: Path | None = None
    cmdline: str = ""


def choose(properties: Properties, guest: GuestSection, host: HostCapabilities, family: Machine) -> Firmware | None:
    """The UEFI firmware, None for BIOS.

    :raises InvalidRequest: secure boot on a machine or with a firmware that has none
    :raises HostUnsuitable: there is no such firmware here
    """
    secure = properties.word("os_secure_boot", "disabled", ("required", "optional", "disabled"))
    default = "uefi" if secure == "required" else guest.firmware
    kind = properties.word("hw_firmware_type", default, ("bios", "uefi"))
    if kind == "bios":
        if secure == "required":
            raise InvalidRequest(reason="os_secure_boot=required contradicts hw_firmware_type=bios")
        return None
    if secure == "required" and family != Machine.Q35:
        raise InvalidRequest(reason="secure boot needs a q35 machine", hint="set hw_machine_type=q35")
    plain = [one for one in host.firmwares if not one.secure_boot]
    signed = [one for one in host.firmwares if one.secure_boot] if family == Machine.Q35 else []
    enforced = [one for one in signed if one.enrolled]  # without keys it would start anything
    found = {"required": enforced, "optional": enforced + signed + plain, "disabled": plain or signed}[secure]
    if not found:
        what = "UEFI firmware with secure boot and its keys" if secure == "required" else "UEFI firmware"
        raise HostUnsuitable(reason=f"there is no {what} here", hint="install it (Debian: ovmf)")
    return found[0]


def os(
    properties: Properties,
    *,
    host: HostCapabilities,
    machine: str,
    firmware: Firmware | None,
    directory: Path,
    kernel: KernelBoot | None,
    root: str,
) -> Os:
    """``<os>`` of an instance; its UEFI variables live in its ``directory``.

    :param root: the root disk's device name; the kernel's default command line names it
    """
    menu = properties.flag("hw_boot_menu")
    return Os(
        arch=host.arch,
        machine=machine,
        loader=firmware.loader if firmware else None,
        loader_readonly=True if firmware else None,
        loader_secure=True if firmware and firmware.secure_boot else None,
        loader_type="pflash" if firmware else None,
        nvram=directory / NVRAM if firmware else None,
        nvram_template=firmware.nvram_template if firmware else None,
        kernel=kernel.kernel if kernel else None,
        initrd=kernel.ramdisk if kernel else None,
        cmdline=_cmdline(properties, kernel, root) if kernel else None,
        bootmenu=menu,
        bootmenu_timeout=MENU if menu else None,
    )


def _cmdline(properties: Properties, kernel: KernelBoot, root: str) -> str:
    """What was asked for, else the root disk, and messages on the serial line, which is logged."""
    asked = kernel.cmdline or properties.text("os_command_line")
    return asked or " ".join([*([f"root=/dev/{root}"] if root else []), "ro", "console=tty0", "console=ttyS0"])
