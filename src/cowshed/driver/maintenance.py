"""Maintenance: the host takes no new instances, and its guests go elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from cowshed import log
from cowshed.contract.callbacks import Placed, Placement
from cowshed.contract.compute import ComputeDriver
from cowshed.contract.host import Host as HostContract
from cowshed.contract.promise import is_fulfilled
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import host_state, teardown
from cowshed.errors import CowshedError, HostUnsuitable, InvalidRequest
from cowshed.undo import Undo

if TYPE_CHECKING:
    from cowshed.domain.read import Recovered
    from cowshed.hypervisor.guest import Guest

_log = log.logger(__name__)


class Maintenance(HostContract):
    rooms: Rooms
    placement: Placement | None

    def host_maintenance_mode(self, host: str, mode: bool) -> str:
        """Stopped instances stay. What has been moved stays where it is, also when another guest cannot be moved; the
        host is enabled again then.

        :raises InvalidRequest: ``host`` is another host
        """
        self._check_here(host)
        if not mode:
            host_state.enable(self.rooms, host_state.MAINTENANCE)
            return "off_maintenance"
        running = [guest for guest in self.rooms.hypervisor.guests() if guest.state() not in teardown.OFF]
        self._check_movable(running)
        with Undo() as undo:
            if host_state.MAINTENANCE not in host_state.reasons(self.rooms):
                undo.push("end the maintenance", host_state.enable, self.rooms, host_state.MAINTENANCE)
                host_state.disable(self.rooms, host_state.MAINTENANCE, "it is in maintenance")
            for recovered, place in self._placed(running):
                self._move(recovered, place)
        return "on_maintenance"

    def _check_here(self, host: str) -> None:
        ours = self.rooms.hypervisor.hostname()
        if host not in (ours, ours.partition(".")[0]):
            raise InvalidRequest(reason=f"this host is {ours}, not {host}", hint="ask the driver of that host")

    def _check_movable(self, running: list[Guest]) -> None:
        """Before anything is done. :raises HostUnsuitable: guests run and cannot be moved"""
        if running and not (self.placement and is_fulfilled(type(self), "live_migration")):
            raise _stay(running, "and nobody says where to move them", "stop them, or drain to another host")

    def _placed(self, running: list[Guest]) -> list[tuple[Recovered, Placed]]:
        """Where each goes, before the first one moves. :raises HostUnsuitable: for some there is no place"""
        from cowshed.domain import read

        found, left = [], []
        for guest in running:
            recovered = read.recover(guest.xml())
            place = self.placement(recovered.instance) if recovered and self.placement else None
            if recovered and place:
                found.append((recovered, place))
            else:
                left.append(guest)
        if left:
            raise _stay(left, "and there is no place for them elsewhere")
        return found

    def _move(self, recovered: Recovered, place: Placed) -> None:
        """:raises HostUnsuitable: it still runs here"""
        from cowshed.driver.steps import handing_over

        instance = recovered.instance
        try:
            handing_over.move(cast(ComputeDriver, self), place, instance, recovered.vifs)
        except CowshedError as error:
            raise HostUnsuitable(
                reason=f"instance {instance.name} could not be moved to {place.host}: {error}", hint=error.hint
            ) from error
        _log.info("instance %s runs on %s now", instance.name, place.host)


def _stay(guests: list[Guest], why: str, hint: str | None = None) -> HostUnsuitable:
    names = ", ".join(sorted(guest.name for guest in guests))
    return HostUnsuitable(reason=f"guests run here, {why}: {names}", hint=hint)
