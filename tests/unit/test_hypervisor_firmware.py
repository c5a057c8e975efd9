"""UEFI firmwares: found by their descriptors, hidden and broken ones left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cowshed.hypervisor import firmware


def descriptor(folder: Path, name: str, *, features: tuple[str, ...] = (), **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    loader, template = folder / f"{name}.code", folder / f"{name}.vars"
    loader.touch()
    template.touch()
    value = {
        "interface-types": ["uefi"],
        "mapping": {
            "device": "flash",
            "executable": {"filename": str(loader), "format": "raw"},
            "nvram-template": {"filename": str(template), "format": "raw"},
        },
        "targets": [{"architecture": "x86_64", "machines": ["pc-q35-*"]}],
        "features": list(features),
        **changes,
    }
    (folder / f"{name}.json").write_text(json.dumps(value))
    return loader


def test_plain_ones_come_first(tmp_path: Path) -> None:
    secure = descriptor(tmp_path, "40-secure", features=("secure-boot", "requires-smm", "enrolled-keys"))
    plain = descriptor(tmp_path, "60-plain", features=("acpi-s3", "amd-sev"))
    found = firmware.find("x86_64", [tmp_path])
    assert [(f.loader, f.secure_boot) for f in found] == [(plain, False), (secure, True)]
    assert [f.enrolled for f in found] == [False, True]


def test_secure_boot_without_keys_is_told_apart(tmp_path: Path) -> None:
    descriptor(tmp_path, "50-secure", features=("secure-boot", "requires-smm"))
    (found,) = firmware.find("x86_64", [tmp_path])
    assert (found.secure_boot, found.enrolled) == (True, False)


def test_what_is_left_out(tmp_path: Path) -> None:
    descriptor(tmp_path, "10-bios", **{"interface-types": ["bios"]})
    descriptor(tmp_path, "20-arm", targets=[{"architecture": "aarch64", "machines": ["virt"]}])
    descriptor(tmp_path, "30-gone").unlink()
    descriptor(tmp_path, "40-memory", mapping={"device": "memory", "filename": "x"})
    (tmp_path / "50-broken.json").write_text("{")
    assert firmware.find("x86_64", [tmp_path]) == ()
    assert firmware.find("x86_64", [tmp_path / "nowhere"]) == ()


def test_an_earlier_directory_hides_the_same_name(tmp_path: Path) -> None:
    own, system = tmp_path / "own", tmp_path / "system"
    descriptor(system, "60-plain")
    own.mkdir()
    (own / "60-plain.json").touch()
    assert firmware.find("x86_64", [own, system]) == ()
