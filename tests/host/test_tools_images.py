"""File systems, ISO images and qemu-img, each read back by a second program."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from cowshed.errors import Busy, InvalidRequest, NoSpace, ToolFailed
from cowshed.model.disk import DiskFormat
from cowshed.tools import iso, mkfs, qemu_img
from cowshed.units import KiB, MiB

FILES = {
    "openstack/latest/meta_data.json": b'{"uuid": "x"}',
    "openstack/latest/user_data": b"#cloud-config\n" * 300,
    "openstack/content/0000": bytes(range(256)) * 9,
    "ec2/latest/meta-data.json": b"{}",
    "empty": b"",
}


def _output(*command: str | Path) -> bytes:
    return subprocess.run([str(word) for word in command], check=True, capture_output=True).stdout


# --- mkfs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", mkfs.KNOWN)
def test_each_file_system_with_its_label(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "disk"
    path.touch()
    os.truncate(path, 320 * MiB)
    mkfs.make(path, kind, label="ephemeral0")
    said = _output("blkid", "-p", "-o", "export", path).decode()
    assert f"TYPE={kind}" in said
    assert "LABEL=ephemeral0" in said
    assert path.stat().st_blocks * 512 < 80 * MiB


@pytest.mark.parametrize("kind", ["ext2", "ext3", "ext4"])
def test_what_we_make_is_clean(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "disk"
    path.touch()
    os.truncate(path, 64 * MiB)
    mkfs.make(path, kind)
    subprocess.run(["e2fsck", "-fn", path], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("kind", "label", "size"),
    [
        ("ntfs", "", 64 * MiB),
        ("ext4", "a" * 17, 64 * MiB),
        ("xfs", "a" * 13, 640 * MiB),
        ("vfat", "a" * 12, 64 * MiB),
        ("ext4", "--help", 64 * MiB),
        ("ext4", "a\nb", 64 * MiB),
        ("xfs", "", 64 * MiB),
        ("ext4", "", KiB),
    ],
)
def test_what_cannot_be_is_refused_before(kind: str, label: str, size: int) -> None:
    with pytest.raises(InvalidRequest):
        mkfs.check(kind, label, size)


@pytest.mark.parametrize("kind", mkfs.KNOWN)
def test_the_smallest_size_we_allow_is_enough(tmp_path: Path, kind: str) -> None:
    size = mkfs.SMALLEST[kind]
    mkfs.check(kind, "", size)
    path = tmp_path / "disk"
    path.touch()
    os.truncate(path, size)
    mkfs.make(path, kind)


# --- iso --------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["cidata", "config-2"])
@pytest.mark.parametrize("names", ["-J", "-R"], ids=["joliet", "rock-ridge"])
def test_another_reader_finds_every_file(tmp_path: Path, label: str, names: str) -> None:
    if shutil.which("isoinfo") is None:
        pytest.skip("needs isoinfo: see scripts/packages.sh test")
    path = tmp_path / "drive"
    path.write_bytes(iso.build(FILES, label))
    found = _output("isoinfo", names, "-f", "-i", path).decode().split()
    assert {f"/{name}" for name in FILES} <= set(found)
    for name, data in FILES.items():
        assert _output("isoinfo", names, "-x", f"/{name}", "-i", path) == data
    assert f"Volume id: {label}" in _output("isoinfo", "-d", "-i", path).decode()


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "", "a\0b", "a" * 200])
def test_names_that_no_drive_can_have(name: str) -> None:
    with pytest.raises(InvalidRequest):
        iso.build({name: b""}, "cidata")


def test_a_label_that_is_too_long() -> None:
    with pytest.raises(InvalidRequest):
        iso.build({}, "x" * 33)


# --- qemu-img ---------------------------------------------------------------------------------


def test_create_info_resize_check(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    qemu_img.create(path, DiskFormat.QCOW2, 16 * MiB, preallocation="metadata", cluster_size="65536")
    qemu_img.resize(path, DiskFormat.QCOW2, 64 * MiB)
    facts = qemu_img.info(path, DiskFormat.QCOW2)
    assert (facts["format"], facts["virtual-size"]) == ("qcow2", 64 * MiB)
    qemu_img.check(path, DiskFormat.QCOW2)


def test_the_format_is_what_we_say(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    qemu_img.create(path, DiskFormat.QCOW2, 16 * MiB)
    assert qemu_img.info(path, DiskFormat.RAW)["format"] == "raw"
    path.write_bytes(bytes(MiB))
    with pytest.raises(ToolFailed):
        qemu_img.info(path, DiskFormat.QCOW2)


@pytest.mark.parametrize("name", ["json:{}", "nbd:localhost:1", "-f", "--help", "a b", "file:x", "%s", "a,b=c"])
def test_hostile_names_are_only_names(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(name)
    qemu_img.create(path, DiskFormat.QCOW2, MiB)
    assert os.listdir(tmp_path) == [name]
    assert qemu_img.info(path, DiskFormat.QCOW2)["virtual-size"] == MiB


def test_every_format_has_its_driver() -> None:
    assert set(qemu_img.DRIVER) == set(DiskFormat)


def test_an_image_in_use_is_busy(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    qemu_img.create(path, DiskFormat.QCOW2, MiB)
    holder = subprocess.Popen(
        ["qemu-io", "-f", "qcow2", str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        holder.stdin.write(b"read 0 512\n")
        while b"read 512/512" not in (line := holder.stdout.readline()):
            assert line, "qemu-io ended"
        with pytest.raises(Busy):
            qemu_img.resize(path, DiskFormat.QCOW2, 2 * MiB)
        assert qemu_img.info(path, DiskFormat.QCOW2)["virtual-size"] == MiB
    finally:
        holder.stdin.close()
        holder.wait(20)
        holder.stdout.close()
    qemu_img.resize(path, DiskFormat.QCOW2, 2 * MiB)


def test_no_space_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "qemu-img"
    fake.write_text("#!/bin/sh\necho 'qemu-img: disk: Could not resize: No space left on device' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("COWSHED_PATH", str(tmp_path))
    with pytest.raises(NoSpace):
        qemu_img.resize(tmp_path / "disk", DiskFormat.QCOW2, MiB)
