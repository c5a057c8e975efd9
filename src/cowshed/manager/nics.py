"""Interfaces of a host's instances, as the library and the command show them; one change of an instance at a time."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cowshed import log
from cowshed.errors import CowshedError, InstanceNotFound, InvalidRequest, InvalidState, NotFound, UnsupportedOperation
from cowshed.manager.records import Record
from cowshed.model.instance import InstanceState
from cowshed.model.vif import Subnet, Vif, VifType

if TYPE_CHECKING:
    from cowshed.driver import LibvirtDriver
    from cowshed.manager.instances import Instances

_log = log.logger(__name__)

_ON = (InstanceState.RUNNING, InstanceState.PAUSED)


@dataclass(frozen=True, slots=True)
class Nic:
    """An interface as it was asked for and as it is. ``device`` is its device on the host, "" where there is none, as
    of a user network; ``link`` is up, down, or "" where the instance does not run or libvirt cannot tell.
    """

    vif: Vif
    device: str = ""
    link: str = ""


class Nics:
    """List, attach, detach. ``ref`` is an instance: name, UUID, or the beginning of one; ``nic`` a MAC address or an id."""

    def __init__(self, driver: LibvirtDriver, instances: Instances) -> None:
        self._driver = driver
        self._instances = instances

    def list(self, ref: str = "") -> list[tuple[Record, Nic]]:
        """Of one instance, or of all."""
        records = [self._instances.find(ref)] if ref else [*self._instances.all(), *self._instances.soft_deleted()]
        return [(record, nic) for record in records for nic in _of(self._driver, record)]

    def attach(
        self,
        ref: str,
        network: str,
        *,
        address: str = "",
        model: str = "",
        publish: Sequence[str] = (),
        groups: Sequence[str] = (),
        ip: str = "",
        tag: str = "",
    ) -> Vif:
        """One more interface, also while it runs; the guest sees it at once.

        :param network: as for :meth:`Host.run`
        :param address: its MAC address; empty: one derived from the instance
        :param model: of the card; empty: as the image or the host says
        :param publish: port forwards of a user network
        :param groups: its security groups; empty: its packets are not filtered
        :param ip: its IP address and the size of its network, such as ``10.0.0.5/24``; a filtered interface may use no
            other. Empty: it has one from DHCP, and any will do
        :param tag: a word by which the guest finds it among its devices
        """
        from cowshed.network import parse

        check_model(model)
        with self._instances.holding(ref, "given an interface") as record:
            vif = parse.another(
                network, record.vifs, instance=record.uuid, address=address, model=model, forwards=publish
            )
            vif = dataclasses.replace(vif, groups=tuple(groups), subnets=subnets(ip), tag=tag)
            self._driver.rooms.rules.groups(record.instance, vif)  # are there such groups?
            kept = tuple(one for one in record.vifs if one.type != VifType.NONE)
            # The intent first: what a killed process has attached is found in the record, and can be detached.
            self._instances.records.update(dataclasses.replace(record, vifs=(*kept, vif)))
            try:
                image = self._driver.remembered_image(record.instance)
                self._driver.attach_interface(record.instance, image, vif)
            except BaseException:
                self._instances.records.update(record)
                raise
            self._note(record.uuid, "interface attached", f"{vif.address} on {network}")
            self._instances.refresh_groups([vif])
        return vif

    def detach(self, ref: str, nic: str, *, timeout: float | None = None) -> Vif:
        """Take it from the instance, running or not.

        :param timeout: seconds the guest has to let go of it; None: as configured
        :raises NotFound: it has no such interface :raises DeadlineExceeded: the guest does not let go of it
        """
        with self._instances.holding(ref, "deprived of an interface") as record:
            vif = find(record, nic)
            self._driver.remove_interface(record.instance, vif, timeout=timeout)
            left = tuple(one for one in record.vifs if one is not vif)
            self._instances.records.update(
                dataclasses.replace(record, vifs=left), "interface detached", f"{vif.address}"
            )
            self._instances.refresh_groups([vif])
        return vif

    def set_groups(self, ref: str, nic: str, groups: Sequence[str]) -> Vif:
        """Another set of security groups, in force at once; an empty one ends filtering.

        A failure leaves the old ones in the record and in force.

        :raises NotFound: there is no such group :raises UnsupportedOperation: its packets cannot be filtered
        """
        with self._instances.holding(ref, "given security groups") as record:
            before = find(record, nic)
            vif = dataclasses.replace(before, groups=tuple(groups))
            vifs = tuple(vif if one is before else one for one in record.vifs)
            self._driver.rooms.rules.groups(record.instance, vif)
            self._driver.check_filtering(record.instance, vifs)
            told = False
            try:
                # The record first: who is in a group is read from it, also by the filters made here.
                self._instances.records.update(dataclasses.replace(record, vifs=vifs))
                self._driver.tell_network(record.instance, vifs)
                told = True
                self._driver.refresh_instance_security_rules(record.instance)
            except BaseException as error:
                outcome = self._filter_as_before(record, before, told=told)
                if isinstance(error, CowshedError) and not isinstance(
                    error, InstanceNotFound
                ):  # that has a hint of its own
                    error.hint = f"{error.hint}; {outcome}" if error.hint else outcome
                raise
            self._note(record.uuid, "groups changed", f"{vif.address}: {', '.join(groups) or 'none'}")
            self._instances.refresh_groups([before, vif])
        return vif

    def _filter_as_before(self, record: Record, vif: Vif, *, told: bool) -> str:
        """The groups of ``record`` again; what is so now, for people.

        :param told: of the others; else the domain knows the old ones still, and those are in force
        """
        self._instances.records.update(record)
        try:
            if told:
                self._driver.tell_network(record.instance, record.vifs)
                self._driver.refresh_instance_security_rules(record.instance)
        except CowshedError as error:
            _log.warning("%s of %s could not be filtered as before: %s", vif.address, record.name, error)
            return f"{vif.address} may not be filtered as its groups say; cowshed stop {record.name} takes it from the network"
        return f"{vif.address} stays as it was: {_membership(vif)}"

    def set_link(self, ref: str, nic: str, *, up: bool) -> Vif:
        """Pull the cable, or put it in again, until the next start.

        :raises InvalidState: it does not run :raises UnsupportedOperation: libvirt cannot
        """
        with self._instances.holding(ref, "given a link") as record:
            vif = find(record, nic)
            self._driver.set_link(record.instance, vif, up=up)
            self._note(record.uuid, "link changed", f"{vif.address} {'up' if up else 'down'}")
        return vif

    def reset(self, ref: str) -> Sequence[Vif]:
        """Let the guest's DHCP clients ask anew: every link that is up goes down and up again. Those it has reset.

        :raises InvalidState: it does not run
        :raises UnsupportedOperation: it has no link that is up, or libvirt cannot put it down
        """
        with self._instances.holding(ref, "given a new network") as record:
            if record.state != InstanceState.RUNNING:
                raise InvalidState(name=record.name, state=record.state, action="given a new network")
            up = {one.address.lower() for one in self._driver.interfaces(record.instance) if one.up}
            found = [vif for vif in record.vifs if vif.type != VifType.NONE and vif.address.lower() in up]
            if not found:
                raise UnsupportedOperation(
                    subject=record.name,
                    operation="be given a new network",
                    reason="it has no interface whose link is up and can be put down",
                    hint=f"see cowshed nic ls {record.name}; a user network with forwards needs a restart",
                )
            self._driver.reset_network(record.instance)
            self._note(record.uuid, "interfaces reset", ", ".join(vif.address for vif in found))
        return found

    def _note(self, uuid: str, event: str, detail: str) -> None:
        self._instances.records.update(self._instances.records.find(uuid), event, detail)


def find(record: Record, nic: str) -> Vif:
    """By MAC address, or by the beginning of its id (4 letters or more). :raises NotFound:"""
    word = nic.lower().replace("-", ":") if nic.count("-") == 5 else nic.lower()
    real = [vif for vif in record.vifs if vif.type != VifType.NONE]
    found = [vif for vif in real if vif.address.lower() == word or (len(word) >= 4 and vif.id.startswith(word))]
    if len(found) != 1:
        known = ", ".join(vif.address for vif in real) or "none"
        raise NotFound(kind="interface", name=f"{nic} of {record.name}", hint=f"it has {known}")
    return found[0]


def _membership(vif: Vif) -> str:
    return f"in the groups {', '.join(vif.groups)}" if vif.groups else "in no group, not filtered"


def _of(driver: LibvirtDriver, record: Record) -> list[Nic]:
    """``record`` with its present state."""
    seen = {one.address.lower(): one for one in driver.interfaces(record.instance)}
    runs = record.state in _ON
    found = []
    for vif in record.vifs:
        if vif.type == VifType.NONE:
            continue
        one = seen.get(vif.address.lower())
        link = ("up" if one.up else "down") if one and runs else ""
        found.append(Nic(vif, one.target if one else "", link))
    return found


def check_model(model: str) -> None:
    """:raises InvalidRequest: it is no network card; "" is the image's or the host's choice"""
    from cowshed.domain.naming import VIF_MODELS

    if model and model not in VIF_MODELS:
        raise InvalidRequest(reason=f"{model!r} is not a network card", hint=f"known: {', '.join(VIF_MODELS)}")


def subnets(ip: str) -> tuple[Subnet, ...]:
    """Of an interface with the address ``ip``: ``10.0.0.5/24``, or ``10.0.0.5/24,10.0.0.1`` with a gateway.

    :raises InvalidRequest: it is no address with the size of its network, or the gateway is in another one
    """
    if not ip:
        return ()
    address, _, gateway = ip.partition(",")
    try:
        found = ipaddress.ip_interface(address)
        way = ipaddress.ip_address(gateway) if gateway else None
    except ValueError as error:
        raise InvalidRequest(reason=f"{ip!r} is not an IP address", hint="such as 10.0.0.5/24") from error
    if found.network.num_addresses == 1 and "/" not in address:
        raise InvalidRequest(reason=f"{ip!r} does not say how large its network is", hint=f"such as {address}/24")
    if way is not None and (way not in found.network or way == found.ip):
        raise InvalidRequest(reason=f"the gateway {way} is not another address of {found.network}")
    return (Subnet(str(found.network), str(found.ip), gateway),)
