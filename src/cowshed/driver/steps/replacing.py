"""New disks for an instance that has some: made beside the old ones, exchanged in one step, kept until all is well."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from cowshed import log
from cowshed.driver.steps import config_devices, disk_names, layout, mapping, provision, volumes
from cowshed.driver.steps.disk_names import CONFIG_DRIVE, EPHEMERAL, LOCAL, SWAP
from cowshed.errors import Busy, CowshedError, UnsupportedOperation
from cowshed.model.disk import ManifestDisk
from cowshed.model.image import Image
from cowshed.model.instance import Instance
from cowshed.undo import Undo

if TYPE_CHECKING:
    from cowshed.driver.rooms import Rooms

_log = log.logger(__name__)

_SECOND: Final = ".new-"
_ENDING: Final = re.compile(rf".+{re.escape(_SECOND)}[0-9a-f]{{8}}")


@dataclass(frozen=True, slots=True)
class Replacement:
    """``ending`` makes a second name for each disk of ``plan`` that is replaced; the others stay.

    ``before``: what the manifest had of the instance.
    """

    plan: layout.Plan
    ending: str
    replaced: tuple[str, ...]
    before: Mapping[str, ManifestDisk]


def refuse_volume(rooms: Rooms, instance: Instance, block_devices: Any) -> None:
    """What is on a root volume is the volume service's to replace; where the caller names it, it has done that.

    :raises UnsupportedOperation:
    """
    root = volumes.root(rooms, instance)
    if root and mapping.root_volume(block_devices) is None:
        raise UnsupportedOperation(
            subject=f"instance {instance.name}",
            operation="be rebuilt from an image",
            reason=f"it boots from volume {root.id}",
            hint="write the image to the volume while the instance is stopped, or make a new instance",
        )


def plan(rooms: Rooms, instance: Instance, wanted: layout.Plan, *, keep_ephemeral: bool) -> Replacement:
    """What ``wanted`` has to replace; nothing is made.

    :param keep_ephemeral: ephemeral and swap disks that are there already stay
    """
    from cowshed.disks import manifest

    entries = manifest.load(rooms.directory(instance.uuid).path).disks
    kept = {one.spec.name for one in wanted.disks if keep_ephemeral and _is_ephemeral(one.spec.name)} & entries.keys()
    replaced = tuple(one.spec.name for one in wanted.disks if one.spec.name not in kept)
    return Replacement(wanted, f"{_SECOND}{secrets.token_hex(4)}", replaced, dict(entries))


def _is_ephemeral(name: str) -> bool:
    return name in (LOCAL, SWAP) or name.startswith(EPHEMERAL)


def make(
    rooms: Rooms, instance: Instance, image: Image, new: Replacement, data: provision.Metadata | None, undo: Undo
) -> None:
    """The new disks under their second names; the guest may run on the old ones meanwhile."""
    under = tuple(
        replace(one, spec=replace(one.spec, name=one.spec.name + new.ending))
        for one in new.plan.disks
        if one.spec.name in new.replaced
    )
    provision.disks(rooms, instance, image, layout.Plan(under), undo)
    if CONFIG_DRIVE in new.replaced:
        name = CONFIG_DRIVE + new.ending
        undo.push(
            "delete the new config drive", rooms.backend(disk_names.LOCAL_BACKEND).disk(instance.uuid, name).delete
        )
        encrypt = layout.encrypts(rooms, instance, image)
        provision.config_drive(rooms, instance, data, name, encrypt=encrypt)


def exchange(rooms: Rooms, instance: Instance, new: Replacement) -> None:
    """The new disks get the names, the old ones the second names. Again: the other way round."""
    from cowshed.disks import manifest

    manifest.exchange(rooms.directory(instance.uuid).path, {name: name + new.ending for name in new.replaced})
    config_devices.forget(rooms, instance.uuid, CONFIG_DRIVE)


def take_back(rooms: Rooms, instance: Instance, new: Replacement) -> None:
    """The old disks have the names, whether the exchange came to pass or was interrupted before."""
    from cowshed.disks import manifest

    entries = manifest.load(rooms.directory(instance.uuid).path).disks
    if any(entries.get(name) != new.before.get(name) for name in new.replaced):
        exchange(rooms, instance, new)


def busy(rooms: Rooms, uuid: str) -> AbstractContextManager[None]:
    """Held while disks of the instance are replaced; its death lets go. :raises Busy: somebody is at it"""
    from cowshed.tools import filesystem, locks

    path = rooms.state / "locks" / f"replacing-{uuid}"
    filesystem.make_directory(path.parent)
    return locks.lock(path, timeout=0, what=f"the rebuild of instance {uuid}")


def is_second(name: str) -> bool:
    """Is it the second name of a disk that is being replaced, or was?"""
    return _ENDING.fullmatch(name) is not None


def settle(rooms: Rooms, uuid: str) -> None:
    """Remove what a replacement left that was killed, or could not clear up; of one that is going on nothing is touched.

    Nobody uses it: a guest runs on what has the first names. What fails is logged and tried again the next time.
    """
    from cowshed.disks import manifest

    if not any(is_second(name) for name in manifest.load(rooms.directory(uuid).path).disks):
        return
    try:
        with busy(rooms, uuid):
            leftovers(rooms, uuid)
    except Busy:
        return


def leftovers(rooms: Rooms, uuid: str) -> None:
    """Delete what has a second name still: the old disks at the end, or what a killed replacement left."""
    from cowshed.disks import manifest

    for entry in manifest.load(rooms.directory(uuid).path).disks.values():
        if not is_second(entry.name):
            continue
        try:
            rooms.backend(entry.backend).disk(uuid, entry.name).delete()
            _drop_snapshots(rooms, uuid, entry.name.rpartition(_SECOND)[0])
        except CowshedError as error:
            _log.warning("could not delete %s: %s", entry.name, error)


def _drop_snapshots(rooms: Rooms, uuid: str, name: str) -> None:
    """What snapshots of the old disk have kept under the name that they share."""
    from cowshed.disks import manifest
    from cowshed.disks.snapshots import RecordedSnapshots

    entry = manifest.find(rooms.directory(uuid).path, name)
    disk = rooms.backend(entry.backend).disk(uuid, name) if entry else None
    if isinstance(disk, RecordedSnapshots):
        disk.drop_strays()


def surplus(rooms: Rooms, instance: Instance, new: Replacement) -> list[str]:
    """Disks the instance had and shall not have any more, such as the kernel of the image before."""
    from cowshed.disks import manifest

    wanted = {one.spec.name for one in new.plan.disks}
    entries = manifest.load(rooms.directory(instance.uuid).path).disks
    return [name for name in entries if name not in wanted and not is_second(name)]
