"""Filters: the packets of an instance's interfaces, as its security groups say."""

from __future__ import annotations

from collections.abc import Sequence

from cowshed import log
from cowshed.contract.filters import Filters as FiltersContract
from cowshed.contract.types import NetworkInfo
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import filter_order, filtering, nics
from cowshed.model.instance import Instance
from cowshed.model.vif import Vif


class Filters(FiltersContract):
    rooms: Rooms

    def ensure_filtering_rules_for_instance(self, instance: Instance, network_info: NetworkInfo) -> None:
        """On return they are in force and read back. An instance that does not run here has no devices: it is
        only checked that they could be, and its start, or the end of its migration, puts them in force.
        """
        vifs = tuple(network_info or ())
        with log.about(instance.name):
            guest = self.rooms.hypervisor.find(instance.uuid)
            if guest is None or not nics.runs(guest):
                filtering.check(self.rooms, instance, vifs)
                return
            filtering.hold_defined(self.rooms, guest)
            filtering.enforce_of(self.rooms, guest, instance, vifs)

    def check_filtering(self, instance: Instance, vifs: Sequence[Vif]) -> None:
        """Can packets of these interfaces be filtered as their groups say?

        :raises NotFound: :raises UnsupportedOperation: :raises ToolMissing: :raises PermissionDenied:
        """
        filtering.check(self.rooms, instance, vifs)

    def unfilter_instance(self, instance: Instance, network_info: NetworkInfo) -> None:
        with log.about(instance.name):
            filtering.remove(self.rooms, instance, tuple(network_info or ()))

    def filter_defer_apply_on(self) -> None:
        self.rooms.filters.defer()

    def filter_defer_apply_off(self) -> None:
        filter_order.apply_deferred(self.rooms)

    def refresh_security_group_rules(self, security_group_id: str) -> None:
        filtering.refresh(self.rooms, security_group_id)

    def refresh_instance_security_rules(self, instance: Instance) -> None:
        """An interface that is in no group any more is filtered no more. Of an instance that does not run only the
        definition is refreshed: the link of an interface that is filtered now is down in it. A cable that is pulled
        stays so.
        """
        with log.about(instance.name):
            guest = self.rooms.hypervisor.find(instance.uuid)
            if guest is None:
                return
            filtering.hold_defined(self.rooms, guest)
            if nics.runs(guest):
                filtering.enforce_groups(self.rooms, guest, instance)
