"""QEMU's certificates for migration: where libvirt looks for them, and which are missing.

libvirt says nothing of them before a migration has begun. What cannot be read from here (another user's files,
another machine's) is not judged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

QEMU_CONF: Final = Path("/etc/libvirt/qemu.conf")
# In libvirt's order: the key of qemu.conf, and the directory without one; the first only where it exists.
_PLACES: Final = (
    ("migrate_tls_x509_cert_dir", Path("/etc/pki/libvirt-migrate")),
    ("default_tls_x509_cert_dir", Path("/etc/pki/qemu")),
)
_KEY: Final = re.compile(r'^\s*(\w+)\s*=\s*"([^"]*)"', re.MULTILINE)
# The side that takes a guest in is TLS's server; the client's own are asked for where the server verifies.
OF_TARGET: Final = ("ca-cert.pem", "server-cert.pem", "server-key.pem")
OF_SOURCE: Final = ("ca-cert.pem",)


def directory(configured: str = "", conf: Path = QEMU_CONF) -> Path | None:
    """Where they are; ``configured`` goes before what qemu.conf says. None: qemu.conf may not be read by us."""
    if configured:
        return Path(configured)
    try:
        said = dict(_KEY.findall(conf.read_text()))
    except FileNotFoundError:
        said = {}
    except OSError:
        return None
    return _chosen(said)


def _chosen(said: Mapping[str, str]) -> Path:
    for key, usual in _PLACES[:-1]:
        if key in said:
            return Path(said[key])
        if usual.is_dir():
            return usual
    key, usual = _PLACES[-1]
    return Path(said.get(key, usual))


def missing(place: Path | None, names: tuple[str, ...]) -> list[Path]:
    """Those of ``names`` that are not there, as far as we may look."""
    found = []
    for name in names if place else ():
        assert place is not None
        try:
            (place / name).stat()
        except FileNotFoundError:
            found.append(place / name)
        except OSError:
            continue
    return found
