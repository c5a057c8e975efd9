"""Open vSwitch, plugged by OpenStack's os-vif, whose only importer this is (``pip install cowshed[ovs]``)."""

from __future__ import annotations

from typing import Any, Final

from cowshed.config import NetworkSection
from cowshed.contract.plugging import Plugger
from cowshed.errors import HypervisorError, ToolMissing, UnsupportedOperation
from cowshed.model.host import HostCapabilities
from cowshed.model.vif import PluggedVif, Vif
from cowshed.network import device, mac

_NAME: Final = 14  # letters of a tap's name, as OpenStack has them


class OvsPlugger(Plugger):
    """os-vif makes the bridge and the port; libvirt puts the guest's tap on it."""

    def __init__(self, section: NetworkSection) -> None:
        self.section = section

    def check(self, vif: Vif, host: HostCapabilities) -> None:
        from cowshed.tools import run

        mac.check(vif.address)
        device.check_name(vif.source)
        if host.session:
            raise UnsupportedOperation(
                subject="libvirt in session mode",
                operation="use Open vSwitch",
                reason="that needs root",
                hint="use --connect qemu:///system",
            )
        run.require("ovs-vsctl")
        _library()

    def plug(self, vif: Vif, host: HostCapabilities) -> PluggedVif:
        self._call("plug", vif)
        return PluggedVif(vif, target=_target(vif), model=vif.model or self.section.model)

    def unplug(self, vif: Vif) -> None:
        self._call("unplug", vif)

    def _call(self, verb: str, vif: Vif) -> None:
        """:raises HypervisorError: os-vif or Open vSwitch says no"""
        os_vif, objects = _library()
        try:
            getattr(os_vif, verb)(_port(objects, vif), _owner(objects, vif))
        except os_vif.exception.ExceptionBase as error:
            raise HypervisorError(action=f"{verb} {vif.address}", reason=str(error), number=0) from error


def _target(vif: Vif) -> str:
    return str(vif.details.get("devname") or f"tap{vif.id}"[:_NAME])


def _library() -> tuple[Any, Any]:
    """:raises ToolMissing:"""
    try:
        import os_vif
        from os_vif import exception, objects  # noqa: F401 - os_vif.exception is used
    except ImportError as error:
        raise ToolMissing(tool="os-vif", hint="pip install 'cowshed[ovs]'") from error
    os_vif.initialize()
    return os_vif, objects


def _port(objects: Any, vif: Vif) -> Any:
    network = objects.network.Network(id=vif.details.get("network_id") or vif.id, bridge=vif.source, mtu=vif.mtu)
    profile = objects.vif.VIFPortProfileOpenVSwitch(
        interface_id=vif.details.get("interface_id") or vif.id,
        datapath_type=vif.details.get("datapath_type") or "system",
    )
    return objects.vif.VIFOpenVSwitch(
        id=vif.id,
        address=vif.address,
        network=network,
        vif_name=_target(vif),
        bridge_name=vif.source,
        port_profile=profile,
        plugin="ovs",
    )


def _owner(objects: Any, vif: Vif) -> Any:
    return objects.instance_info.InstanceInfo(uuid=vif.details.get("instance") or vif.id, name=_target(vif))
