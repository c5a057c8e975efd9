"""Snapshots of file-based volumes: overlays that come and go under a guest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from xml.etree import ElementTree as ET

from cowshed import log
from cowshed.driver.steps import quiet, volumes
from cowshed.errors import DiskNotFound, InvalidRequest, InvalidState, NotFound, UnsupportedOperation
from cowshed.model.disk import DiskFormat, DiskSource, DiskType
from cowshed.model.instance import Instance
from cowshed.model.volume import AttachedVolume
from cowshed.volumes import chain, record

if TYPE_CHECKING:
    from cowshed.driver.rooms import Rooms
    from cowshed.hypervisor.guest import Guest

_log = log.logger(__name__)

KIND: Final = "qcow2"


def create(rooms: Rooms, instance: Instance, volume: AttachedVolume, info: Mapping[str, Any]) -> None:
    """The guest goes on writing to ``info["new_file"]``, on top of what it has written so far."""
    _check_kind(info)
    guest = rooms.hypervisor.find(instance.uuid)
    if guest is None or guest.ended():
        raise InvalidState(name=instance.name, state="not running", action="given a snapshot of a volume")
    target, source = _present(guest, volume)
    top = _neighbour(source, str(info.get("new_file") or ""))
    _overlay(top, source)
    _take(rooms, instance, guest, target, top)
    _remember(rooms, instance, volume, top, DiskFormat.QCOW2)


def _check_kind(info: Mapping[str, Any]) -> None:
    if info.get("type") != KIND:
        raise UnsupportedOperation(
            subject="cowshed", operation=f"handle a snapshot of type {info.get('type')!r}", reason="it knows qcow2"
        )


def _present(guest: Guest, volume: AttachedVolume) -> tuple[str, DiskSource]:
    """Target and source of the volume in the domain.

    :raises DiskNotFound: :raises UnsupportedOperation: it is not a file
    """
    disk = volumes.finder(volume)(guest.xml())
    source = volumes.source_at(disk) if disk else None
    if disk is None or source is None:
        raise DiskNotFound(name=f"volume {volume.id} of {guest.name}")
    if source.type != DiskType.FILE or source.path is None:
        raise UnsupportedOperation(
            subject=f"volume {volume.id}", operation="have an overlay as its snapshot", reason="it is not a file"
        )
    return disk.target or volume.target, source


def _neighbour(source: DiskSource, name: str) -> Path:
    """:raises InvalidRequest: it is not in the volume's directory"""
    assert source.path is not None
    path = source.path.parent / name
    if not name or path.parent != source.path.parent or path.name in (".", ".."):
        raise InvalidRequest(reason=f"{name!r} is not a file in {source.path.parent}")
    return path


def _overlay(top: Path, source: DiskSource) -> None:
    """The volume service has made it; where none did, it is made here, for its owner alone."""
    from cowshed.tools import filesystem, qemu_source
    from cowshed.tools.qcow2 import overlay

    assert source.path is not None
    if not top.exists():
        with filesystem.publish(top, mode=0o600) as new:
            overlay.create_overlay(
                new.fd, size=qemu_source.size(source), backing_path=source.path, backing_format=source.format
            )
        return
    layers = chain.layers_of(top, DiskFormat.QCOW2)
    if layers[1:2] != [(source.path, source.format)]:
        raise InvalidRequest(reason=f"{top} does not stand on {source.path}", hint="make it an overlay of that")


def _take(rooms: Rooms, instance: Instance, guest: Guest, target: str, top: Path) -> None:
    """Quiesced where the guest's agent can; without, the snapshot is as after a power cut."""
    from cowshed.domain.domain import Domain

    others = [one.target for one in Domain.parse(guest.xml()).disks if one.target and one.target != target]
    with quiet.quiet(guest, demanded=quiet.demanded(rooms, instance)):
        guest.block_jobs.snapshot(_xml(target, top, others))


