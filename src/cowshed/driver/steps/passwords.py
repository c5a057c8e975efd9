"""Passwords of volumes (CHAP) that go along with an instance: libvirt keeps them, and no record has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cowshed import log
from cowshed.driver.steps import volumes
from cowshed.errors import CowshedError
from cowshed.model.instance import Instance
from cowshed.model.volume import AttachedVolume
from cowshed.volumes import info as infos

if TYPE_CHECKING:
    from cowshed.driver.rooms import Rooms
    from cowshed.undo import Undo

_log = log.logger(__name__)


def kept(rooms: Rooms, instance: Instance) -> dict[str, str]:
    """By volume id, as far as this host keeps them: without, a control plane is to give them at the other host."""
    return {volume.id: password for volume, password in _kept(rooms, instance)}


def added(info: Mapping[str, Any], password: str | None) -> dict[str, Any]:
    """The connection info with it; None: as it is. :raises InvalidRequest: it has no place for one"""
    return {**info, "data": {**infos.data(info), "auth_password": password}} if password is not None else dict(info)


def keep(rooms: Rooms, found: Sequence[AttachedVolume], passwords: Mapping[str, str], undo: Undo) -> None:
    """Of the volumes ``found`` those that have come, for the starts to come."""
    from cowshed.volumes import find

    for one in found:
        if one.id in passwords:
            connector = find(rooms.connectors, one.connection_info)
            undo.push(f"forget the password of volume {one.id}", connector.disconnect, one.connection_info)
            connector.connect(added(one.connection_info, passwords[one.id]))


def forget(rooms: Rooms, instance: Instance) -> None:
    """It has gone for good. What fails is logged."""
    from cowshed.volumes import find

    for volume, _ in _kept(rooms, instance):
        try:
            with volumes.held(rooms, volume.id):
                find(rooms.connectors, volume.connection_info).disconnect(volume.connection_info)
        except CowshedError as error:
            _log.warning("the password of volume %s of %s is still here: %s", volume.id, instance.name, error)


def _kept(rooms: Rooms, instance: Instance) -> Iterator[tuple[AttachedVolume, str]]:
    from cowshed.volumes import find

    for volume in volumes.recorded(rooms, instance):
        info = volume.connection_info
        if not infos.data(info).get("auth_method"):
            continue  # a key of Ceph is the host's
        try:
            password = find(rooms.connectors, info).password(info)
        except CowshedError as error:
            _log.debug("the password of volume %s is not kept here: %s", volume.id, error)
            continue
        if password is not None:
            yield volume, password.decode()
