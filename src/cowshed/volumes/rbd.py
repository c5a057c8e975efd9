"""RBD volumes, through QEMU's own client; the key is a secret of libvirt."""

from __future__ import annotations

import base64
import uuid as uuids
from typing import TYPE_CHECKING, Any, Final

from cowshed.config import RbdSection
from cowshed.contract.connecting import ConnectionInfo, Connector, SecretKeeper
from cowshed.errors import InvalidRequest, NotFound, PermissionDenied
from cowshed.model.disk import DiskFormat, DiskSource, DiskType, NetworkHost
from cowshed.tools import qemu_source
from cowshed.volumes import info as infos
from cowshed.volumes.nbd import port

if TYPE_CHECKING:
    from cowshed.tools.rbd import Cluster

_NAMESPACE: Final = uuids.UUID("c2a7d1c4-1f0a-4a50-a8f5-6b1de9b3a2d7")
MONITOR: Final = 6789


class Rbd(Connector):
    """``data``: ``name`` (``pool[/namespace]/image``). Where it says neither monitors (``hosts``, ``ports``) nor
    a key (``secret_uuid``, ``keyring``), those of ``[rbd]`` in the configuration, or Ceph's own, are taken.
    """

    def __init__(self, secrets: SecretKeeper, section: RbdSection) -> None:
        self._secrets = secrets
        self._section = section

    def check(self, info: ConnectionInfo) -> None:
        name = infos.text(info, "name")
        if name.count("/") not in (1, 2) or not all(name.split("/")):
            raise InvalidRequest(reason=f"{name!r} is not pool/image")
        _hosts(infos.data(info))

    def connect(self, info: ConnectionInfo) -> DiskSource:
        self.check(info)
        source = self._source(info)
        qemu_source.size(source, password=self.key(source))
        return source

    def disconnect(self, info: ConnectionInfo) -> None:
        """The key stays: it is the cluster's, and other volumes use it."""

    def size(self, info: ConnectionInfo) -> int:
        source = self._source(info)
        return qemu_source.size(source, password=self.key(source))

    def look(self, info: ConnectionInfo) -> int | None:
        return self.size(info)

    def password(self, info: ConnectionInfo) -> bytes | None:
        return self.key(self._source(info))

    def key(self, source: DiskSource) -> bytes | None:
        """A secret that libvirt keeps to itself is read where it came from."""
        if not source.secret_uuid:
            return None
        try:
            return self._secrets.read(source.secret_uuid)
        except PermissionDenied:
            return base64.b64decode(self._cluster({"auth_username": source.auth_user}).key())

    def _source(self, info: ConnectionInfo) -> DiskSource:
        data = infos.data(info)
        hosts = _hosts(data)
        cluster = self._cluster(data)
        if data.get("auth_enabled", True) and (hosts or cluster.uses_cephx()):
            user = str(data.get("auth_username") or cluster.user)
            secret = self._secret(data, cluster, user)
        else:
            user = secret = ""
        return DiskSource(
            DiskType.NETWORK,
            DiskFormat.RAW,
            protocol="rbd",
            name=infos.text(info, "name"),
            hosts=hosts or cluster.monitors(),
            auth_user=user,
            secret_uuid=secret,
        )

    def _secret(self, data: Any, cluster: Cluster, user: str) -> str:
        """The UUID of a secret with the key: the one named, where libvirt has it, else one of ours."""
        for named in (data.get("secret_uuid"), self._section.secret_uuid):
            if named and self._has(str(named)):
                return str(named)
        content = base64.b64decode(_key(data.get("keyring")) or cluster.key())
        uuid = str(uuids.uuid5(_NAMESPACE, f"{data.get('cluster_name', '')} {cluster.source} {user}"))
        self._secrets.keep(uuid, "ceph", f"cowshed volumes {uuid}", content)
        return uuid

    def _has(self, uuid: str) -> bool:
        try:
            self._secrets.read(uuid)
        except NotFound:
            return False
        except PermissionDenied:
            return True
        return True

    def _cluster(self, data: Any) -> Cluster:
        from cowshed.tools.rbd import Access, cluster

        section, user = self._section, data.get("auth_username") or self._section.user
        keyring = section.keyring if user == section.user else ""
        return cluster(Access(user, section.ceph_conf, keyring, section.connect_timeout, section.operation_timeout))


def _hosts(data: Any) -> tuple[NetworkHost, ...]:
    hosts, ports = data.get("hosts") or [], data.get("ports") or []
    if ports and len(ports) != len(hosts):
        raise InvalidRequest(reason=f"{len(hosts)} monitors and {len(ports)} ports")
    return tuple(
        NetworkHost(str(host), port(number, MONITOR))
        for host, number in zip(hosts, ports or [None] * len(hosts), strict=True)
    )


def _key(keyring: Any) -> str:
    """The key in the text of a keyring, or "" without one."""
    for line in str(keyring or "").splitlines():
        name, _, found = line.partition("=")
        if name.strip() == "key":
            return found.strip()
    return ""
