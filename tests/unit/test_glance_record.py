"""Glance's record -> ours, and back; no server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cowshed.errors import InvalidRequest, UnsupportedOperation
from cowshed.images.glance import record
from cowshed.model.disk import DiskFormat
from cowshed.model.image import Image, ImageStatus
from cowshed.units import GiB, MiB

RECORD = {
    "id": "0a8c6f7e-30c1-4f2e-8b62-6a5f4a1f4f4e",
    "name": "debian",
    "status": "active",
    "disk_format": "qcow2",
    "container_format": "bare",
    "size": 7,
    "virtual_size": GiB,
    "os_hash_algo": "sha512",
    "os_hash_value": "ab",
    "min_disk": 2,
    "min_ram": 512,
    "created_at": "2026-01-02T03:04:05Z",
    "updated_at": "2026-01-02T03:04:06Z",
    "checksum": "x",
    "owner": "y",
    "tags": [],
    "stores": "files",
    "protected": False,
    "hw_disk_bus": "scsi",
    "os_glance_importing_to_stores": "",
    "nothing": None,
}


def test_sizes_are_bytes_and_times_seconds() -> None:
    image = record.to_image(RECORD)
    assert (image.min_disk, image.min_ram, image.size, image.virtual_size) == (2 * GiB, 512 * MiB, 7, GiB)
    assert (image.created_at, image.updated_at) == (1767323045.0, 1767323046.0)
    assert image.properties == {"hw_disk_bus": "scsi"}
    assert (image.os_hash_algo, image.os_hash_value) == ("sha512", "ab")


@pytest.mark.parametrize(
    ("format", "container", "expected"),
    [("raw", "bare", 7), ("iso", "bare", 7), ("qcow2", "bare", 0), ("raw", "compressed", 0)],
)
def test_bytes_as_they_are_tell_what_a_guest_sees(format: str, container: str, expected: int) -> None:
    found = record.to_image(RECORD | {"disk_format": format, "container_format": container, "virtual_size": None})
    assert found.virtual_size == expected


@pytest.mark.parametrize("format", DiskFormat)
def test_every_format_comes_back(format: DiskFormat) -> None:
    image = Image(id=str(RECORD["id"]), name="x", disk_format=format, min_disk=GiB + 1, min_ram=3, source="http://x/")
    sent = record.of_image(image)
    assert (sent["min_disk"], sent["min_ram"]) == (2, 1)
    back = record.to_image({**sent, "status": "queued"})
    assert back.disk_format == format
    assert (back.min_disk, back.min_ram, back.source, back.properties) == (GiB + 1, 3, "http://x/", {})


@pytest.mark.parametrize("format", [DiskFormat.AKI, DiskFormat.ARI, DiskFormat.AMI])
def test_kernels_are_in_containers_of_their_own_kind(format: DiskFormat) -> None:
    assert record.of_image(Image(id="", disk_format=format))["container_format"] == format


def test_an_exact_size_that_no_longer_agrees_is_forgotten() -> None:
    assert record.to_image({**RECORD, "cowshed_min_disk": str(GiB + 5)}).min_disk == GiB + 5
    assert record.to_image({**RECORD, "min_disk": 7, "cowshed_min_disk": str(GiB + 5)}).min_disk == 7 * GiB
    assert record.to_image({**RECORD, "cowshed_min_disk": "nonsense"}).min_disk == 2 * GiB


def test_a_record_without_bytes_has_no_format_yet() -> None:
    image = record.to_image({"id": "x", "status": "queued", "disk_format": None, "size": None})
    assert (image.status, image.disk_format, image.size) == (ImageStatus.QUEUED, DiskFormat.RAW, 0)


def test_a_format_that_is_not_known_here_is_said() -> None:
    with pytest.raises(UnsupportedOperation, match="vmdk"):
        record.to_image({**RECORD, "disk_format": "vmdk"})


@pytest.mark.parametrize(
    "change", [{"id": None}, {"size": "7"}, {"size": -1}, {"status": "odd"}, {"min_disk": True}, {"name": 5}]
)
def test_nonsense_is_no_record(change: dict[str, object]) -> None:
    changed = {**RECORD, **change}
    if changed["id"] is None:
        del changed["id"]
    with pytest.raises(ValueError):
        record.to_image(changed)


@pytest.mark.parametrize("name", ["status", "owner", "os_glance_failed_import", "cowshed_source", "os_hash_value"])
def test_glances_own_words_are_no_properties(name: str) -> None:
    with pytest.raises(InvalidRequest, match=name):
        record.of_image(Image(id="", properties={name: "x"}))


def test_the_library_is_loaded_at_the_first_request_only() -> None:
    code = (
        "import sys; from cowshed.config import GlanceSection; from cowshed.images.glance import GlanceService; "
        "GlanceService(GlanceSection()); "
        "print(*[m for m in ('openstack', 'keystoneauth1', 'requests', 'cryptography') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == ""


def test_an_empty_password_file_is_said_to_be_one(tmp_path: Path) -> None:
    from cowshed.errors import ConfigError
    from cowshed.images.glance import client

    (tmp_path / "password").write_text("\n")
    with pytest.raises(ConfigError, match="no password"):
        client._password(str(tmp_path / "password"))
