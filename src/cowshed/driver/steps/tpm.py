"""What the TPM of an instance remembers: files of swtpm's, which libvirt keeps by the instance's UUID.

libvirt hands them on with a running guest only; a cold move takes them along as they are. libvirt itself gives them to
swtpm's user at the next start, and removes them with the definition of the domain. A file beside them says that they were
received: without a domain they are nobody's then.
"""

from __future__ import annotations

import base64
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cowshed.config import user
from cowshed.errors import DataCorrupt, HostUnsuitable, NameTaken, UnsupportedOperation
from cowshed.model.instance import Instance
from cowshed.units import MiB

if TYPE_CHECKING:
    from cowshed.driver.rooms import Rooms

LARGEST: Final = MiB  # of one file; swtpm's are below 100 KiB
_VERSIONS: Final = ("tpm1.2", "tpm2")  # libvirt's directories, for what swtpm keeps
_NAME: Final = re.compile(r"(tpm1\.2|tpm2)/[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
_RECEIVED: Final = ".received"


def place(rooms: Rooms, uuid: str) -> Path:
    """Where libvirt keeps what the TPM of ``uuid`` remembers."""
    if rooms.config.guest.tpm_directory:
        return Path(rooms.config.guest.tpm_directory) / uuid
    if not _is_session(rooms):
        return Path("/var/lib/libvirt/swtpm", uuid)
    settings = os.environ.get("XDG_CONFIG_HOME") or (user.home() or Path("/")) / ".config"
    return Path(settings, "libvirt/qemu/swtpm", uuid)


def version(rooms: Rooms, uuid: str) -> str:
    """Of the TPM that it has; "": none."""
    from cowshed.domain.domain import Domain

    tpms = Domain.parse(rooms.hypervisor.guest(uuid).xml(inactive=True)).tpms
    return (tpms[0].version or "2.0") if tpms else ""


def check_leaves(rooms: Rooms, instance: Instance) -> None:
    """:raises UnsupportedOperation: what it remembers cannot be read by who we are"""
    if version(rooms, instance.uuid) and not _may(rooms):
        raise UnsupportedOperation(
            subject=f"the TPM of {instance.name}",
            operation="move to another host while it is stopped",
            reason="only root may read what the system's libvirt keeps of it",
            hint="as root; or while it runs: cowshed migrate --live",
        )


def check_comes(rooms: Rooms, instance: Instance, wanted: str) -> None:
    """:raises HostUnsuitable: this host has no such TPMs :raises NameTaken: another one of this UUID is here"""
    if not wanted:
        return
    if wanted not in rooms.capabilities.tpm_versions:
        raise HostUnsuitable(
            reason=f"it has a TPM {wanted}, and the destination has no swtpm that makes one",
            hint="install it there (Debian: swtpm, swtpm-tools)",
        )
    if not _may(rooms):
        raise HostUnsuitable(
            reason="it has a TPM, and only root may give one to the system's libvirt at the destination",
            hint="let [migration] command run cowshed as root there",
        )
    found = place(rooms, instance.uuid)
    if found.exists() and not (found / _RECEIVED).exists():
        raise NameTaken(kind="TPM", name=found, hint="it was left here; remove it if nothing needs it")


def packed(rooms: Rooms, uuid: str) -> dict[str, str]:
    """What it remembers, to be sent; empty: nothing yet. Not while it runs. :raises DataCorrupt: it is too large"""
    from cowshed.tools import filesystem

    found = {}
    for folder in (place(rooms, uuid) / name for name in _VERSIONS):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            name = f"{folder.name}/{path.name}"
            if not _NAME.fullmatch(name):
                continue  # a lock
            fd = filesystem.open_regular(path)
            with os.fdopen(fd, "rb") as file:
                content = file.read(LARGEST + 1)
            if len(content) > LARGEST:
                raise DataCorrupt(path=path, reason="it is too large for what a TPM remembers")
            found[name] = base64.b64encode(zlib.compress(content)).decode()
    return found


def unpack(rooms: Rooms, uuid: str, told: Mapping[str, Any]) -> None:
    """What :func:`packed` has made; in place of what was received before. :raises DataCorrupt: it is not that"""
    from cowshed.tools import filesystem

    if not told:
        return
    target = place(rooms, uuid)
    content = {name: _content(target / name, text) for name, text in told.items()}
    forget_received(rooms, uuid)
    new = target.with_name(f".{uuid}.new")
    filesystem.remove_tree(new, target.with_name(f".{uuid}.gone"))
    filesystem.make_directory(new)
    filesystem.write_atomically(new / _RECEIVED, b"")
    for name, data in content.items():
        filesystem.make_directory(new / Path(name).parent, mode=0o700)
        filesystem.write_atomically(new / name, data)
    filesystem.rename(new, target)
    filesystem.sync_directory(target.parent)


def forget_received(rooms: Rooms, uuid: str) -> None:
    """Only what was received, and only where no domain has it (the caller knows); nothing there is success."""
    from cowshed.tools import filesystem

    found = place(rooms, uuid)
    if (found / _RECEIVED).exists():
        filesystem.remove_tree(found, found.with_name(f".{uuid}.gone"))


def _content(path: Path, text: Any) -> bytes:
    if not _NAME.fullmatch(f"{path.parent.name}/{path.name}"):
        raise DataCorrupt(path=path, reason="no file of a TPM is called so")
    try:
        stream = zlib.decompressobj()
        content = stream.decompress(base64.b64decode(text, validate=True), LARGEST)
        if not stream.eof:
            raise ValueError("it is too large, or cut off")
    except (ValueError, TypeError, zlib.error) as error:
        raise DataCorrupt(path=path, reason=f"what came of it cannot be used: {error}") from error
    return content


def _may(rooms: Rooms) -> bool:
    return os.geteuid() == 0 or _is_session(rooms)


def _is_session(rooms: Rooms) -> bool:
    from cowshed.hypervisor import session

    return session.is_session(rooms.uri)
