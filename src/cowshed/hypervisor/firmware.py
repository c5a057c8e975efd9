"""UEFI firmwares of this host, from the descriptors that QEMU's packages install.

The format is QEMU's docs/interop/firmware.json; the directories are searched in libvirt's order, a
file name in an earlier one hides the same name in later ones.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from cowshed.config import user
from cowshed.model.host import Firmware

SYSTEM: Final = (Path("/etc/qemu/firmware"), Path("/usr/share/qemu/firmware"))


def directories() -> tuple[Path, ...]:
    own = Path(os.environ.get("XDG_CONFIG_HOME") or (user.home() or Path("/")) / ".config") / "qemu/firmware"
    return (own, *SYSTEM)


def find(arch: str, folders: Iterable[Path] | None = None) -> tuple[Firmware, ...]:
    """UEFI firmwares for ``arch`` whose files are there: plain ones first, in the order of their names."""
    chosen: dict[str, Path] = {}
    for folder in directories() if folders is None else folders:
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
            chosen.setdefault(path.name, path)
    found = [firmware for name in sorted(chosen) if (firmware := _read(chosen[name], arch))]
    unique = {(firmware.loader, firmware.nvram_template): firmware for firmware in found}
    return tuple(sorted(unique.values(), key=lambda firmware: firmware.secure_boot))


def _read(path: Path, arch: str) -> Firmware | None:
    try:
        descriptor = json.loads(path.read_text())
        return _firmware(descriptor, arch)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # an empty file hides a descriptor on purpose; a broken one is as if it were not there


def _firmware(descriptor: dict[str, Any], arch: str) -> Firmware | None:
    mapping = descriptor["mapping"]
    if "uefi" not in descriptor["interface-types"] or mapping["device"] != "flash":
        return None
    if arch not in (target["architecture"] for target in descriptor["targets"]):
        return None
    if mapping.get("mode", "split") != "split" or mapping["executable"].get("format") != "raw":
        return None
    features = descriptor.get("features", ())
    secure = "secure-boot" in features and "requires-smm" in features
    loader = Path(mapping["executable"]["filename"])
    template = Path(mapping["nvram-template"]["filename"])
    if not loader.is_file() or not template.is_file():
        return None
    return Firmware(loader, template, secure_boot=secure, enrolled=secure and "enrolled-keys" in features)
