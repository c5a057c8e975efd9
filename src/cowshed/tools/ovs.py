"""Open vSwitch, asked through its own tools. Ports come and go through os-vif and libvirt."""

from __future__ import annotations

import json
from typing import Final

from cowshed.errors import DataCorrupt
from cowshed.tools.run import run

KERNEL: Final = "system"  # the switch's words for its data paths: in the kernel, and in its own process
USERSPACE: Final = "netdev"
_TIMEOUT: Final = 10  # seconds


def datapath(bridge: str) -> str | None:
    """What moves the packets of a bridge: :data:`KERNEL` or :data:`USERSPACE`. None: there is no such bridge.

    :raises ToolMissing: :raises ToolFailed: the switch's database does not answer
    """
    words = ["--format=json", "--columns=name,datapath_type", "list", "Bridge"]
    listed = run(["ovs-vsctl", f"--timeout={_TIMEOUT}", *words], timeout=2 * _TIMEOUT)
    try:
        found = {str(name): str(kind) for name, kind in json.loads(listed.stdout)["data"]}
    except (ValueError, KeyError, TypeError) as error:
        raise DataCorrupt(path="what ovs-vsctl lists", reason=str(error)) from error
    return (found[bridge] or KERNEL) if bridge in found else None


def has_kernel_datapath() -> bool:
    """Is the kernel's module there? :raises ToolMissing:"""
    return run(["ovs-dpctl", "dump-dps"], timeout=_TIMEOUT, check=False).status == 0
