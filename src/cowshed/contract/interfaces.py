"""Network interfaces."""

from __future__ import annotations

from typing import Any

from cowshed.contract.promise import refuse, unfulfilled
from cowshed.contract.types import NetworkInfo
from cowshed.model.image import Image
from cowshed.model.instance import Instance
from cowshed.model.vif import Vif


class Interfaces:
    """Network interfaces."""

    @unfulfilled
    def attach_interface(self, instance: Instance, image_meta: Image, vif: Vif) -> None:
        """Plug an interface and show it to the guest, running or not.

        On failure its host side is unplugged again.

        :raises InstanceNotFound: :raises NetworkNotFound: :raises PortInUse: :raises HypervisorError:
        """
        refuse(self, "attach_interface")

    @unfulfilled
    def detach_interface(self, instance: Instance, vif: Vif) -> None:
        """Take an interface from the guest and unplug it.

        An interface or instance that is gone already is success; the host side is unplugged in any case.

        :raises DeadlineExceeded: the guest does not let go of it
        """
        refuse(self, "detach_interface")

    @unfulfilled
    def plug_vifs(self, instance: Instance, network_info: NetworkInfo) -> None:
        """Make the host side of every interface; may be repeated. The guest is not touched.

        :raises NetworkNotFound: :raises PermissionDenied:
        """
        refuse(self, "plug_vifs")

    @unfulfilled
    def unplug_vifs(self, instance: Instance, network_info: NetworkInfo) -> None:
        """Remove the host side of every interface; may be repeated. Gone already is success."""
        refuse(self, "unplug_vifs")

    @unfulfilled
    def reset_network(self, instance: Instance) -> None:
        """Ask the guest to configure its network again, as after a change of addresses."""
        refuse(self, "reset_network")

    @unfulfilled
    def inject_network_info(self, instance: Instance, nw_info: NetworkInfo) -> None:
        """Publish new network data to the guest. Never fails a running instance."""
        refuse(self, "inject_network_info")

    def macs_for_instance(self, instance: Instance) -> set[str] | None:
        """MAC addresses the instance's interfaces must have; None: any."""
        return None

    def dhcp_options_for_instance(self, instance: Instance) -> list[dict[str, str]] | None:
        """DHCP options (opt_name, opt_value) the instance needs; None: none."""
        return None

    def network_binding_host_id(self, context: Any, instance: Instance) -> str:
        """The name of the host to which the network service binds its ports."""
        return instance.host

    def deallocate_networks_on_reschedule(self, instance: Instance) -> bool:
        """Must its networks be given back before it is tried on another host?"""
        return False
