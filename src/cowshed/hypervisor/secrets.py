"""Secrets that libvirt keeps: keys of encrypted disks, passwords of Ceph and iSCSI.

A value travels over libvirt's socket only: it is in no argument list, no environment, no log and
no domain XML (which names the secret by its UUID).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cowshed.domain.secret import NAMED, Secret, SecretUsage, Usage
from cowshed.errors import NotFound

if TYPE_CHECKING:
    from cowshed.hypervisor.hypervisor import Hypervisor

__all__ = ["SecretUsage", "Secrets"]


class Secrets:
    """The secrets of one libvirt daemon."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor

    def define(
        self,
        uuid: str,
        usage: SecretUsage,
        name: str,
        content: bytes,
        *,
        ephemeral: bool = False,
        private: bool = False,
        description: str = "",
    ) -> None:
        """Make the secret, or give it a new value.

        :param name: who uses it; for a volume an absolute path. libvirt has one secret of each name
        :param ephemeral: in the daemon's memory only: gone when the daemon ends
        :param private: :meth:`value` cannot read it back
        :raises HypervisorError: another secret has this name, or this UUID another name
        """
        declared = Secret(
            ephemeral=ephemeral,
            private=private,
            uuid=uuid,
            description=description or None,
            usage=Usage(type=usage, **{NAMED[usage]: name}),
        )

        def define(connection: Any) -> None:
            secret = connection.secretDefineXML(declared.to_xml(), 0)
            try:
                secret.setValue(content, 0)
            except BaseException:
                secret.undefine()
                raise

        self._hypervisor.call("define the secret", define, subject=uuid)

    def value(self, uuid: str) -> bytes:
        """:raises NotFound: there is no such secret, or it has no value
        :raises PermissionDenied: it is private
        """
        return self._hypervisor.call(
            "read the secret", lambda c: bytes(c.secretLookupByUUIDString(uuid).value(0)), subject=uuid, repeat=True
        )

    def kept(self, uuid: str) -> bool | None:
        """Does libvirt keep it on disk? False: it is ephemeral; None: there is no such secret."""
        try:
            text = self._hypervisor.call(
                "describe the secret", lambda c: c.secretLookupByUUIDString(uuid).XMLDesc(0), subject=uuid, repeat=True
            )
        except NotFound:
            return None
        return not Secret.parse(text).ephemeral

    def undefine(self, uuid: str) -> None:
        """Already gone is success."""
        try:
            self._hypervisor.call(
                "undefine the secret", lambda c: c.secretLookupByUUIDString(uuid).undefine(), subject=uuid
            )
        except NotFound:
            pass

    def uuids(self) -> list[str]:
        """Of all."""
        return self._hypervisor.call("list the secrets", lambda c: list(c.listSecrets()), repeat=True)
