"""One domain from an instance, its disks and interfaces, and what the host can do: a pure function.

Everything that is wrong with the request is found here, before anything on the host is touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cowshed.config import GuestSection
from cowshed.domain import channel, firmware, memballoon, naming, topology, tpm, watchdog
from cowshed.domain.channel import Channel
from cowshed.domain.clock import clock
from cowshed.domain.commandline import commandline
from cowshed.domain.controller import Controller, controllers
from cowshed.domain.disk import Disk, disk
from cowshed.domain.domain import Domain
from cowshed.domain.features import features
from cowshed.domain.firmware import KernelBoot
from cowshed.domain.graphics import graphics
from cowshed.domain.input import Input
from cowshed.domain.interface import interface
from cowshed.domain.memballoon import Memballoon
from cowshed.domain.metadata import metadata
from cowshed.domain.naming import Machine
from cowshed.domain.properties import Properties
from cowshed.domain.rng import Rng
from cowshed.domain.serial import Serial, serials
from cowshed.domain.tpm import Tpm
from cowshed.domain.video import Video
from cowshed.domain.watchdog import Watchdog
from cowshed.errors import InvalidRequest, UnsupportedOperation
from cowshed.model.disk import AttachedDisk, Bus, Device
from cowshed.model.host import HostCapabilities, VirtType
from cowshed.model.image import Image
from cowshed.model.instance import Instance
from cowshed.model.vif import PluggedVif, VifType
from cowshed.units import MiB

__all__ = ["ConsolePlan", "KernelBoot", "assemble"]

SERIAL_PORTS: Final = 4  # what a PC has


@dataclass(frozen=True, slots=True)
class ConsolePlan:
    """Which consoles an instance gets. ``log`` is the file of the first serial port; ``serial_ports``
    are TCP ports on ``listen`` for its serial ports, instead of a pty.
    """

    log: Path
    vnc: bool = True
    spice: bool = False
    listen: str = "127.0.0.1"
    serial_ports: tuple[int, ...] = ()


def assemble(
    instance: Instance,
    image: Image,
    *,
    disks: Sequence[AttachedDisk],
    vifs: Sequence[PluggedVif],
    host: HostCapabilities,
    guest: GuestSection,
    consoles: ConsolePlan,
    directory: Path,
    kernel: KernelBoot | None = None,
) -> Domain:
    """The domain of ``instance``.

    :param directory: the instance's own; UEFI variables are kept there
    :raises InvalidRequest: values are wrong or contradict each other
    :raises UnsupportedOperation: :raises HostUnsuitable: this host cannot do it
    """
    return _Assembly(instance, image, disks, vifs, host, guest, consoles, directory, kernel).domain()


@dataclass(frozen=True)
class _Assembly:
    """The arguments, so that each part of the domain is a small method."""

    instance: Instance
    image: Image
    attached: Sequence[AttachedDisk]
    vifs: Sequence[PluggedVif]
    host: HostCapabilities
    guest: GuestSection
    consoles: ConsolePlan
    directory: Path
    kernel: KernelBoot | None

    @property
    def properties(self) -> Properties:
        return Properties.of(self.image, self.instance)

    @property
    def machine(self) -> str:
        return naming.machine_type(self.properties, self.guest)

    @property
    def pcie(self) -> bool:
        return naming.machine(self.machine) == Machine.Q35

    @property
    def kvm(self) -> bool:
        return self.host.virt_type == VirtType.KVM

    @property
    def windows(self) -> bool:
        return (self.properties.text("os_type") or self.instance.os_type).lower() == "windows"

    @property
    def seen(self) -> bool:
        """Does anybody see its screen?"""
        return self.consoles.vnc or self.consoles.spice

    def domain(self) -> Domain:
        self._check()
        flavor, properties = self.instance.flavor, self.properties
        family = naming.machine(self.machine)
        loader = firmware.choose(properties, self.guest, self.host, family)
        disks = tuple(disk(one) for one in self.attached)
        modelled = [(one, self._model(one)) for one in self.vifs if one.vif.type != VifType.NONE]
        raw = [(one, model) for one, model in modelled if _is_raw(one)]
        interfaces = tuple(interface(one, model=model) for one, model in modelled if not _is_raw(one))
        inputs, channels, rngs = self._inputs(), self._channels(), self._rngs()
        return Domain(
            type=self.host.virt_type.value,
            name=self.instance.name,
            uuid=self.instance.uuid,
            title=_title(self.instance),
            metadata=metadata(self.instance, self.image, self.vifs),
            memory=flavor.memory,
            current_memory=flavor.memory,
            vcpus=flavor.vcpus,
            os=firmware.os(
                properties,
                host=self.host,
                machine=self.machine,
                firmware=loader,
                directory=self.directory,
                kernel=self.kernel,
                root=_root(self.attached),
            ),
            features=features(
                kvm=self.kvm,
                windows=self.windows,
                secure_boot=bool(loader and loader.secure_boot),
                pmu=properties.flag("hw_pmu"),
                hidden=bool(properties.flag("img_hide_hypervisor_id") or properties.flag("hw_hide_hypervisor_id")),
            ),
            cpu=topology.cpu(properties, flavor.vcpus, guest=self.guest, host=self.host, windows=self.windows),
            clock=clock(windows=self.windows, kvm=self.kvm, hpet=bool(properties.flag("hw_time_hpet"))),
            on_poweroff="destroy",
            on_reboot="restart",
            on_crash="destroy",
            emulator=self.host.emulator,
            disks=disks,
            controllers=self._controllers(disks, inputs, len(interfaces) + len(rngs) + bool(channels)),
            interfaces=interfaces,
            serials=self._serials(),
            channels=channels,
            inputs=inputs,
            graphics=tuple(graphics(kind, self.consoles.listen) for kind in self._graphics()),
            videos=(self._video(),),
            rngs=rngs,
            memballoon=Memballoon(model="virtio", free_page_reporting=True, period=memballoon.PERIOD),
            watchdogs=self._watchdogs(),
            tpms=self._tpms(),
            commandline=commandline(raw, pcie=self.pcie),
        )

    def _check(self) -> None:
        name, flavor = self.instance.name, self.instance.flavor
        if not name or any(letter in name for letter in "/\n"):
            raise InvalidRequest(reason=f"{name!r} cannot name a domain", hint="use letters, digits, - and _")
        if flavor.memory < MiB:
            raise InvalidRequest(
                reason=f"{flavor.memory} bytes of memory run nothing", hint="ask for 512M, for example"
            )
        if self.host.machines and self.machine not in self.host.machines:
            raise UnsupportedOperation(
                subject="this host",
                operation=f"make a machine of type {self.machine}",
                reason="its QEMU does not have it",
                hint="use q35 or pc, which stand for the newest ones",
            )
        for what, values in (
            ("disk", [one.target for one in self.attached]),
            ("MAC", [v.vif.address for v in self.vifs]),
        ):
            if double := {one for one in values if values.count(one) > 1}:
                raise InvalidRequest(reason=f"{what} {', '.join(sorted(double))} is given twice")

    # --- devices ------------------------------------------------------------------------------

    def _model(self, plugged: PluggedVif) -> str:
        """The card the interface asks for, else the image, else the host's default."""
        return plugged.vif.model or naming.vif_model(self.image, plugged.model)

    def _controllers(self, disks: Sequence[Disk], inputs: Sequence[Input], devices: int) -> tuple[Controller, ...]:
        virtio = sum(one.bus == Bus.VIRTIO for one in disks)
        scsi = any(one.bus == Bus.SCSI for one in disks)
        usb = any(one.bus == "usb" for one in inputs) or any(one.bus == Bus.USB for one in disks)
        balloon = 1
        return tuple(
            controllers(
                disks,
                scsi=naming.scsi_model(self.image),
                usb=usb,
                pcie=self.pcie,
                devices=devices + virtio + scsi + usb + balloon,
            )
        )

    def _serials(self) -> tuple[Serial, ...]:
        count = self.properties.number("hw_serial_port_count", least=0, most=SERIAL_PORTS)
        return tuple(
            serials(
                self.consoles.log,
                count=max(1, count or 1),
                listen=self.consoles.listen,
                ports=self.consoles.serial_ports,
            )
        )

    def _channels(self) -> tuple[Channel, ...]:
        asked = self.properties.flag("hw_qemu_guest_agent")
        agent = self.guest.agent if asked is None else asked
        return tuple(
            Channel(type=kind, target="virtio", name=name)
            for kind, name, wanted in (
                ("unix", channel.AGENT, agent),
                ("spicevmc", channel.SPICE, self.consoles.spice),
            )
            if wanted
        )

    def _inputs(self) -> tuple[Input, ...]:
        """A pointer that is where the viewer's is; the keyboard is the machine's own."""
        pointer = self.properties.word("hw_pointer_model", "usbtablet", ("usbtablet", "ps2mouse"))
        bus = self.properties.word("hw_input_bus", "usb", ("usb", "virtio"))
        if not self.seen or pointer == "ps2mouse":
            return ()
        return (Input(type="tablet", bus=bus),)

    def _graphics(self) -> list[str]:
        kinds = [kind for kind, wanted in (("vnc", self.consoles.vnc), ("spice", self.consoles.spice)) if wanted]
        for kind in kinds:
            if kind not in self.host.graphics:
                raise UnsupportedOperation(
                    subject="QEMU on this host",
                    operation=f"offer {kind.upper()}",
                    reason="it was built, or is installed, without it",
                    hint="install its SPICE module (Debian: qemu-system-gui), or turn it off in [console]",
                )
        return kinds

    def _video(self) -> Video:
        """VGA shows something in every guest from its first instruction on."""
        default = "vga" if self.seen else "none"
        if self.consoles.spice and "qxl" in self.host.video_models:
            default = "qxl"
        model = self.properties.text("hw_video_model") or default
        if model not in ("none", default) and self.host.video_models and model not in self.host.video_models:
            raise UnsupportedOperation(
                subject="QEMU on this host",
                operation=f"make a {model} video card",
                reason=f"it has {', '.join(self.host.video_models)}",
                hint="change hw_video_model in the image's properties",
            )
        return Video(model=model, vram=self._vram())

    def _vram(self) -> int | None:
        """KiB; the image asks in MiB, within what the flavor allows."""
        asked = self.properties.number("hw_video_ram")
        allowed = int(self.instance.flavor.extra_specs.get("hw_video:ram_max_mb", 0) or 0)
        if asked and asked > allowed:
            raise InvalidRequest(
                reason=f"hw_video_ram: {asked} MiB is more than the {allowed} the flavor allows (hw_video:ram_max_mb)"
            )
        return asked * 1024 if asked else None

    def _rngs(self) -> tuple[Rng, ...]:
        asked = self.properties.text("hw_rng_model")
        allowed = self.instance.flavor.extra_specs.get("hw_rng:allowed", "true").lower() in ("true", "1", "yes")
        if not allowed or not (asked or self.guest.rng):
            return ()
        model = asked or "virtio"
        if self.host.rng_models and model not in self.host.rng_models:
            raise UnsupportedOperation(
                subject="QEMU on this host",
                operation=f"make a {model} random number generator",
                reason=f"it has {', '.join(self.host.rng_models)}",
            )
        limits = Properties(image=self.instance.flavor.extra_specs)
        rate, period = limits.number("hw_rng:rate_bytes", least=1), limits.number("hw_rng:rate_period", least=1)
        return (
            Rng(
                model=model,
                rate=rate,
                period=(period or 1000) if rate else None,
                backend="random",
                source=Path("/dev/urandom"),
            ),
        )

    def _watchdogs(self) -> tuple[Watchdog, ...]:
        action = self.properties.word("hw_watchdog_action", "disabled", ("disabled", *watchdog.ACTIONS))
        return () if action == "disabled" else (Watchdog(model="i6300esb", action=action),)

    def _tpms(self) -> tuple[Tpm, ...]:
        version = self.properties.word("hw_tpm_version", "", tuple(tpm.MODELS))
        if not version:
            return ()
        models = tpm.MODELS[version]
        model = self.properties.word("hw_tpm_model", models[0], models)
        return (Tpm(model=model, backend="emulator", version=version),)


def _is_raw(plugged: PluggedVif) -> bool:
    """Is it given to QEMU directly? See ``commandline``."""
    return plugged.vif.type == VifType.USER and plugged.backend != "passt" and bool(plugged.vif.forwards)


def _title(instance: Instance) -> str | None:
    return instance.display_name.replace("\n", " ") if instance.display_name not in ("", instance.name) else None


def _root(disks: Sequence[AttachedDisk]) -> str:
    """The disk that boots first, else the first one."""
    candidates = [one for one in disks if one.device == Device.DISK]
    first = min(candidates, key=lambda one: one.boot_order or len(disks) + 1, default=None)
    return first.target if first else ""
