"""A volume in one word, as people write it, into connection info.

nbd://host[:port]/export     nbd+unix:///export?socket=/path
iscsi://[user@]host[:port]/iqn.../lun
rbd:pool[/namespace]/image
/dev/...                     a block device
path                         a file, with its format
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

from cowshed.config import user
from cowshed.errors import InvalidRequest, NotFound, UnsupportedOperation
from cowshed.volumes import info as infos

FORMS: Final = (
    "nbd://HOST/EXPORT, nbd+unix:///EXPORT?socket=PATH, iscsi://HOST/IQN/LUN, rbd:POOL/IMAGE, /dev/..., or a file"
)


def parse(
    spec: str,
    *,
    format: str = "",
    user: str = "",
    password: str = "",
    volume_id: str = "",
    **options: Any,
) -> dict[str, Any]:
    """The connection info of ``spec``.

    :param format: of a file: raw or qcow2
    :param user: for CHAP or Ceph :param password: for CHAP
    :param volume_id: its identity and serial number; "" = follows from where it is
    :param options: more of ``data``: ``access_mode``, ``discard``, ``qos_specs``, ``multiattach``, ...
    :raises InvalidRequest: it is none of the forms :raises NotFound: there is no such file
    """
    kind, data = _place(spec, format, user, password)
    if format and kind != "file":
        raise InvalidRequest(reason=f"a format is for files; {spec} is raw bytes to QEMU", hint="leave --format out")
    if password and not data.get("auth_method"):
        raise InvalidRequest(reason=f"{spec} takes no password")
    if user and not data.get("auth_username"):
        raise InvalidRequest(reason=f"{spec} takes no user", hint="iSCSI and Ceph have users")
    multiattach = bool(options.pop("multiattach", False))
    info: dict[str, Any] = {
        "driver_volume_type": kind,
        "data": {**data, **{name: value for name, value in options.items() if value not in (None, "", False, {})}},
    }
    if multiattach:
        info["multiattach"] = True
    info["serial"] = infos.volume_id({**info, "serial": volume_id} if volume_id else info)
    return info


def _place(spec: str, format: str, user: str, password: str) -> tuple[str, dict[str, Any]]:
    scheme = spec.partition(":")[0].lower()
    if spec.startswith("rbd:") or scheme == "rbd":
        return "rbd", _rbd(spec, user)
    if "://" in spec:
        if scheme in ("nbd", "nbd+tcp", "nbd+unix"):
            return "nbd", _nbd(spec)
        if scheme == "iscsi":
            return "iscsi", _iscsi(spec, user, password)
        raise UnsupportedOperation(
            subject="cowshed", operation=f"attach {scheme} volumes", reason=f"{spec} is not of a known form", hint=FORMS
        )
    return _local(spec, format)


def _nbd(spec: str) -> dict[str, Any]:
    parts = _split(spec)
    export = unquote(parts.path.removeprefix("/"))
    if parts.scheme.lower() == "nbd+unix":
        socket = parse_qs(parts.query).get("socket", [""])[0]
        if not socket:
            raise InvalidRequest(reason=f"{spec} does not say the socket", hint="nbd+unix:///EXPORT?socket=/PATH")
        return {"socket": str(Path(socket).absolute()), "export": export}
    if not parts.hostname:
        raise InvalidRequest(reason=f"{spec} does not say the host", hint="nbd://HOST/EXPORT")
    return {"host": parts.hostname, "port": parts.port or 10809, "export": export}


def _iscsi(spec: str, user: str, password: str) -> dict[str, Any]:
    parts = _split(spec)
    iqn, _, lun = parts.path.removeprefix("/").rpartition("/")
    if parts.password:
        raise InvalidRequest(reason="a password in a URL is seen by everybody on this host", hint="use --password-file")
    if not parts.hostname or not iqn or not lun.isdigit():
        raise InvalidRequest(reason=f"{spec} does not say host, target and LUN", hint="iscsi://HOST[:PORT]/IQN/LUN")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    data: dict[str, Any] = {
        "target_portal": f"{host}:{parts.port or 3260}",
        "target_iqn": unquote(iqn),
        "target_lun": int(lun),
    }
    if name := user or unquote(parts.username or ""):
        data |= {"auth_method": "CHAP", "auth_username": name}
        if password:
            data["auth_password"] = password
    return data


def _rbd(spec: str, user: str) -> dict[str, Any]:
    name = spec[4:].lstrip("/")
    if name.count("/") not in (1, 2) or not all(name.split("/")):
        raise InvalidRequest(reason=f"{spec} does not say pool and image", hint="rbd:POOL/IMAGE")
    return {"name": name, **({"auth_username": user} if user else {})}


def _local(spec: str, format: str) -> tuple[str, dict[str, Any]]:
    path = user.path(spec)
    try:
        path = path.resolve(strict=True)
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise NotFound(kind="volume", name=spec, hint=f"known forms: {FORMS}") from None
    except (OSError, RuntimeError) as error:
        raise InvalidRequest(reason=f"{spec} cannot be used: {error}") from error
    if stat.S_ISBLK(mode):
        named = Path(spec) if Path(spec).is_absolute() else path  # /dev/disk/by-id/... stays when sdb becomes sdc
        return "local", {"device_path": str(named)}
    if not stat.S_ISREG(mode):
        raise InvalidRequest(reason=f"{spec} is neither a file nor a block device")
    if not format:
        raise InvalidRequest(
            reason=f"the format of {spec} is not given",
            hint="it is never guessed: add --format qcow2 or raw to volume attach, ,format=qcow2 or ,format=raw to a volume of run",
        )
    return "file", {"path": str(path), "format": format}


def _split(spec: str) -> Any:
    try:
        parts = urlsplit(spec)
        _ = parts.port
    except ValueError as error:
        raise InvalidRequest(reason=f"{spec} cannot be read: {error}") from error
    return parts


def shown(info: Mapping[str, Any]) -> str:
    """Where the volume is, as people write it: what ``parse`` reads, without passwords."""
    data, kind = info.get("data") or {}, info.get("driver_volume_type")
    match kind:
        case "nbd" if data.get("socket"):
            return f"nbd+unix:///{data.get('export') or ''}?socket={data['socket']}"
        case "nbd":
            return f"nbd://{data.get('host')}:{data.get('port') or 10809}/{data.get('export') or ''}"
        case "iscsi" if data.get("target_portal"):
            return f"iscsi://{data['target_portal']}/{data.get('target_iqn')}/{data.get('target_lun')}"
        case "rbd":
            return f"rbd:{data.get('name')}"
        case _:
            return str(
                data.get("path") or data.get("device_path") or f"{kind}:{data.get('name') or data.get('export')}"
            )
