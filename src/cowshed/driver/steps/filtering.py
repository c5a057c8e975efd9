"""Packet filters of a guest's interfaces: known before it is made, in force before it runs.

The definition of a filtered interface has its link down, so that a guest which somebody else starts (virsh,
autostart) has no network rather than an open one. Here a guest starts paused, is filtered, and only then the links
go up and its CPUs on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING

from cowshed import log
from cowshed.driver.steps import nics
from cowshed.driver.steps.filter_order import in_order
from cowshed.errors import CowshedError, HypervisorError, InstanceNotFound, ToolFailed, UnsupportedOperation
from cowshed.model.group import Member, SecurityGroup
from cowshed.model.instance import Instance, PowerState
from cowshed.model.vif import LOCAL, PluggedVif, Vif, VifType

if TYPE_CHECKING:
    from cowshed.domain.read import Recovered
    from cowshed.driver.rooms import Rooms
    from cowshed.hypervisor.guest import Guest
    from cowshed.network.ruleset import Filter

_log = log.logger(__name__)

Members = Callable[[str], Sequence[Member]]

_PREFIX = "cow"  # of the devices of filtered interfaces; with the key of the filter 15 letters, the most there may be


# --- before anything is made ----------------------------------------------------------------------


def check(rooms: Rooms, instance: Instance, vifs: Sequence[Vif]) -> None:
    """Can the packets of these interfaces be filtered as they are to be?

    :raises NotFound: one is in a group that does not exist
    :raises UnsupportedOperation: it has no device on the host :raises ToolMissing: :raises PermissionDenied:
    """
    filtered = list(_groups(rooms, instance, vifs))
    for vif, groups in filtered:
        if vif.type in LOCAL:
            raise UnsupportedOperation(
                subject="a user network",
                operation="filter packets",
                reason="it has no device on the host",
                hint="use a bridge, a libvirt network, a tap or macvtap; or give it no security group",
            )
        rooms.pluggers[vif.type].check_filtering(vif)
        _ = _filter(vif, groups, "", cache(rooms.rules.members)).chains  # what is wrong with a rule
    if filtered:
        _check_host(rooms)


def _check_host(rooms: Rooms) -> None:
    from cowshed.tools import nft, run

    if rooms.capabilities.session:
        raise UnsupportedOperation(
            subject="libvirt in session mode",
            operation="filter packets",
            reason="that needs root",
            hint="use --connect qemu:///system",
        )
    run.require("nft")
    with nft.kernel() as kernel:
        kernel.exists()  # may we?


def hold(rooms: Rooms, instance: Instance, plugged: Sequence[PluggedVif]) -> list[PluggedVif]:
    """With the links of the filtered ones down, and a name of their own for their devices."""
    return [
        one if rooms.rules.groups(instance, one.vif) is None else replace(one, link_up=False, target=_target(one))
        for one in plugged
    ]


def _target(plugged: PluggedVif) -> str:
    from cowshed.network import ruleset

    given = plugged.target or (plugged.vif.source if plugged.vif.type == VifType.TAP else "")
    return given or f"{_PREFIX}{ruleset.key(plugged.vif.id)}"


# --- when its devices are there -------------------------------------------------------------------


def needed(rooms: Rooms, guest: Guest) -> bool:
    """Is any of its interfaces filtered?"""
    found = nics.recovered(guest)
    return found is not None and any_of(rooms, found.instance, found.vifs)


def any_of(rooms: Rooms, instance: Instance, vifs: Sequence[Vif]) -> bool:
    """Is any of these filtered?"""
    return any(True for _ in _groups(rooms, instance, vifs))


def enforce(rooms: Rooms, guest: Guest) -> None:
    """The filters of a guest that runs or is paused, then the links that were held down for them.

    :raises HypervisorError: an interface has no device :raises ToolFailed: the kernel refuses
    """

    def plan() -> list[Filter]:
        found = nics.recovered(guest)
        return planned(rooms, guest, found.instance, found.vifs) if found else []

    _connect_filtered(guest, in_order(rooms, plan, rooms.filters.ensure))


def enforce_of(rooms: Rooms, guest: Guest, instance: Instance, vifs: Sequence[Vif]) -> None:
    """As :func:`enforce`, of these interfaces of a running guest."""
    plan = partial(planned, rooms, guest, instance, vifs)
    _connect_filtered(guest, in_order(rooms, plan, rooms.filters.ensure))


def _connect_filtered(guest: Guest, filters: Sequence[Filter]) -> None:
    if filters:
        _connect_links(guest, {one.address.lower() for one in filters})


def enforce_groups(rooms: Rooms, guest: Guest, instance: Instance) -> None:
    """The filters of all its interfaces as their groups are now; of one that is in none, none. Links stay as they are.

    :raises HypervisorError: an interface has no device :raises ToolFailed: the kernel refuses
    """

    def plan() -> tuple[list[Filter], list[str]]:
        found = nics.recovered(guest)
        if found is None:
            return [], []
        wanted = planned(rooms, guest, instance, found.vifs)
        filtered = {one.owner for one in wanted}
        return wanted, [vif.id for vif in found.vifs if vif.id not in filtered]

    def apply(plan: tuple[list[Filter], list[str]]) -> None:
        wanted, others = plan
        rooms.filters.ensure(wanted)
        _remove_unused(rooms, others)

    in_order(rooms, plan, apply)


def hold_defined(rooms: Rooms, guest: Guest) -> None:
    """In its definition, the links of the interfaces that are filtered now are down: see above.

    :raises HypervisorError: libvirt does not write it
    """
    from cowshed.domain import read
    from cowshed.domain.interface import with_link

    found = nics.recovered(guest)
    if found is None or not guest.persistent():
        return
    addresses = _filtered(rooms, found)
    xml = guest.xml(inactive=True)
    for one in read.interfaces(xml):
        if one.up and one.address.lower() in addresses and (held := with_link(xml, one.address, up=False)):
            guest.devices.redefine(held)


def save(rooms: Rooms, guest: Guest) -> None:
    """Save its memory with the links of its filtered interfaces down: somebody else may restore it, too.

    QEMU takes the state of a card's link from the saved memory, whatever libvirt's XML says of it. The guest stands
    meanwhile and hears nothing of it. A failure leaves it as it was.
    """
    found = nics.recovered(guest)
    filtered = _filtered(rooms, found) if found else set()
    up = [one.address for one in nics.plugged(guest) if one.up and one.address.lower() in filtered]
    if not up:
        return guest.save()
    running = guest.state() == PowerState.RUNNING
    try:
        if running:
            guest.suspend()
        for address in up:
            nics.set_link(guest, address, up=False)
        guest.save(running=running)
    except BaseException:
        _go_on(guest, up, running=running)
        raise


def _go_on(guest: Guest, up: Sequence[str], *, running: bool) -> None:
    """What fails is logged: it hides no reason why it was not saved."""
    try:
        for address in up:
            nics.set_link(guest, address, up=True)
        if running and guest.state() == PowerState.PAUSED:
            guest.resume()
    except CowshedError as error:
        _log.warning("%s does not go on as it was: %s", guest.name, error)


def _connect_links(guest: Guest, addresses: Collection[str]) -> None:
    """:param addresses: in small letters"""
    for one in nics.plugged(guest):
        if one.address.lower() in addresses and not one.up:
            nics.set_link(guest, one.address, up=True)


def planned(
    rooms: Rooms, guest: Guest, instance: Instance, vifs: Sequence[Vif], members: Members | None = None
) -> list[Filter]:
    """The filters of ``vifs`` as their groups are now.

    :param members: who is in a group, where that is known already
    :raises HypervisorError: one has no device
    """
    members = members or cache(rooms.rules.members)
    filtered = list(_groups(rooms, instance, vifs))
    if not filtered:
        return []
    devices = {one.address.lower(): one.target for one in nics.plugged(guest)}
    found = []
    for vif, groups in filtered:
        device = devices.get(vif.address.lower())
        if not device:
            raise HypervisorError(
                action=f"filter {vif.address} of {guest.name}", reason="it has no device on the host", number=0
            )
        found.append(_filter(vif, groups, device, members))
    return found


def _groups(rooms: Rooms, instance: Instance, vifs: Sequence[Vif]) -> Iterable[tuple[Vif, Sequence[SecurityGroup]]]:
    """Of those that are filtered."""
    for vif in vifs:
        if vif.type != VifType.NONE and (groups := rooms.rules.groups(instance, vif)) is not None:
            yield vif, groups


def _filtered(rooms: Rooms, found: Recovered) -> set[str]:
    """The addresses of its interfaces that are filtered, in small letters."""
    return {vif.address.lower() for vif, _ in _groups(rooms, found.instance, found.vifs)}


def _filter(vif: Vif, groups: Sequence[SecurityGroup], device: str, members: Members) -> Filter:
    from cowshed.network.device import is_tap
    from cowshed.network.ruleset import Filter

    rules = tuple(dict.fromkeys(replace(rule, id="") for group in groups for rule in group.rules))
    return Filter(
        device=device,
        owner=vif.id,
        address=vif.address,
        addresses=addresses(vif),
        rules=rules,
        members={rule.group: members(rule.group) for rule in rules if rule.group},
        shares=bool(device) and not is_tap(device),
    )


def addresses(vif: Vif) -> tuple[str, ...]:
    """The IP addresses it may speak with; empty where they are not known."""
    more = [word.strip() for word in vif.details.get("allowed_addresses", "").split(",") if word.strip()]
    own = [subnet.address.partition("/")[0] for subnet in vif.subnets if subnet.address]
    return (*own, *more) if own else ()


# --- afterwards -----------------------------------------------------------------------------------


def refresh(rooms: Rooms, group_id: str) -> None:
    """Of every running guest that has to do with the group, in one transaction. One that cannot be filtered does not
    leave the others with the old rules; one that has ended meanwhile needs none.

    :raises CowshedError: some have the old rules still
    """
    errors: list[CowshedError] = []

    def plan() -> list[Filter]:
        errors.clear()
        return _of_group(rooms, group_id, errors)

    in_order(rooms, plan, partial(_ensure_each, rooms))
    if errors:
        raise errors[0]


def _of_group(rooms: Rooms, group_id: str, errors: list[CowshedError]) -> list[Filter]:
    """Of every running guest that has to do with it; why some cannot be planned is added to ``errors``."""
    wanted: list[Filter] = []
    members = cache(rooms.rules.members)  # a list of all that every one of them would ask for
    for guest in rooms.hypervisor.guests():
        try:
            wanted += _concerned(rooms, guest, group_id, members)
        except CowshedError as error:
            if _ended(guest):
                continue
            _log.warning("%s has the old rules of group %s still: %s", guest.name, group_id, error)
            errors.append(error)
    return wanted


def _concerned(rooms: Rooms, guest: Guest, group_id: str, members: Members) -> list[Filter]:
    found = nics.recovered(guest) if nics.runs(guest) else None
    if found is None:
        return []
    concerned = [
        vif
        for vif, groups in _groups(rooms, found.instance, found.vifs)
        if any(group_id == group.id or group_id in [rule.group for rule in group.rules] for group in groups)
    ]
    return planned(rooms, guest, found.instance, concerned, members)


def _ended(guest: Guest) -> bool:
    try:
        return guest.ended()
    except InstanceNotFound:
        return True


def _ensure_each(rooms: Rooms, wanted: Sequence[Filter]) -> None:
    """Together; where the kernel refuses that, each that it does not refuse: a device may have gone meanwhile."""
    try:
        return rooms.filters.ensure(wanted)
    except ToolFailed as error:
        if len(wanted) < 2:
            raise
        _log.warning("the filters of %d interfaces are put in force one by one: %s", len(wanted), error)
    first: ToolFailed | None = None
    for one in wanted:
        try:
            rooms.filters.ensure([one])
        except ToolFailed as error:
            first = first or error
    if first:
        raise first


def remove(rooms: Rooms, instance: Instance, vifs: Sequence[Vif]) -> None:
    """What fails is logged: a filter without a device filters nothing, and is swept later."""
    try:
        owners = [vif.id for vif in vifs if _may_be_filtered(rooms, instance, vif)]
        in_order(rooms, lambda: owners, rooms.filters.remove)
    except CowshedError as error:
        _log.warning("the packet filters of %s were not removed: %s", instance.name, error)


def _remove_unused(rooms: Rooms, owners: Sequence[str]) -> None:
    """Of interfaces that are not filtered any more; a host without nft has none."""
    from cowshed.tools import run

    if owners and not rooms.capabilities.session and run.find("nft"):
        rooms.filters.remove(owners)


def _may_be_filtered(rooms: Rooms, instance: Instance, vif: Vif) -> bool:
    try:
        return bool(vif.groups) or rooms.rules.groups(instance, vif) is not None
    except CowshedError:
        return True


def sweep(rooms: Rooms) -> None:
    """Remove the filters of guests that do not run any more, where there can be any."""
    import os

    from cowshed.tools import run

    if os.geteuid() != 0 or run.find("nft") is None:
        return
    try:
        in_order(rooms, partial(_known_and_running, rooms), partial(_sweep, rooms))
    except CowshedError as error:
        _log.warning("could not sweep packet filters: %s", error)


def _known_and_running(rooms: Rooms) -> tuple[set[str], list[str]] | None:
    """The keys that the kernel has, and after that the ids of the interfaces of guests that run."""
    known = rooms.filters.known()
    if not known:
        return None
    running = [nics.recovered(guest) for guest in rooms.hypervisor.guests() if nics.runs(guest)]
    return known, [vif.id for found in running if found for vif in found.vifs]


def _sweep(rooms: Rooms, plan: tuple[set[str], list[str]] | None) -> None:
    if plan:
        known, owners = plan
        gone = rooms.filters.sweep(owners, known)
        _log.info("removed the packet filters of %d interfaces that are gone", len(gone))
