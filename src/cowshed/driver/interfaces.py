"""Interfaces: attached and detached with the guest running or not, their host side, their link."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cowshed import log
from cowshed.contract.interfaces import Interfaces as InterfacesContract
from cowshed.contract.types import NetworkInfo
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import connect, devices, filtering, locate, nics, tagged
from cowshed.errors import CowshedError, InvalidRequest, InvalidState, UnsupportedOperation
from cowshed.model.image import Image
from cowshed.model.instance import Instance, PowerState
from cowshed.model.vif import PluggedVif, Vif, VifType
from cowshed.undo import Undo

if TYPE_CHECKING:
    from cowshed.domain.read import PluggedInterface
    from cowshed.hypervisor.guest import Guest

_log = log.logger(__name__)

NETWORK_FILE = "/run/cowshed/network_data.json"  # in the guest


class Interfaces(InterfacesContract):
    rooms: Rooms

    def attach_interface(self, instance: Instance, image_meta: Image, vif: Vif) -> None:
        """To the running guest and to its definition; a failure leaves neither, and its host side unplugged.

        :raises InvalidState: it is suspended
        :raises UnsupportedOperation: libvirt cannot plug such an interface into a running guest
        """
        rooms = self.rooms
        with log.about(instance.name), Undo() as undo:
            guest = rooms.hypervisor.guest(instance.uuid)
            _refuse_saved(instance, guest)
            present = nics.remembered(rooms, guest)
            self._check_new(instance, guest, vif, present)
            connect.check(rooms, [vif])
            filtering.check(rooms, instance, [vif])
            raw = nics.is_raw(rooms, vif)
            if raw and nics.runs(guest):
                raise _unpluggable(instance, "attach")
            if not raw:
                nics.element(instance, image_meta, PluggedVif(vif))  # what it would refuse, before anything is done
            rooms.progress.phase("plug")
            undo.push(f"forget {vif.address}", nics.remember, guest, present)
            nics.remember(guest, [*_real(present), vif])
            (plugged,) = connect.plug(rooms, [vif], undo)
            if raw:
                return  # the definition that the next start makes has it
            undo.push("remove its packet filter", filtering.remove, rooms, instance, [vif])
            undo.push(f"take {vif.address} back", self._take, guest, vif, timeout=5, attempts=1)
            rooms.progress.phase("attach")
            (held,) = filtering.hold(rooms, instance, [plugged])
            nics.attach(guest, nics.element(instance, image_meta, held), vif)
            if nics.runs(guest):
                filtering.enforce_of(rooms, guest, instance, [vif])
        if vif.tag:
            tagged.tell(rooms, instance, guest)

    def _check_new(self, instance: Instance, guest: Guest, vif: Vif, present: Sequence[Vif]) -> None:
        """:raises InvalidRequest: it has this address already, or the interface leads nowhere"""
        from cowshed.domain.interface import finder

        if vif.type == VifType.NONE:
            raise InvalidRequest(reason="an interface that leads nowhere cannot be attached")
        look = finder(vif)
        known = vif.address.lower() in [one.address.lower() for one in _real(present)]
        if known or look(guest.xml()) or look(guest.xml(inactive=True)):
            raise InvalidRequest(reason=f"{instance.name} has an interface with the address {vif.address} already")

    def detach_interface(self, instance: Instance, vif: Vif) -> None:
        """:raises InvalidState: it is suspended :raises UnsupportedOperation: a running guest cannot let go of it"""
        self.remove_interface(instance, vif)

    def remove_interface(self, instance: Instance, vif: Vif, *, timeout: float | None = None) -> None:
        """As :meth:`detach_interface`.

        :param timeout: seconds the guest has to let go of it; None: as configured
        """
        rooms = self.rooms
        with log.about(instance.name):
            guest = rooms.hypervisor.find(instance.uuid)
            if guest is None:
                _log.warning("there is no domain; unplugging %s", vif.address)
                filtering.remove(rooms, instance, [vif])
                connect.unplug(rooms, [vif])
                return
            _refuse_saved(instance, guest)
            present = nics.remembered(rooms, guest)
            known = next((one for one in present if one.address.lower() == vif.address.lower()), vif)
            if nics.is_raw(rooms, known) and nics.runs(guest):
                raise _unpluggable(instance, "detach")
            rooms.progress.phase("detach")
            each, attempts = devices.patience(rooms, timeout)
            if not self._take(guest, known, timeout=each, attempts=attempts):
                _log.info("interface %s is not in the domain; unplugging it all the same", vif.address)
            nics.remember(guest, [one for one in present if one is not known])
            filtering.remove(rooms, instance, [known])
            connect.unplug(rooms, [known])
            if known.tag:
                tagged.tell(rooms, instance, guest)

    def _take(self, guest: Guest, vif: Vif, *, timeout: float, attempts: int) -> bool:
        """Was it there? :raises DeadlineExceeded: the guest does not let go of it"""
        from cowshed.domain.interface import finder

        return guest.devices.detach(finder(vif), timeout=timeout, attempts=attempts, what=f"interface {vif.address}")

    def plug_vifs(self, instance: Instance, network_info: NetworkInfo) -> None:
        rooms = self.rooms
        with log.about(instance.name):
            # A user network has no host side but its ports, and those a running guest holds itself.
            connect.check(rooms, [vif for vif in network_info or () if vif.type != VifType.USER])
            for vif in network_info or ():
                rooms.pluggers[vif.type].plug(vif, rooms.capabilities)

    def unplug_vifs(self, instance: Instance, network_info: NetworkInfo) -> None:
        """Every one is tried. :raises CowshedError: the first that failed"""
        first: CowshedError | None = None
        with log.about(instance.name):
            for vif in network_info or ():
                try:
                    self.rooms.pluggers[vif.type].unplug(vif)
                except CowshedError as error:
                    _log.warning("could not unplug %s: %s", vif.address, error)
                    first = first or error
        if first:
            raise first

    def reset_network(self, instance: Instance) -> None:
        """Each link goes down and up again, so that a DHCP client in the guest asks anew. Not running: nothing to do."""
        with log.about(instance.name):
            guest = self.rooms.hypervisor.guest(instance.uuid)
            if guest.state() != PowerState.RUNNING:
                return
            for one in nics.plugged(guest):
                if not one.up:
                    continue
                with Undo() as undo:  # whether it is down is not known when libvirt went away
                    undo.push(f"put {one.address} up again", nics.set_link, guest, one.address, up=True)
                    nics.set_link(guest, one.address, up=False)
                nics.set_link(guest, one.address, up=True)

    def inject_network_info(self, instance: Instance, nw_info: NetworkInfo) -> None:
        """As :meth:`tell_network`; what fails is logged."""
        with log.about(instance.name):
            try:
                self.tell_network(instance, tuple(nw_info or ()))
            except CowshedError as error:
                _log.info("the domain was not told of its network: %s", error)

    # --- cowshed's own ------------------------------------------------------------------------

    def interfaces(self, instance: Instance) -> list[PluggedInterface]:
        """As libvirt sees them now; empty when there is no domain. User networks with slirp's forwards are not there."""
        guest = self.rooms.hypervisor.find(instance.uuid)
        return nics.plugged(guest) if guest else []

    def remembered_image(self, instance: Instance) -> Image:
        """The image it was launched from, as far as later calls need it. :raises DataCorrupt:"""
        return locate.remembered_image(self.rooms, instance)

    def tell_network(self, instance: Instance, vifs: Sequence[Vif]) -> None:
        """Into the domain's metadata, from which filters and calls without ``network_info`` read it; for a running guest with
        an agent also into ``/run/cowshed/network_data.json``, in OpenStack's format: what fails of that is logged.

        :raises InstanceNotFound: :raises HypervisorError: libvirt does not write it; what it knew stays
        """
        with log.about(instance.name):
            guest = self.rooms.hypervisor.guest(instance.uuid)
            nics.remember(guest, vifs)
            if guest.state() == PowerState.RUNNING:
                _tell_guest(guest, vifs)

    def set_link(self, instance: Instance, vif: Vif, *, up: bool) -> None:
        """Pull the cable, or put it in again, until the next start.

        :raises InvalidState: it does not run :raises NotFound: it has no such interface
        :raises UnsupportedOperation: libvirt does not know it
        """
        guest = self.rooms.hypervisor.guest(instance.uuid)
        if not nics.runs(guest):
            raise InvalidState(name=instance.name, state="stopped", action="given a link")
        if nics.is_raw(self.rooms, vif):
            raise _fixed(instance, "change the link of a user network with port forwards of a running guest")
        nics.set_link(guest, vif.address, up=up)


