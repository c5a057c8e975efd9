"""The key of a Ceph user: where it is, and what is wrong with the file that should have it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from cowshed.errors import ConfigError
from cowshed.tools.rbd import errors


def key(handle: Any, user: str) -> str | None:
    """In base64, never to be logged; None: it is in no keyring that can be read.

    :param handle: librados, which knows Ceph's configuration
    """
    if key := handle.conf_get("key"):
        return str(key)
    if keyfile := handle.conf_get("keyfile"):
        return Path(keyfile).read_text().strip()
    for path in _keyrings(handle):
        if key := _key_in(path, f"client.{user}"):
            return key
    return None


def useless(handle: Any, user: str, error: Exception) -> ConfigError | None:
    """Of a file without the key librados says "I/O error" or "permission denied", and never its name."""
    keyring = next((path for path in _keyrings(handle) if os.access(path, os.R_OK)), None)
    if keyring is None or handle.conf_get("key") or handle.conf_get("keyfile"):
        return None
    source, entity = f"the keyring {keyring}", f"client.{user}"
    hint = f"name a file with the key of {entity} in [rbd] keyring"
    if not _key_in(keyring, entity):
        return ConfigError(source=source, reason=f"it holds no key of {entity}", hint=hint)
    if errors.number_of(error) == 5:  # an I/O error
        return ConfigError(source=source, reason=f"Ceph cannot read it: {error}", hint=hint)
    return None


def _keyrings(handle: Any) -> list[Path]:
    """Ceph takes the first that it can open."""
    return [Path(path) for path in re.split(r"[,; ]+", handle.conf_get("keyring") or "") if path]


def _key_in(keyring: Path, entity: str) -> str:
    try:
        text = keyring.read_text(errors="replace")
    except OSError:
        return ""
    section = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            section = line.strip("[]")
        elif section == entity and (found := re.match(r"key\s*=\s*(\S+)", line)):
            return found[1]
    return ""
