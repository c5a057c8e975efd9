"""Open vSwitch, plugged by OpenStack's os-vif, whose only importer this is (``pip install cowshed[ovs]``)."""

from __future__ import annotations

import os
import warnings
from typing import Any, Final

from cowshed.config import NetworkSection
from cowshed.contract.plugging import Plugger
from cowshed.errors import ToolFailed, ToolMissing, UnsupportedOperation
from cowshed.model.host import HostCapabilities
from cowshed.model.vif import PluggedVif, Vif
from cowshed.network import device, mac

DATABASE: Final = "unix:/run/openvswitch/db.sock"  # where the switch itself, and libvirt's ovs-vsctl, have it
_NAME: Final = 14  # letters of a tap's name, as OpenStack has them


class OvsPlugger(Plugger):
    """os-vif makes the bridge where it is missing; libvirt makes the guest's tap and its port, and takes them away when
    the guest ends. os-vif takes away what a guest has left that ended otherwise.
    """

    def __init__(self, section: NetworkSection) -> None:
        self.section = section

    def check(self, vif: Vif, host: HostCapabilities) -> None:
        from cowshed.tools import ovs, run

        mac.check(vif.address)
        device.check_name(vif.source)
        if host.session:
            raise UnsupportedOperation(
                subject="libvirt in session mode",
                operation="use Open vSwitch",
                reason="that needs root",
                hint="use --connect qemu:///system",
            )
        for tool in ("ovs-vsctl", "ovs-dpctl"):
            run.require(tool)
        _library()
        if _datapath(vif) == ovs.KERNEL and not ovs.has_kernel_datapath():
            raise UnsupportedOperation(
                subject="Open vSwitch",
                operation=f"use the bridge {vif.source}",
                reason="the kernel has no module openvswitch, which moves the packets of such a bridge",
                hint=f"modprobe openvswitch; or: ovs-vsctl --may-exist add-br {vif.source}"
                f" -- set bridge {vif.source} datapath_type={ovs.USERSPACE}",
            )

    def check_filtering(self, vif: Vif) -> None:
        from cowshed.tools import ovs

        if _datapath(vif) != ovs.KERNEL:
            raise UnsupportedOperation(
                subject=f"the Open vSwitch bridge {vif.source}",
                operation="filter packets",
                reason="a switch in user space takes them from the device before its filters see them",
                hint="use a bridge with datapath_type=system; or give the interface no security group",
            )

    def plug(self, vif: Vif, host: HostCapabilities) -> PluggedVif:
        _call("plug", vif, _datapath(vif))
        return PluggedVif(vif, target=_target(vif), model=vif.model or self.section.model)

    def unplug(self, vif: Vif) -> None:
        from cowshed.tools import ovs

        found = ovs.datapath(vif.source)
        if found is not None:  # the ports went with their bridge
            _call("unplug", vif, found)


def _datapath(vif: Vif) -> str:
    """The bridge's own where there is one: os-vif would change it, with everybody's ports on it.

    :raises UnsupportedOperation: the switch does not run
    """
    from cowshed.tools import ovs

    try:
        return ovs.datapath(vif.source) or vif.details.get("datapath_type") or ovs.KERNEL
    except ToolFailed as error:
        raise UnsupportedOperation(
            subject="Open vSwitch",
            operation=f"use the bridge {vif.source}",
            reason=f"the switch does not answer: {error.output}",
            hint="start it: systemctl start openvswitch-switch",
        ) from error


def _call(verb: str, vif: Vif, datapath: str) -> None:
    """:raises ToolFailed: os-vif or Open vSwitch says no :raises ToolMissing:"""
    os_vif, objects = _library()
    try:
        getattr(os_vif, verb)(_port(objects, vif, datapath), _owner(objects, vif))
    except os_vif.exception.ExceptionBase as error:
        reason = error.__context__ or error  # its own sentence has the whole port in it
        raise ToolFailed(command=f"os-vif {verb} {_target(vif)}", status=1, output=str(reason)) from error


def _target(vif: Vif) -> str:
    return str(vif.details.get("devname") or f"tap{vif.id}"[:_NAME])


def _library() -> tuple[Any, Any]:
    """Told where the switch is, unless its surroundings (Nova) have said so: its own default is a TCP port that the
    switch does not listen on.

    :raises ToolMissing:
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is a library's own business that it needs eventlet
            import os_vif
            from os_vif import exception, objects  # noqa: F401 - os_vif.exception is used
            from oslo_config import cfg
            from vif_plug_ovs import ovs, privsep
    except ImportError as error:
        raise ToolMissing(tool="os-vif", hint="pip install 'cowshed[ovs]'") from error
    cfg.CONF.register_opts(ovs.OvsPlugin.CONFIG_OPTS, group="os_vif_ovs")
    cfg.CONF.set_default("ovsdb_connection", DATABASE, group="os_vif_ovs")
    if os.geteuid() == 0:
        privsep.vif_plug.set_client_mode(False)  # we are root already: no second process for that
    os_vif.initialize()
    return os_vif, objects


def _port(objects: Any, vif: Vif, datapath: str) -> Any:
    network = objects.network.Network(id=vif.details.get("network_id") or vif.id, bridge=vif.source, mtu=vif.mtu)
    profile = objects.vif.VIFPortProfileOpenVSwitch(
        interface_id=vif.details.get("interface_id") or vif.id, datapath_type=datapath
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
