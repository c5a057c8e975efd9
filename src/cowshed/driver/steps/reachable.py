"""Can a guest of this host open what a backend makes? Asked before anything is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cowshed.contract.connecting import ConnectionInfo
from cowshed.errors import UnsupportedOperation
from cowshed.volumes import info as infos

if TYPE_CHECKING:
    from cowshed.driver.rooms import Rooms

# Before it, libvirt has pool/image only, and QEMU is told to open an image called namespace/image.
# https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms
RBD_NAMESPACES: Final = (11, 6, 0)


def check(rooms: Rooms, backend: str) -> None:
    """:raises UnsupportedOperation: libvirt here is too old for it"""
    if reason := obstacle(rooms, backend):
        raise UnsupportedOperation(
            subject=f"backend {backend}",
            operation="be used by guests here",
            reason=reason,
            hint="empty [rbd] namespace",
        )


def check_volume(rooms: Rooms, info: ConnectionInfo) -> None:
    """:raises UnsupportedOperation: libvirt here is too old for it"""
    name = infos.text(info, "name") if infos.type_of(info) == "rbd" else ""
    if name.count("/") == 2 and (reason := _too_old(rooms, name.split("/")[1])):
        raise UnsupportedOperation(subject=f"volume {name}", operation="be attached here", reason=reason)


def obstacle(rooms: Rooms, backend: str) -> str:
    """Why not; empty: nothing is in the way."""
    namespace = rooms.config.rbd.namespace
    return _too_old(rooms, namespace) if backend == "rbd" and namespace else ""


def _too_old(rooms: Rooms, namespace: str) -> str:
    if rooms.capabilities.libvirt >= RBD_NAMESPACES:
        return ""
    needed, found = (".".join(map(str, version)) for version in (RBD_NAMESPACES, rooms.capabilities.libvirt))
    return f"the pool's namespace {namespace} needs libvirt {needed}, and this is {found}"