def _tell_guest(guest: Guest, vifs: Sequence[Vif]) -> None:
    from cowshed.disks import metadata
    from cowshed.hypervisor import agent_files

    content = json.dumps(metadata.network_data(vifs), sort_keys=True).encode()
    try:
        agent_files.execute(guest.agent, ["mkdir", "-p", NETWORK_FILE.rpartition("/")[0]], timeout=10)
        agent_files.write(guest.agent, NETWORK_FILE, io.BytesIO(content))
    except CowshedError as error:
        _log.info("the guest was not told of its network: %s", error)


def _real(vifs: Sequence[Vif]) -> list[Vif]:
    """One that leads nowhere stands for having none, and ends with the first that leads somewhere."""
    return [one for one in vifs if one.type != VifType.NONE]


def _refuse_saved(instance: Instance, guest: Guest) -> None:
    """The saved memory knows the devices of then."""
    if guest.has_saved():
        raise InvalidState(name=instance.name, state="suspended", action="given or deprived of an interface")


def _unpluggable(instance: Instance, verb: str) -> UnsupportedOperation:
    way = "to" if verb == "attach" else "from"
    return _fixed(instance, f"{verb} a user network with port forwards {way} a running guest")


def _fixed(instance: Instance, operation: str) -> UnsupportedOperation:
    return UnsupportedOperation(
        subject="libvirt",
        operation=operation,
        reason="without passt it is given to QEMU when QEMU starts",
        hint=f"stop {instance.name} first; or use a bridge, a libvirt network, or a user network without forwards",
    )
