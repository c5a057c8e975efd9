"""What the local disks of an instance are, in the contract's words: where each is, how large, and on what it stands."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from cowshed.driver.steps import locate
from cowshed.model.disk import DiskType
from cowshed.model.instance import Instance

if TYPE_CHECKING:
    from cowshed.driver.rooms import Rooms


def told(rooms: Rooms, instance: Instance) -> str:
    """JSON; sizes in bytes. Disks on the network are left out: they need no copying when the instance moves.

    :raises InstanceNotFound:
    """
    rooms.hypervisor.guest(instance.uuid)
    found = []
    for _, disk in locate.disks(rooms, instance.uuid):
        info, source = disk.info(), disk.source()
        if source.type == DiskType.NETWORK:
            continue
        found.append(
            {
                "type": str(info.format),
                "path": str(source.path),
                "virt_disk_size": info.virtual_size,
                "backing_file": info.backing_path or "",
                "disk_size": info.allocated,
                "over_committed_disk_size": max(0, info.virtual_size - info.allocated),
            }
        )
    return json.dumps(found)
