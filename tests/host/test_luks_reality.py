"""Our LUKS heads are LUKS to others too: QEMU and cryptsetup; and nobody sees a key on its way."""

from __future__ import annotations

import logging
import os
import stat
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from cowshed import log
from cowshed.config import DisksSection
from cowshed.disks import config_drive, open_backends
from cowshed.disks.encryption import key_of
from cowshed.disks.file import FileDisk
from cowshed.disks.keys import FileKeys
from cowshed.errors import DataCorrupt, ToolFailed
from cowshed.model.disk import Base, DiskFormat
from cowshed.tools import luks, luks_header, qemu_img
from cowshed.tools.run import find, require, run
from cowshed.units import GiB, MiB

pytestmark = pytest.mark.host

DATA = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture
def keys(tmp_path: Path) -> FileKeys:
    return FileKeys(tmp_path / "keys")


@pytest.fixture(params=["raw", "qcow2"])
def disk(request: pytest.FixtureRequest, keys: FileKeys, tmp_path: Path) -> FileDisk:
    found = open_backends(tmp_path / "instances", DisksSection(), keys=keys)[request.param]
    handle = found.disk(str(uuid.uuid4()), "disk")
    assert isinstance(handle, FileDisk)
    return handle


@pytest.fixture
def base(tmp_path: Path) -> Base:
    path = tmp_path / "base"
    with path.open("wb") as file:
        file.write(DATA)
        file.truncate(16 * MiB)
    path.chmod(0o444)
    return Base(path, DiskFormat.RAW, 16 * MiB)


def facts(disk: FileDisk, keys: FileKeys) -> str:
    chain = luks.Chain(replace(disk.source(), backing=None), keys.get)  # info opens no parents
    with luks.handed(chain.keys) as (secret, fds):
        found = run(["qemu-img", "info", *secret, "--image-opts", chain.options], timeout=30, pass_fds=fds)
    return found.stdout.decode()


def test_qemu_says_what_was_pinned(disk: FileDisk, keys: FileKeys, base: Base) -> None:
    disk.create(GiB, base, encrypt=True)
    said = facts(disk, keys)
    for line in ("cipher alg: aes-256", "cipher mode: xts", "ivgen alg: plain64", "hash alg: sha256"):
        assert line in said
    assert "virtual size: 1 GiB" in said
    assert "iters: 10000" in said
    encryption = disk.info().encryption
    assert encryption is not None
    assert dict(encryption.parameters) == {**luks_header.PINNED, "iterations": "10000"}


def test_an_image_has_no_errors_and_leaks_nothing(keys: FileKeys, base: Base, tmp_path: Path) -> None:
    for number, cluster in enumerate((512, 4096, 65536, 2 * MiB)):
        section = DisksSection(cluster_size=cluster)
        found = open_backends(tmp_path / f"i{number}", section, keys=keys)["qcow2"].disk(str(uuid.uuid4()), "disk")
        found.create(64 * MiB, base, encrypt=True)
        chain = luks.Chain(found.source(), keys.get)
        with luks.handed(chain.keys) as (secret, fds):
            words = ["check", *secret, "--image-opts", chain.options]
            said = run(["qemu-img", *words], timeout=30, pass_fds=fds).stdout.decode()
        assert "No errors were found" in said


def test_an_encrypted_overlay_costs_the_same_for_any_size(keys: FileKeys, base: Base, tmp_path: Path) -> None:
    backend = open_backends(tmp_path / "i", DisksSection(), keys=keys)["qcow2"]
    allocated = []
    for size in (16 * MiB, 400 * GiB):
        found = backend.disk(str(uuid.uuid4()), "disk")
        found.create(size, base, encrypt=True)
        allocated.append(found.info().allocated)
    assert max(allocated) < 3 * MiB


def test_cryptsetup_opens_it_with_its_key_and_no_other(keys: FileKeys, tmp_path: Path) -> None:
    if find("cryptsetup") is None:
        pytest.skip("needs cryptsetup: see scripts/packages.sh")
    disk = open_backends(tmp_path / "instances", DisksSection(), keys=keys)["raw"].disk(str(uuid.uuid4()), "disk")
    disk.create(8 * MiB, encrypt=True)
    path, encryption = disk.source().path, disk.info().encryption
    assert path is not None and encryption is not None
    said = run(["cryptsetup", "luksDump", path], timeout=30).stdout.decode()
    assert "xts-plain64" in said
    assert "Version:       \t1" in said
    opened = ["cryptsetup", "open", "--test-passphrase", "--key-file", "-", path]
    run(opened, timeout=30, input=key_of(keys, encryption.key_id))
    with pytest.raises(ToolFailed, match="No key available"):
        run(opened, timeout=30, input=b"x" * 64)


