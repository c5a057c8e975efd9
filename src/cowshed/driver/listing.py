"""Listing: which instances there are and what state they are in."""

from __future__ import annotations

from cowshed.contract.listing import Listing as ListingContract
from cowshed.driver.rooms import Rooms
from cowshed.model.instance import Instance, InstanceInfo, PowerState


class Listing(ListingContract):
    rooms: Rooms

    def get_info(self, instance: Instance) -> InstanceInfo:
        hypervisor = self.rooms.hypervisor
        return hypervisor.recent_info(instance.uuid) or hypervisor.guest(instance.uuid).info()

    def instance_exists(self, instance: Instance) -> bool:
        return self.rooms.hypervisor.find(instance.uuid) is not None

    def get_num_instances(self) -> int:
        return len(self.power_states())

    def list_instances(self) -> list[str]:
        return [guest.name for guest in self.rooms.hypervisor.guests()]

    def list_instance_uuids(self) -> list[str]:
        return list(self.power_states())

    def power_states(self) -> dict[str, PowerState]:
        """UUID to state of every defined instance, from one call to libvirt."""
        return self.rooms.hypervisor.states()

    def with_saved_memory(self) -> set[str]:
        """UUIDs of those whose memory is on the host's disk, whoever saved it, from one call to libvirt."""
        return self.rooms.hypervisor.with_saved_memory()
