"""What the config drive says of tagged devices, which is known when the domain is defined: libvirt places them then.

The drive is made before, and may be older than the devices. So after each definition it is compared with what it was last
told, and made anew where that is not true any more; its other files are taken from the old one.
"""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING, Any, Final

from cowshed.driver.steps import placing, provision, tagged
from cowshed.driver.steps.disk_names import CONFIG_DRIVE, LOCAL_BACKEND, RESCUED
from cowshed.errors import DataCorrupt

if TYPE_CHECKING:
    from pathlib import Path

    from cowshed.driver.rooms import Rooms
    from cowshed.hypervisor.guest import Guest
    from cowshed.model.instance import Instance

FILE: Final = "devices.json"  # beside the disks: name of a config drive -> what it says

Devices = list[dict[str, Any]]


def refresh(rooms: Rooms, instance: Instance, guest: Guest) -> bool:
    """Before ``guest``, which is defined, is started. True: the drive is another file now, and must be shown anew."""
    name = CONFIG_DRIVE + (RESCUED if placing.rescued(rooms, instance.uuid) else "")
    if name not in placing.remembered(rooms, instance):
        return False
    known, devices = _known(rooms, instance.uuid), tagged.described(rooms, instance, guest)
    if devices == known.get(name, []):
        return False
    _replace(rooms, instance, name, devices)
    _remember(rooms, instance.uuid, {**known, name: devices})
    return True


def _replace(rooms: Rooms, instance: Instance, name: str, devices: Devices) -> None:
    """The new drive is made under a second name; killed in between, the next start removes what has one."""
    from cowshed.disks import config_drive, manifest, metadata

    backend, directory = rooms.backend(LOCAL_BACKEND), rooms.directory(instance.uuid).path
    disk = provision.file_of(backend.disk(instance.uuid, name))
    files, label = config_drive.read(disk)
    second = f"{name}.new-{secrets.token_hex(4)}"
    new = provision.file_of(backend.disk(instance.uuid, second))
    encrypt = disk.source().encryption is not None
    config_drive.create(new, metadata.with_devices(files, devices), label, encrypt=encrypt)
    manifest.exchange(directory, {name: second})
    backend.disk(instance.uuid, second).delete()


def forget(rooms: Rooms, uuid: str, name: str) -> None:
    """The config drive ``name`` has been made anew, or is about to be exchanged for one: it says nothing of devices."""
    known = _known(rooms, uuid)
    if known.pop(name, None):
        _remember(rooms, uuid, known)


def _known(rooms: Rooms, uuid: str) -> dict[str, Devices]:
    path = _path(rooms, uuid)
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise DataCorrupt(path=path, reason=str(error), hint="remove it; the next start writes it") from error


def _remember(rooms: Rooms, uuid: str, known: dict[str, Devices]) -> None:
    from cowshed.tools import filesystem

    filesystem.write_atomically(_path(rooms, uuid), json.dumps(known).encode())


def _path(rooms: Rooms, uuid: str) -> Path:
    return rooms.directory(uuid).path / FILE