def test_a_wrong_key_opens_nothing(disk: FileDisk, keys: FileKeys, tmp_path: Path) -> None:
    disk.create(8 * MiB, encrypt=True)
    encryption = disk.info().encryption
    assert encryption is not None
    (keys.directory / encryption.key_id).write_bytes(b"wrong" * 12)
    with pytest.raises(DataCorrupt, match="its key does not open it"):
        disk.extract(tmp_path / "out", DiskFormat.RAW, plaintext=True)
    assert not (tmp_path / "out").exists()


def test_a_damaged_head_is_noticed_before_the_disk_is_touched(keys: FileKeys, tmp_path: Path) -> None:
    disk = open_backends(tmp_path / "instances", DisksSection(), keys=keys)["raw"].disk(str(uuid.uuid4()), "disk")
    disk.create(8 * MiB, encrypt=True)
    path = disk.source().path
    assert path is not None
    before = path.stat().st_size
    with path.open("r+b") as file:
        file.write(b"guest")
    with pytest.raises(DataCorrupt, match="LUKS header"):
        disk.resize(16 * MiB)
    assert path.stat().st_size == before
    assert disk.info().virtual_size == 8 * MiB


def test_no_tool_and_no_log_is_told_a_key(
    disk: FileDisk, keys: FileKeys, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Arguments and environment of every qemu-img, and all that is logged."""
    spy, heard = tmp_path / "bin", tmp_path / "heard"
    spy.mkdir()
    (spy / "qemu-img").write_text(
        f'#!/bin/bash\n{{ printf "%s\\n" "$@"; env; }} >>{heard}\nexec {require("qemu-img")} "$@"\n'
    )
    (spy / "qemu-img").chmod(0o755)
    monkeypatch.setenv("COWSHED_PATH", str(spy))
    caplog.set_level(logging.DEBUG)
    for name in ("cowshed", "cowshed.tools.run"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
        monkeypatch.setattr(logging.getLogger(name), "level", logging.DEBUG)
    log.logger("cowshed.tools.run").debug("listening")
    disk.create(32 * MiB, base, encrypt=True)
    disk.resize(64 * MiB)
    disk.extract(tmp_path / "plain", DiskFormat.QCOW2, plaintext=True)
    disk.extract(tmp_path / "sealed", DiskFormat.QCOW2)
    said = heard.read_bytes()
    assert said.count(b"convert") >= 2
    assert "qemu-img" in caplog.text
    for path in keys.directory.iterdir():
        assert path.read_bytes() not in said
        assert path.read_text() not in caplog.text
    assert stat.S_IMODE((tmp_path / "sealed").stat().st_mode) == 0o600
    assert os.listdir(keys.directory)


def test_the_plain_parent_is_not_opened_with_a_key(keys: FileKeys, base: Base, tmp_path: Path) -> None:
    """An overlay encrypts what is written to it; what it still reads from its base is the base's bytes."""
    disk = open_backends(tmp_path / "instances", DisksSection(), keys=keys)["qcow2"].disk(str(uuid.uuid4()), "disk")
    disk.create(32 * MiB, base, encrypt=True)
    source = disk.source()
    assert source.encryption is not None
    assert source.backing is not None
    assert source.backing.encryption is None
    assert qemu_img.info(base.path, DiskFormat.RAW)["virtual-size"] == 16 * MiB
    disk.extract(tmp_path / "out", DiskFormat.RAW, plaintext=True)
    assert (tmp_path / "out").read_bytes() == DATA + bytes(31 * MiB)


@pytest.mark.parametrize("encrypt", [False, True])
def test_a_config_drive_is_read_as_it_was_made(encrypt: bool, keys: FileKeys, tmp_path: Path) -> None:
    disk = open_backends(tmp_path / "instances", DisksSection(), keys=keys)["raw"].disk(
        str(uuid.uuid4()), "disk.config"
    )
    assert isinstance(disk, FileDisk)
    files = {"openstack/latest/meta_data.json": b"{}", "ec2/latest/user-data": b"#!/bin/sh\n" * 500, "one": b""}
    config_drive.create(disk, files, "config-2", encrypt=encrypt)
    assert config_drive.read(disk) == (files, "config-2")
    disk.path.write_bytes(bytes(100_000))
    with pytest.raises((DataCorrupt, ToolFailed)):
        config_drive.read(disk)
