"""The driver begins and ends its service."""

from __future__ import annotations

from cowshed.contract.promise import refuse, unfulfilled


class Startup:
    """The driver begins and ends its service."""

    @unfulfilled
    def init_host(self, host: str) -> None:
        """Begin to serve on this host; called once, before anything else.

        Reaches the hypervisor, finds guests that survived, clears away what a killed process left. May be
        repeated.

        :param host: the name this host is known by
        :raises HypervisorUnavailable: the service must not start
        """
        refuse(self, "init_host")

    def cleanup_host(self, host: str) -> None:
        """End the service: stop threads, close connections. Does not hang, and touches no guest."""
        return
