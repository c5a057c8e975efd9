"""The manifest: whole or refused, one writer at a time."""

from __future__ import annotations

import json
import os
import random
import stat
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from cowshed.disks import manifest
from cowshed.errors import DataCorrupt, DiskNotFound, NameTaken
from cowshed.model.disk import DiskFormat, ManifestDisk

ROOT = ManifestDisk(
    name="disk",
    backend="qcow2",
    format=DiskFormat.QCOW2,
    location="disk",
    virtual_size=10 << 30,
    base_path="/cache/base",
    base_format=DiskFormat.RAW,
    base_digest="crc32-2m:00",
    image_id="debian",
)
SWAP = ManifestDisk("disk.swap", "raw", DiskFormat.RAW, "disk.swap", 1 << 20)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "4f5e"
    path.mkdir()
    return path


def test_what_is_recorded_is_found(directory: Path) -> None:
    assert manifest.load(directory).disks == {}
    manifest.record(directory, ROOT)
    manifest.record(directory, SWAP)
    found = manifest.load(directory)
    assert found.instance == "4f5e"
    assert found.disks == {"disk": ROOT, "disk.swap": SWAP}
    assert isinstance(found.disks["disk"].format, DiskFormat)
    assert stat.S_IMODE((directory / manifest.FILE).stat().st_mode) == 0o600


def test_forgetting_twice(directory: Path) -> None:
    manifest.forget(directory, "disk")
    assert os.listdir(directory) == []  # nothing is made to record that there is nothing
    manifest.record(directory, ROOT)
    manifest.forget(directory, "disk")
    manifest.forget(directory, "disk")
    assert manifest.load(directory).disks == {}


def test_neither_record_nor_file(directory: Path) -> None:
    with pytest.raises(DiskNotFound):
        manifest.require(directory, "disk")


def test_a_file_that_nobody_recorded_is_not_guessed_at(directory: Path) -> None:
    (directory / "disk").write_bytes(b"QFI\xfb")
    with pytest.raises(DataCorrupt, match="does not name the disk"):
        manifest.require(directory, "disk")


def test_an_error_while_naming_puts_the_old_manifest_back(directory: Path) -> None:
    manifest.record(directory, ROOT)
    with pytest.raises(OSError), manifest.recording(directory, replace(ROOT, virtual_size=1)):
        assert manifest.load(directory).disks["disk"].virtual_size == 1
        raise OSError
    assert manifest.load(directory).disks == {"disk": ROOT}


def test_the_record_of_a_disk_that_is_there_is_never_replaced(directory: Path) -> None:
    manifest.record(directory, ROOT)
    (directory / "disk").touch()
    with pytest.raises(NameTaken), manifest.recording(directory, replace(ROOT, virtual_size=1)):
        pass
    assert manifest.load(directory).disks == {"disk": ROOT}


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda text: "", "Expecting value"),
        (lambda text: text[: len(text) // 2], "Expecting|Unterminated|delimiter"),
        (lambda text: text.replace("10737418240", "10737418241"), "checksum"),
        (lambda text: text.replace('"qcow2"', '"raw"'), "checksum"),
        (lambda text: text.replace('"version": 1', '"version": 2'), "version is 2"),
        (lambda text: text.replace('"4f5e"', '"beef"'), "belongs to instance beef"),
        (lambda text: "[]", "list indices"),
        (lambda text: "null", "not subscriptable"),
        (lambda text: "\xff", "decode"),
    ],
)
def test_damage_is_named_and_nothing_is_guessed(directory: Path, damage: object, reason: str) -> None:
    manifest.record(directory, ROOT)
    path = directory / manifest.FILE
    path.write_bytes(damage(path.read_text()).encode("latin-1"))  # type: ignore[operator]
    before = path.read_bytes()
    with pytest.raises(DataCorrupt, match=reason) as caught:
        manifest.load(directory)
    assert str(path) in str(caught.value)
    with pytest.raises(DataCorrupt):
        manifest.record(directory, SWAP)
    with pytest.raises(DataCorrupt):
        manifest.forget(directory, "disk")
    assert path.read_bytes() == before


def test_no_mutation_is_taken_for_something_else(directory: Path) -> None:
    manifest.record(directory, ROOT)
    manifest.record(directory, SWAP)
    path = directory / manifest.FILE
    whole, right = path.read_bytes(), manifest.load(directory)
    chance = random.Random(4)
    refused = 0
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(bytes(data[: chance.choice([len(data), chance.randrange(len(data))])]))
        try:
            assert manifest.load(directory) == right  # at most the white space has changed
        except DataCorrupt:
            refused += 1
    assert refused > 250


def test_a_record_with_what_a_later_version_added_is_refused(directory: Path) -> None:
    entries = {"disk": {"name": "disk", "colour": "blue"}}
    text = {"version": 1, "instance": "4f5e", "checksum": manifest._checksum(entries), "disks": entries}
    (directory / manifest.FILE).write_text(json.dumps(text))
    with pytest.raises(DataCorrupt):
        manifest.load(directory)


def test_writers_at_once_lose_nothing(directory: Path) -> None:
    def work(number: int) -> None:
        for count in range(5):
            manifest.record(directory, replace(SWAP, name=f"disk.{number}.{count}"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(manifest.load(directory).disks) == 40
    assert os.listdir(directory) == [manifest.FILE]


def test_a_manifest_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest.record(tmp_path, ManifestDisk("disk", "raw", DiskFormat.RAW, "disk", 512))
    file = tmp_path / manifest.FILE
    times: list[int] = []
    read = manifest._read
    monkeypatch.setattr(manifest, "_read", lambda path: times.append(1) or read(path))
    manifest.load(tmp_path)
    manifest.load(tmp_path)
    assert len(times) == 2, "what was written just now is not trusted to stay"
    monkeypatch.setattr(manifest._Loaded, "SETTLED", 0)
    assert manifest.load(tmp_path) == manifest.load(tmp_path)
    assert len(times) == 3
    file.write_text(file.read_text().replace('"raw"', '"rew"'))  # as large as before
    os.utime(file, ns=(0, 0))
    with pytest.raises(DataCorrupt):
        manifest.load(tmp_path)
    file.unlink()
    assert not manifest.load(tmp_path).disks
