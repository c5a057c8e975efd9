"""The connecting contract: the host side of a volume, and who else has a part in it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

from cowshed.model.disk import DiskSource

ConnectionInfo: TypeAlias = Mapping[str, Any]
"""``driver_volume_type`` and ``data``, as Cinder gives them; ``serial`` or ``volume_id`` is the volume's id."""


class Connector(ABC):
    """Makes volumes of one ``driver_volume_type`` usable on this host."""

    @abstractmethod
    def check(self, info: ConnectionInfo) -> None:
        """Everything that can be known from ``info`` alone; nothing is touched.

        :raises InvalidRequest: something is missing or contradicts :raises UnsupportedOperation:
        """

    @abstractmethod
    def connect(self, info: ConnectionInfo) -> DiskSource:
        """Make the host side, see that the volume is there, and say how QEMU opens it; repeating is success.

        :raises NotFound: the storage has no such volume
        :raises PermissionDenied: the storage does not let us :raises OperatorError: it does not answer
        """

    @abstractmethod
    def disconnect(self, info: ConnectionInfo) -> None:
        """Remove the host side; already gone is success."""

    @abstractmethod
    def size(self, info: ConnectionInfo) -> int:
        """Bytes of a connected volume as the storage says now; the host looks anew."""

    def look(self, info: ConnectionInfo) -> int | None:
        """Bytes of a volume that is not connected, before anything is made; None: it is known when it is connected.

        :raises NotFound: :raises PermissionDenied: :raises OperatorError: as ``connect``
        """
        return None

    def password(self, info: ConnectionInfo) -> bytes | None:
        """What a tool beside libvirt needs to open it; None: nothing. :raises NotFound: it is not kept"""
        return None


class SecretKeeper(Protocol):
    """Who keeps passwords for QEMU (libvirt), so that no XML and no argument carries one."""

    def keep(self, uuid: str, usage: str, name: str, content: bytes) -> None:
        """Durably. :param usage: ``iscsi`` or ``ceph`` :param name: who uses it"""

    def read(self, uuid: str) -> bytes:
        """:raises NotFound:"""

    def forget(self, uuid: str) -> None:
        """Already gone is success."""


class VolumeService(Protocol):
    """What a driver tells the service that volumes come from (Cinder), where there is one."""

    def update_snapshot_status(self, context: Any, snapshot_id: str, status: str) -> None:
        """``creating``, ``error``, ``deleting``, ``error_deleting``: as the service's words are."""


class NoVolumeService:
    """For standalone use: nobody waits to be told."""

    def update_snapshot_status(self, context: Any, snapshot_id: str, status: str) -> None:
        pass
