"""Guest: what happens inside, through the agent. So far only its addresses."""

from __future__ import annotations

from cowshed import log
from cowshed.contract.guest import Guest as GuestContract
from cowshed.driver.rooms import Rooms
from cowshed.errors import CowshedError
from cowshed.model.instance import Instance

_log = log.logger(__name__)


class Guest(GuestContract):
    rooms: Rooms

    def guest_addresses(self, instance: Instance) -> list[str]:
        """IP addresses the guest agent names, loopback and link-local ones left out; empty without an agent."""
        try:
            found = self.rooms.hypervisor.guest(instance.uuid).agent.addresses()
        except CowshedError as error:
            _log.debug("no addresses of %s: %s", instance.name, error)
            return []
        words = [str(address).partition("/")[0] for card in found for address in card.addresses]
        return [word for word in words if not word.startswith(("127.", "::1", "fe80", "169.254."))]
