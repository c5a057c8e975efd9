"""The doctor's round: what can be seen without libvirt first, then what libvirt says."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from cowshed.driver.steps import examine_storage
from cowshed.errors import ConfigError, CowshedError
from cowshed.model.host import Finding, HostCapabilities, VirtType

if TYPE_CHECKING:
    from cowshed.driver.rooms import Rooms

_NO_IMAGE: Final = "cowshed-doctor"  # it is only asked about


def host(rooms: Rooms) -> list[Finding]:
    """Findings in the order a reader wants; a check that fails becomes a finding."""
    from cowshed.host import doctor
    from cowshed.tools import reflink

    config = rooms.config
    findings = doctor.local(
        state=rooms.state,
        kvm_state=rooms.kvm,
        virt_type=config.host.virt_type,
        emulator_path=config.host.emulator,
    )
    findings += doctor.state_directory(rooms.state, qemu_user=_qemu_user(rooms))
    findings += doctor.reflinks(rooms.state, works=reflink.possible(rooms.instances))
    findings += _image_service(rooms)
    findings += examine_storage.backends(rooms)
    findings += _libvirt(rooms)
    return findings + doctor.leftovers(_leftovers(rooms), remedy="they are removed by the next cowshed run")


def _image_service(rooms: Rooms) -> list[Finding]:
    """Asked once: who looks at a host does not want to wait for one that is down."""
    if rooms.config.images.service != "glance":
        return []
    from cowshed.host import doctor
    from cowshed.images.glance import GlanceService

    service = GlanceService(replace(rooms.config.glance, retries=0), rooms.config.images)
    try:
        service.list(name=_NO_IMAGE)
        return doctor.image_service(service.client.url)
    except CowshedError as error:
        return doctor.image_service(service.client.url, error=str(error), hint=error.hint or "")
    finally:
        service.close()


def _qemu_user(rooms: Rooms) -> tuple[int, int] | None:
    """Who must be able to enter the state directory; that libvirt is not there is told further down."""
    try:
        return rooms.hypervisor.qemu_user()
    except CowshedError:
        return None


def _libvirt(rooms: Rooms) -> list[Finding]:
    from cowshed.host import doctor, emulator

    if not doctor.bound():  # which is told already
        return doctor.daemon(rooms.uri)
    try:
        rooms.hypervisor.open()
        networks = {network.name: network.active for network in rooms.hypervisor.networks()}
        capabilities, useless = _capabilities(rooms)
    except CowshedError as error:
        return doctor.libvirt(rooms.uri, error=str(error), hint=error.hint or "")
    told = not useless or emulator.unusable(rooms.config.host.emulator)
    state = None if "default" not in networks else "active" if networks["default"] else "inactive"
    return [
        *([] if told else doctor.unusable_emulator(useless)),
        *doctor.libvirt(rooms.uri, version=capabilities.libvirt),
        *doctor.firmware(capabilities.firmwares),
        *doctor.tpm(capabilities.tpm_versions),
        *doctor.shares(session=capabilities.session),
        *doctor.user_network(passt=capabilities.passt),
        *doctor.default_network(state, session=capabilities.session),
        *([] if useless else examine_storage.reached(rooms)),
    ]


def _capabilities(rooms: Rooms) -> tuple[HostCapabilities, str]:
    """What guests may use, and why that is not asked of the emulator that is configured ("": it is).

    Where that one is of no use, it is the one that libvirt names.
    """
    try:
        return rooms.capabilities, ""
    except ConfigError as error:
        own = rooms.hypervisor.capabilities(cache=rooms.facts / "capabilities.json", virt_type=VirtType.QEMU)
        return own, error.reason


def _leftovers(rooms: Rooms) -> list[str]:
    if not os.access(rooms.instances, os.R_OK | os.X_OK):  # which is told already
        return []
    return sorted(path.name for path in rooms.instances.glob("*_del"))
