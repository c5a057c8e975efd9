"""Shares: directories of the host, or of a file server, that a guest mounts through virtiofs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class ShareProtocol(StrEnum):
    """How this host reaches the directory."""

    LOCAL = "local"
    NFS = "nfs"
    CEPHFS = "cephfs"


class ShareStatus(StrEnum):
    """What a share is to the guest now."""

    INACTIVE = "inactive"  # the guest is off, or was started without it
    ACTIVE = "active"
    ERROR = "error"  # the guest runs, and nobody answers it any more


@dataclass(frozen=True, slots=True)
class Share:
    """A directory that one or more instances have.

    ``tag`` is what the guest mounts (at most 36 bytes). ``source`` is an absolute path of this host, or
    ``SERVER:/EXPORT`` where ``protocol`` is nfs. Instances that name the same ``id`` share one mount.
    ``status`` is found out when it is asked for, and never written down.
    """

    id: str
    tag: str
    source: str
    protocol: ShareProtocol = ShareProtocol.LOCAL
    read_only: bool = False
    status: ShareStatus = ShareStatus.INACTIVE

    @property
    def alias(self) -> str:
        """Of its device in the domain."""
        return f"ua-share-{self.id}"


@dataclass(frozen=True, slots=True)
class OpenedShare:
    """A share that a domain can be given: libvirt serves ``directory``, or somebody serves it at ``socket``."""

    share: Share
    directory: Path | None = None
    socket: Path | None = None