def _xml(target: str, top: Path, others: Sequence[str]) -> str:
    root = ET.Element("domainsnapshot")
    disks = ET.SubElement(root, "disks")
    disk = ET.SubElement(disks, "disk", {"name": target, "snapshot": "external", "type": "file"})
    ET.SubElement(disk, "driver", {"type": KIND})
    ET.SubElement(disk, "source", {"file": str(top)})
    for other in others:
        ET.SubElement(disks, "disk", {"name": other, "snapshot": "no"})
    return ET.tostring(root, encoding="unicode")


def _remember(rooms: Rooms, instance: Instance, volume: AttachedVolume, top: Path, format: DiskFormat) -> None:
    """The next start opens what the guest writes to now."""
    data = dict(volume.connection_info["data"])
    data["path" if "path" in data else "name"] = str(top) if "path" in data else top.name
    data["format"] = str(format)
    changed = replace(volume, connection_info={**volume.connection_info, "data": data})
    record.save(volumes.directory(rooms, instance), changed)


# --- merge ----------------------------------------------------------------------------------------


def delete(rooms: Rooms, instance: Instance, volume: AttachedVolume, info: Mapping[str, Any]) -> None:
    """Commit ``file_to_merge`` down into ``merge_target_file``; without that, pull all above it into the top."""
    _check_kind(info)
    guest = rooms.hypervisor.guest(instance.uuid)
    target, source = _present(guest, volume)
    assert source.path is not None
    layers = chain.layers_of(source.path, source.format)
    merged = _layer(source, layers, info.get("file_to_merge"))
    into = _layer(source, layers, info.get("merge_target_file"))
    running = not guest.ended()
    if into is None:
        _pull(rooms, guest if running else None, target, layers, merged)
    elif merged is None:
        raise InvalidRequest(reason="which file is to be merged is not said")
    else:
        _commit(rooms, guest if running else None, target, layers, merged, into)
    if merged == layers[0] and into is not None:
        _remember(rooms, instance, volume, *into)
        if not running:
            _point(rooms, instance, guest, volume.id)


Layer = tuple[Path, DiskFormat]


def _layer(source: DiskSource, layers: Sequence[Layer], name: Any) -> Layer | None:
    """:raises NotFound: no such layer is below the volume"""
    if not name:
        return None
    path = _neighbour(source, str(name))
    for layer in layers:
        if layer[0] == path:
            return layer
    raise NotFound(kind="layer", name=f"{path} below {source.path}")


def _pull(rooms: Rooms, guest: Guest | None, target: str, layers: Sequence[Layer], base: Layer | None) -> None:
    from cowshed.tools import qemu_layers

    if guest:
        guest.block_jobs.pull(target, str(base[0]) if base else None, progress=rooms.progress)
    else:
        qemu_layers.rebase(layers[0][0], base)


def _commit(rooms: Rooms, guest: Guest | None, target: str, layers: Sequence[Layer], top: Layer, base: Layer) -> None:
    from cowshed.tools import qemu_layers

    number = layers.index(top)
    if layers.index(base) <= number:
        raise InvalidRequest(reason=f"{base[0]} is not below {top[0]}")
    if guest:
        guest.block_jobs.commit(target, str(base[0]), str(top[0]), active=number == 0, progress=rooms.progress)
        return
    qemu_layers.commit(top[0], base[0])
    if number:
        qemu_layers.rebase(layers[number - 1][0], base, content=False)


def _point(rooms: Rooms, instance: Instance, guest: Guest, volume_id: str) -> None:
    """The definition of a stopped guest names what is the top now."""
    from cowshed.driver.steps import devices

    volume = next(one for one in volumes.recorded(rooms, instance) if one.id == volume_id)
    look = volumes.finder(volume)
    disk = volumes.connect(rooms, instance, volume)
    guest.devices.detach(look, timeout=1, attempts=1, what=volume.target)
    devices.attach(guest, disk, look)
