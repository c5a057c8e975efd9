"""The plugging contract: the host side of a network interface."""

from __future__ import annotations

from abc import ABC, abstractmethod

from cowshed.model.host import HostCapabilities
from cowshed.model.vif import PluggedVif, Vif


class Plugger(ABC):
    """Makes interfaces of one or more types usable. ``plug`` and ``unplug`` may be repeated."""

    @abstractmethod
    def check(self, vif: Vif, host: HostCapabilities) -> None:
        """Everything that can be known before: the network is there, the port is free.

        :raises NetworkNotFound: :raises PortInUse: :raises UnsupportedOperation:
        """

    def check_filtering(self, vif: Vif) -> None:  # noqa: B027 - most have nothing to say
        """Do the packet filters of its device see all packets of such an interface?

        :raises UnsupportedOperation: they do not
        """

    @abstractmethod
    def plug(self, vif: Vif, host: HostCapabilities) -> PluggedVif:
        """Make the host side and say what the domain needs."""

    @abstractmethod
    def unplug(self, vif: Vif) -> None:
        """Remove the host side; already gone is success."""
