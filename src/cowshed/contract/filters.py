"""Packet filters of interfaces."""

from __future__ import annotations

from cowshed.contract.promise import refuse, unfulfilled
from cowshed.contract.types import NetworkInfo
from cowshed.model.instance import Instance


class Filters:
    """Packet filters of interfaces."""

    @unfulfilled
    def ensure_filtering_rules_for_instance(self, instance: Instance, network_info: NetworkInfo) -> None:
        """Return only when the rules of every interface are in force."""
        refuse(self, "ensure_filtering_rules_for_instance")

    @unfulfilled
    def unfilter_instance(self, instance: Instance, network_info: NetworkInfo) -> None:
        """Remove the rules; none is success."""
        refuse(self, "unfilter_instance")

    @unfulfilled
    def filter_defer_apply_on(self) -> None:
        """Collect rule changes from now on."""
        refuse(self, "filter_defer_apply_on")

    @unfulfilled
    def filter_defer_apply_off(self) -> None:
        """Apply what was collected, at once."""
        refuse(self, "filter_defer_apply_off")

    @unfulfilled
    def refresh_security_group_rules(self, security_group_id: str) -> None:
        """The rules of a group changed: apply them to its members."""
        refuse(self, "refresh_security_group_rules")

    @unfulfilled
    def refresh_instance_security_rules(self, instance: Instance) -> None:
        """The groups of an instance changed: apply its rules."""
        refuse(self, "refresh_instance_security_rules")
