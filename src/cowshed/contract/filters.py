"""Packet filters of interfaces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cowshed.contract.promise import refuse, unfulfilled
from cowshed.contract.types import NetworkInfo
from cowshed.errors import InvalidRequest
from cowshed.model.group import Member, SecurityGroup
from cowshed.model.instance import Instance
from cowshed.model.vif import Vif


class RuleProvider(Protocol):
    """Who knows the security groups: the standalone manager, or Neutron behind Nova."""

    def groups(self, instance: Instance, vif: Vif) -> Sequence[SecurityGroup] | None:
        """The groups of an interface, rules and all. None: its packets are not filtered; empty: nothing passes.

        :raises NotFound: it is in a group that does not exist
        """

    def members(self, group_id: str) -> Sequence[Member]:
        """The interfaces in a group, wherever they run; none for a group that does not exist."""


class NoRules:
    """Nobody here knows security groups."""

    def groups(self, instance: Instance, vif: Vif) -> Sequence[SecurityGroup] | None:
        """:raises InvalidRequest: the interface is in one"""
        if vif.groups:
            raise InvalidRequest(reason=f"interface {vif.address} is in security groups, and nobody here knows any")
        return None

    def members(self, group_id: str) -> Sequence[Member]:
        return ()


class Filters:
    """Packet filters of interfaces."""

    @unfulfilled
    def ensure_filtering_rules_for_instance(self, instance: Instance, network_info: NetworkInfo) -> None:
        """Return only when the packet filters of every interface are in force.

        Called before a live migration may begin and, at start-up, for every running guest. May be repeated.

        :raises CowshedError: they could not be put in force; the migration does not begin
        """
        refuse(self, "ensure_filtering_rules_for_instance")

    @unfulfilled
    def unfilter_instance(self, instance: Instance, network_info: NetworkInfo) -> None:
        """Remove the packet filters of an instance; none is success."""
        refuse(self, "unfilter_instance")

    @unfulfilled
    def filter_defer_apply_on(self) -> None:
        """Collect changes of filters from now on, so that many become one."""
        refuse(self, "filter_defer_apply_on")

    @unfulfilled
    def filter_defer_apply_off(self) -> None:
        """Put what was collected in force, at once."""
        refuse(self, "filter_defer_apply_off")

    @unfulfilled
    def refresh_security_group_rules(self, security_group_id: str) -> None:
        """The rules of a security group changed: put them in force for its members.

        :raises CowshedError: some member has the old rules still; the caller tries again
        """
        refuse(self, "refresh_security_group_rules")

    @unfulfilled
    def refresh_instance_security_rules(self, instance: Instance) -> None:
        """The security groups of an instance changed: put its rules in force.

        :raises UnsupportedOperation: the caller logs it and goes on
        """
        refuse(self, "refresh_instance_security_rules")
