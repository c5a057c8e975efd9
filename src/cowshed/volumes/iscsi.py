"""iSCSI volumes, through QEMU's own initiator: no session, no device on the host. CHAP by a libvirt secret."""

from __future__ import annotations

import re
from typing import Any

from cowshed import log
from cowshed.contract.connecting import ConnectionInfo, Connector, SecretKeeper
from cowshed.errors import InvalidRequest, NotFound, OperatorError, UnsupportedOperation
from cowshed.model.disk import DiskFormat, DiskSource, DiskType, NetworkHost
from cowshed.tools import qemu_source
from cowshed.volumes import info as infos
from cowshed.volumes.nbd import port

_log = log.logger(__name__)

_IQN = re.compile(r"(iqn\.|eui\.|naa\.)[A-Za-z0-9.:_-]{1,219}")


class Iscsi(Connector):
    """``data``: ``target_portal``, ``target_iqn``, ``target_lun``, and for CHAP ``auth_*``.

    Of several portals (``target_portals`` and their targets and LUNs) the first that answers is used:
    QEMU's initiator has one path.

    :param initiator: the name we log in by
    """

    def __init__(self, secrets: SecretKeeper, initiator: str) -> None:
        self._secrets = secrets
        self._initiator = initiator

    def check(self, info: ConnectionInfo) -> None:
        self._check_auth(info)
        self._sources(info)

    def _check_auth(self, info: ConnectionInfo) -> None:
        data = infos.data(info)
        method = data.get("auth_method")
        if method and method != "CHAP":
            raise UnsupportedOperation(
                subject="QEMU's iSCSI initiator", operation=f"log in by {method}", reason="it knows CHAP"
            )
        if method and not data.get("auth_username"):
            raise InvalidRequest(reason="CHAP needs a user (auth_username)")

    def connect(self, info: ConnectionInfo) -> DiskSource:
        self.check(info)
        password = self._needed_password(info)
        if password is not None and infos.data(info).get("auth_password"):
            self._secrets.keep(infos.secret_uuid(info), "iscsi", f"cowshed/{infos.volume_id(info)}", password)
        return self._answering(info, password)[0]

    def look(self, info: ConnectionInfo) -> int | None:
        self.check(info)
        return self._answering(info, self._needed_password(info))[1]

    def _answering(self, info: ConnectionInfo, password: bytes | None) -> tuple[DiskSource, int]:
        """The first portal that answers, and the bytes there."""
        failed: OperatorError | None = None
        for source in self._sources(info):
            try:
                return source, qemu_source.size(source, password=password)
            except OperatorError as error:
                _log.warning("%s", error)
                failed = failed or error
        assert failed is not None
        raise failed

    def disconnect(self, info: ConnectionInfo) -> None:
        self._secrets.forget(infos.secret_uuid(info))

    def size(self, info: ConnectionInfo) -> int:
        return self._answering(info, self.password(info))[1]

    def password(self, info: ConnectionInfo) -> bytes | None:
        """:raises NotFound: neither the info nor libvirt has it"""
        data = infos.data(info)
        if not data.get("auth_method"):
            return None
        given = data.get("auth_password")
        return str(given).encode() if given else self._secrets.read(infos.secret_uuid(info))

    def _needed_password(self, info: ConnectionInfo) -> bytes | None:
        """Given once, libvirt keeps it for later starts; the record of the instance has none."""
        try:
            return self.password(info)
        except NotFound:
            volume = infos.volume_id(info)
            raise InvalidRequest(reason=f"the CHAP password of volume {volume} is neither given nor kept") from None

    def _sources(self, info: ConnectionInfo) -> list[DiskSource]:
        """One for each portal. :raises InvalidRequest:"""
        data = infos.data(info)
        if portals := data.get("target_portals"):
            iqns = data.get("target_iqns") or [data.get("target_iqn")] * len(portals)
            luns = data.get("target_luns") or [data.get("target_lun")] * len(portals)
            if not len(portals) == len(iqns) == len(luns):
                raise InvalidRequest(reason="target_portals, target_iqns and target_luns are not equally many")
            return [self._source(info, *one) for one in zip(portals, iqns, luns, strict=True)]
        return [self._source(info, data.get("target_portal"), data.get("target_iqn"), data.get("target_lun"))]

    def _source(self, info: ConnectionInfo, portal: Any, iqn: Any, lun: Any) -> DiskSource:
        if not portal or not _IQN.fullmatch(str(iqn)) or not str(lun).isdigit():
            raise InvalidRequest(
                reason=f"an iSCSI volume needs a portal, an IQN and a LUN, not {portal!r}, {iqn!r}, {lun!r}"
            )
        host, _, number = str(portal).split(",")[0].rpartition(":")
        auth = bool(infos.data(info).get("auth_method"))
        return DiskSource(
            DiskType.NETWORK,
            DiskFormat.RAW,
            protocol="iscsi",
            name=f"{iqn}/{lun}",
            hosts=(NetworkHost(host or number, port(number if host else "", qemu_source.PORTS["iscsi"])),),
            auth_user=str(infos.data(info)["auth_username"]) if auth else "",
            secret_uuid=infos.secret_uuid(info) if auth else "",
            initiator=self._initiator,
        )
