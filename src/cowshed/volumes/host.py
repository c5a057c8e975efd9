"""What a volume service must know of this host: its address, its iSCSI name."""

from __future__ import annotations

import platform
import re
import socket
import sys
import uuid as uuids
from pathlib import Path
from typing import Any, Final

from cowshed.volumes import os_brick

NAME_FILE: Final = Path("/etc/iscsi/initiatorname.iscsi")
MACHINE_ID: Final = Path("/etc/machine-id")
_PREFIX: Final = "iqn.2025-01.org.cowshed"
_NAMESPACE: Final = uuids.UUID("8a0cf1d2-6b1e-4a52-b1f5-35f4d6a0c7e9")


def initiator(configured: str = "", *, name_file: Path = NAME_FILE, machine_id: Path = MACHINE_ID) -> str:
    """This host's iSCSI name: configured, open-iscsi's, or one that follows from the machine's id."""
    return configured or _from_file(name_file) or f"{_PREFIX}:{uuids.uuid5(_NAMESPACE, _machine(machine_id))}"


def _from_file(path: Path) -> str:
    """open-iscsi's file has a line ``InitiatorName=iqn...``; only root may read it on Debian."""
    try:
        found = re.search(r"^InitiatorName=(\S+)", path.read_text(), re.MULTILINE)
    except OSError:
        return ""
    return found[1] if found else ""


def _machine(path: Path) -> str:
    try:
        return path.read_text().strip() or socket.gethostname()
    except OSError:
        return socket.gethostname()


def address(configured: str = "") -> str:
    """Where storage reaches us: configured, else the address of the default route; no packet is sent."""
    if configured:
        return configured
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
    except OSError:
        return "127.0.0.1"


def connector(ip: str, name: str, host: str) -> dict[str, Any]:
    """What ``get_volume_connector`` answers; os-brick, where it is installed, adds what it finds (FC, NVMe)."""
    own = {
        "ip": ip,
        "initiator": name,
        "host": host,
        "multipath": False,
        "platform": platform.machine(),
        "os_type": sys.platform,
        "do_local_attach": False,
    }
    return {**os_brick.properties(ip), **own}
