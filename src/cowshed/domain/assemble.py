"""One domain from an instance, its disks and interfaces, and what the host can do: a pure function.

Everything that is wrong with the request is found here, before anything on the host is touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cowshed.config import GuestSection
from cowshed.domain import (
    channel,
    firmware,
    graphics,
    memory,
    naming,
    promises,
    rng,
    serial,
    topology,
    tpm,
    video,
    watchdog,
)
from cowshed.domain.bandwidth import bandwidth
from cowshed.domain.clock import clock
from cowshed.domain.commandline import commandline
from cowshed.domain.consoles import ConsolePlan
from cowshed.domain.cputune import cputune
from cowshed.domain.disk import disk
from cowshed.domain.domain import Domain
from cowshed.domain.features import features
from cowshed.domain.filesystem import filesystem
from cowshed.domain.firmware import KernelBoot
from cowshed.domain.input import inputs
from cowshed.domain.interface import Interface, interface
from cowshed.domain.memballoon import MEMBALLOON
from cowshed.domain.metadata import metadata
from cowshed.domain.naming import Machine
from cowshed.domain.properties import Properties
from cowshed.domain.qos import by_disk, check_groups
from cowshed.domain.slots import controllers
from cowshed.errors import InvalidRequest, UnsupportedOperation
from cowshed.model.disk import AttachedDisk, Device
from cowshed.model.host import HostCapabilities, VirtType
from cowshed.model.image import Image
from cowshed.model.instance import Instance
from cowshed.model.share import OpenedShare, Share
from cowshed.model.vif import PluggedVif, Vif, VifType
from cowshed.units import MiB

__all__ = ["ConsolePlan", "KernelBoot", "assemble", "check"]

QUEUES: Final = 8  # pairs of an interface; more cost memory and help nobody


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
    shares: Sequence[OpenedShare] = (),
) -> Domain:
    """The domain of ``instance``.

    :param directory: the instance's own; UEFI variables are kept there
    :raises InvalidRequest: values are wrong or contradict each other
    :raises UnsupportedOperation: :raises HostUnsuitable: this host cannot do it
    """
    return _Assembly(instance, image, disks, vifs, host, guest, consoles, directory, kernel, shares).domain()


def check(
    instance: Instance,
    image: Image,
    *,
    vifs: Sequence[Vif],
    host: HostCapabilities,
    guest: GuestSection,
    consoles: ConsolePlan,
    shares: Sequence[Share] = (),
) -> None:
    """Everything ``assemble`` would refuse that does not depend on disks: call it before they are made.

    :raises InvalidRequest: :raises UnsupportedOperation: :raises HostUnsuitable: see ``assemble``
    """
    backend = "passt" if host.passt else "slirp"
    assemble(
        instance,
        image,
        disks=(),
        vifs=[PluggedVif(vif, backend=backend) for vif in vifs],
        host=host,
        guest=guest,
        consoles=consoles,
        directory=consoles.log.parent,
        shares=[OpenedShare(share, directory=consoles.log.parent) for share in shares],
    ).to_xml()
    by_disk(instance.flavor.extra_specs)


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
    shares: Sequence[OpenedShare]

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

    def domain(self) -> Domain:
        self._check()
        flavor, properties = self.instance.flavor, self.properties
        family = naming.machine(self.machine)
        loader = firmware.choose(properties, self.guest, self.host, family)
        modelled = [(one, self._model(one)) for one in self.vifs if one.vif.type != VifType.NONE]
        raw = [(one, model) for one, model in modelled if is_raw(one)]
        limits = bandwidth(properties)
        interfaces = tuple(
            interface(one, model=model, queues=self._queues(), bandwidth=limits)
            for one, model in modelled
            if limits or not is_raw(one)
        )
        domain = Domain(
            type=self.host.virt_type.value,
            name=self.instance.name,
            uuid=self.instance.uuid,
            title=_title(self.instance),
            metadata=metadata(self.instance, self.image, self.vifs),
            memory=flavor.memory,
            current_memory=flavor.memory,
            memory_backing=memory.SHARED if self.shares else None,
            vcpus=flavor.vcpus,
            iothreads=max((one.iothread or 0 for one in self.attached), default=0) or None,
            cputune=cputune(properties, self.host),
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
            disks=tuple(disk(one) for one in self.attached),
            filesystems=tuple(filesystem(one) for one in self.shares),
            interfaces=interfaces,
            serials=serial.serials(properties, self.consoles),
            channels=channel.channels(properties, self.guest, spice=self.consoles.spice),
            inputs=inputs(properties, seen=self.consoles.seen),
            graphics=graphics.graphics(self.consoles, self.host),
            videos=(video.video(properties, self.consoles, self.host),),
            rngs=rng.rngs(properties, self.guest, self.host),
            memballoon=MEMBALLOON,
            watchdogs=watchdog.watchdogs(properties),
            tpms=tpm.tpms(properties, self.host),
            commandline=commandline(raw, pcie=self.pcie),
        )
        scsi = naming.scsi_model(self.image)
        return replace(domain, controllers=controllers(domain, scsi=scsi, pcie=self.pcie, raw=len(raw)))

    def _check(self) -> None:
        name, flavor = self.instance.name, self.instance.flavor
        promises.refuse(self.properties)
        check_groups((one.target, one.iotune) for one in self.attached)
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
        return _model(plugged, self.image)

    def _queues(self) -> int | None:
        return _queues(self.properties, self.instance.flavor.vcpus)


def hot_interface(instance: Instance, image: Image, plugged: PluggedVif) -> Interface:
    """An interface for a guest that is there already, as :func:`assemble` would make it.

    :raises InvalidRequest: :raises UnsupportedOperation: see ``interface``
    """
    properties = Properties.of(image, instance)
    return interface(
        plugged,
        model=_model(plugged, image),
        queues=_queues(properties, instance.flavor.vcpus),
        bandwidth=bandwidth(properties),
    )


def _model(plugged: PluggedVif, image: Image) -> str:
    """The card the interface asks for, else the image, else the host's default."""
    return plugged.vif.model or naming.vif_model(image, plugged.model)


def _queues(properties: Properties, vcpus: int) -> int | None:
    """One pair for each CPU, where the image says that its guest can use them."""
    return min(vcpus, QUEUES) if vcpus > 1 and properties.flag("hw_vif_multiqueue_enabled") else None


def is_raw(plugged: PluggedVif) -> bool:
    """Is it given to QEMU directly? See ``commandline``."""
    return plugged.vif.type == VifType.USER and plugged.backend != "passt" and bool(plugged.vif.forwards)


def _title(instance: Instance) -> str | None:
    return instance.display_name.replace("\n", " ") if instance.display_name not in ("", instance.name) else None


def _root(disks: Sequence[AttachedDisk]) -> str:
    """The disk that boots first, else the first one."""
    candidates = [one for one in disks if one.device == Device.DISK]
    first = min(candidates, key=lambda one: one.boot_order or len(disks) + 1, default=None)
    return first.target if first else ""
