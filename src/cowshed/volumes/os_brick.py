"""Every other kind of volume, as os-brick connects it: the only importer of os-brick.

os-brick makes a device or a mounted file on this host; QEMU opens that. What os-brick returned is
needed to disconnect, so it is kept beside the instance's disks in the connection info.
"""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from cowshed import log
from cowshed.contract.connecting import ConnectionInfo, Connector
from cowshed.errors import CowshedError, InvalidRequest, NotFound, OperatorError, PermissionDenied, UnsupportedOperation
from cowshed.model.disk import DiskFormat, DiskSource, DiskType
from cowshed.tools import qemu_source
from cowshed.volumes import chain
from cowshed.volumes import info as infos
from cowshed.volumes.local import block_size, format_of

_log = log.logger(__name__)

# Cinder's words -> os-brick's protocols, where QEMU has no client of its own or the host's is wanted.
PROTOCOLS: Final = {
    "iscsi": "ISCSI",
    "iser": "ISER",
    "fibre_channel": "FIBRE_CHANNEL",
    "nfs": "NFS",
    "smbfs": "SMBFS",
    "glusterfs": "GLUSTERFS",
    "gpfs": "GPFS",
    "scality": "SCALITY",
    "quobyte": "QUOBYTE",
    "vzstorage": "VZSTORAGE",
    "scaleio": "SCALEIO",
    "storpool": "STORPOOL",
    "nvmeof": "NVMEOF",
    "lightos": "LIGHTOS",
    "huaweisdshypervisor": "HUAWEISDSHYPERVISOR",
}
FILES: Final = ("nfs", "smbfs", "glusterfs", "quobyte", "vzstorage")
DEVICE: Final = "device_info"  # where we keep what os-brick returned, in ``data``


class OsBrick(Connector):
    """Volumes of one kind.

    :param root_helper: the words before a command that needs root; "" for root itself
    :param state: shares are mounted in its ``mnt``, and os-brick's locks are in its ``locks``
    """

    def __init__(self, kind: str, *, state: Path, root_helper: str = "") -> None:
        self.kind = kind
        self._root_helper = root_helper
        self._mounts = state / "mnt"
        self._locks = state / "locks"

    def check(self, info: ConnectionInfo) -> None:
        infos.data(info)
        if self.kind in FILES:
            format_of(info)
        module(self._locks)

    @cached_property
    def _connector(self) -> Any:
        brick = module(self._locks)
        return brick.InitiatorConnector.factory(
            PROTOCOLS.get(self.kind, self.kind.upper()),
            self._root_helper,
            use_multipath=False,
            device_scan_attempts=5,
            mount_point_base=str(self._mounts),
            **{f"{self.kind}_mount_point_base": str(self._mounts)},
        )

    def connect(self, info: ConnectionInfo) -> DiskSource:
        self.check(info)
        device = self._call("connect", lambda: self._connector.connect_volume(dict(infos.data(info))))
        path = Path(str(device.get("path", "")))
        if isinstance(info.get("data"), dict):
            info["data"][DEVICE] = {key: _plain(value) for key, value in device.items()}
            info["data"]["device_path"] = str(path)
        return self._source(info, path)

    def _source(self, info: ConnectionInfo, path: Path) -> DiskSource:
        if self.kind in FILES:
            return chain.source(path, format_of(info))
        if path.is_file():  # some storages show a volume as a file of their own
            return DiskSource(DiskType.FILE, DiskFormat.RAW, path)
        block_size(path)
        return DiskSource(DiskType.BLOCK, DiskFormat.RAW, path)

    def disconnect(self, info: ConnectionInfo) -> None:
        data = {key: value for key, value in infos.data(info).items() if key != DEVICE}
        device = infos.data(info).get(DEVICE)
        self._call(
            "disconnect",
            lambda: self._connector.disconnect_volume(data, device, force=False, ignore_errors=False),
        )

    def size(self, info: ConnectionInfo) -> int:
        path = Path(infos.text(info, "device_path"))
        if path.is_file():
            return qemu_source.size(self._source(info, path))
        found = self._call("extend", lambda: self._connector.extend_volume(dict(infos.data(info))))
        return int(found) if found else block_size(path)

    def _call(self, action: str, function: Any) -> Any:
        """os-brick's errors have many classes; what we can tell apart is told apart."""
        exceptions = _exceptions()
        try:
            return function()
        except (exceptions.VolumeDeviceNotFound, exceptions.TargetPortalNotFound) as error:
            raise NotFound(kind="volume", name=f"{self.kind} {error}") from error
        except NotImplementedError as error:
            raise UnsupportedOperation(
                subject=f"os-brick's {self.kind}", operation=f"{action} a volume", reason=str(error) or "not there"
            ) from error
        except PermissionError as error:
            raise PermissionDenied(action=action, path=f"a {self.kind} volume ({error})") from error
        except CowshedError:
            raise
        except Exception as error:  # a tool that failed, an option that is not set, a key that is missing: many classes
            raise OperatorError(reason=f"os-brick could not {action} a {self.kind} volume: {_line(error)}") from error


def module(locks: Path | None = None) -> Any:
    """os-brick's connectors.

    :param locks: where its locks are, unless its surroundings (Nova) have said so
    :raises UnsupportedOperation: it is not installed, or cannot be loaded
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is a library's own business that it needs eventlet
            import os_brick
            from os_brick import privileged
            from os_brick.initiator import connector
            from oslo_concurrency import lockutils
            from oslo_config import cfg
    except Exception as error:
        missing = isinstance(error, ImportError)
        raise UnsupportedOperation(
            subject="this host",
            operation="connect volumes of this type",
            reason="os-brick is not installed" if missing else f"os-brick cannot be loaded: {error}",
            hint="pip install 'cowshed[cinder]'",
        ) from error
    if locks is not None:
        lockutils.set_defaults(str(locks))
        os_brick.setup(cfg.CONF)
    if os.geteuid() == 0:
        privileged.default.set_client_mode(False)  # we are root already: no second process for that
    return connector


def _exceptions() -> Any:
    from os_brick import exception

    return exception


def kinds() -> tuple[str, ...]:
    """What os-brick would connect, were it there."""
    return tuple(PROTOCOLS)


def properties(ip: str, *, root_helper: str = "", multipath: bool = False) -> Mapping[str, Any]:
    """What os-brick says of this host; empty when it is not there or does not work here."""
    try:
        found = module().get_connector_properties(root_helper, ip, multipath, False, host=socket.gethostname())
    except UnsupportedOperation:
        return {}
    except Exception as error:  # noqa: BLE001 - it asks many tools of the host, each may be missing
        _log.info("os-brick cannot tell of this host: %s", error)
        return {}
    return dict(found)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _plain(value: Any) -> Any:
    """As it is written down."""
    if isinstance(value, (str, int, bool, type(None))):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(one) for one in value]
    raise InvalidRequest(reason=f"os-brick returned a {type(value).__name__}, which cannot be written down")
