"""Volumes: storage that exists without the instance, and how this host reaches it, one connector a type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cowshed.config import RbdSection, VolumesSection
from cowshed.contract.connecting import ConnectionInfo, Connector, SecretKeeper
from cowshed.errors import UnsupportedOperation
from cowshed.volumes import info as infos


def open_connectors(
    section: VolumesSection, *, rbd: RbdSection, secrets: SecretKeeper, state: Path, private: Sequence[Path] = ()
) -> Mapping[str, Connector]:
    """Every connector of this host, by the word in ``driver_volume_type``.

    :param rbd: how the Ceph cluster is reached where a volume does not say
    :param state: where shares are mounted, in ``mnt``
    :param private: directories whose files are nobody's volumes
    """
    from cowshed.volumes import host, os_brick
    from cowshed.volumes.iscsi import Iscsi
    from cowshed.volumes.local import BlockDevice, File
    from cowshed.volumes.nbd import Nbd
    from cowshed.volumes.rbd import Rbd

    bricks: dict[str, Connector] = {
        kind: os_brick.OsBrick(kind, state=state, root_helper=section.root_helper) for kind in os_brick.kinds()
    }
    ours: dict[str, Connector] = {
        "local": BlockDevice(),
        "file": File(private),
        "nbd": Nbd(),
        "rbd": Rbd(secrets, rbd),
    }
    if section.iscsi == "qemu":
        ours["iscsi"] = Iscsi(secrets, host.initiator(section.initiator))
    return {**bricks, **ours}


def find(connectors: Mapping[str, Connector], info: ConnectionInfo) -> Connector:
    """The one for ``info``. :raises UnsupportedOperation: nobody here knows this type of volume"""
    kind = infos.type_of(info)
    if kind not in connectors:
        raise UnsupportedOperation(
            subject="this host",
            operation=f"connect volumes of type {kind!r}",
            reason="there is no such connector",
            hint=f"known: {', '.join(sorted(connectors))}",
        )
    return connectors[kind]
