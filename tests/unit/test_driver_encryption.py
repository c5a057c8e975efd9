"""Which disks of an instance are encrypted, who asks for it, and that their keys come and go with them. No libvirt."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

import pytest

from cowshed.config import Config, DisksSection, GuestSection, HostSection, RbdSection
from cowshed.disks import manifest
from cowshed.disks.keys import FileKeys
from cowshed.disks.rbd import RbdBackend
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import layout, leaving, provision, taking, teardown
from cowshed.errors import InvalidRequest, NoSpace, UnsupportedOperation
from cowshed.images import pull
from cowshed.model.disk import DiskFormat, Encryption, EncryptionFormat, ManifestDisk
from cowshed.model.flavor import Flavor
from cowshed.model.image import Image
from cowshed.model.instance import Instance
from cowshed.testing import MemoryBackend
from cowshed.undo import Undo
from cowshed.units import MiB

SIZE = 2 * MiB


def house(state: Path, **disks: Any) -> Rooms:
    section = DisksSection(luks_iterations=1000, **disks)
    return Rooms(Config(host=HostSection(state=str(state)), guest=GuestSection(config_drive=False), disks=section))


@pytest.fixture
def rooms(tmp_path: Path) -> Rooms:
    return house(tmp_path / "state")


@pytest.fixture
def debian(rooms: Rooms, tmp_path: Path) -> Image:
    path = tmp_path / "debian.raw"
    path.write_bytes(os.urandom(SIZE))
    return pull.pull(rooms.images, str(path), name="debian", format=DiskFormat.RAW)


def instance(**fields: Any) -> Instance:
    flavor = fields.pop("flavor", Flavor(root=2 * SIZE, ephemeral=8 * MiB, swap=4 * MiB))
    return Instance(uuid=str(uuid.uuid4()), name="cow", flavor=flavor, config_drive=True, **fields)


def make(rooms: Rooms, who: Instance, image: Image) -> None:
    """As ``spawn`` does."""
    with Undo() as undo:
        plan = layout.plan(rooms, who, image, None)
        data = provision.metadata(rooms, who, image, plan, (), [], None)
        provision.directory(rooms, who, undo)
        layout.remember(rooms, who, plan)
        provision.disks(rooms, who, image, plan, undo)
        provision.config_drive(rooms, who, data, encrypt=layout.encrypts(rooms, who, image))


def sealed(rooms: Rooms, who: Instance) -> dict[str, str]:
    """Disk to key, of those that are encrypted."""
    entries = manifest.load(rooms.directory(who.uuid).path).disks
    return {name: entry.encryption.key_id for name, entry in entries.items() if entry.encryption}


def keys(rooms: Rooms) -> list[str]:
    return sorted(os.listdir(rooms.state / "keys")) if (rooms.state / "keys").exists() else []


@pytest.mark.parametrize("backend", ["qcow2", "raw"])
def test_what_an_encrypted_disk_is_filled_with_never_lies_on_the_storage(rooms: Rooms, backend: str) -> None:
    disk = provision.file_of(rooms.backend(backend).disk(str(uuid.uuid4()), "disk.config"))
    places: list[int] = []

    def write(path: Path) -> None:
        path.write_bytes(b"a password" * 1024)
        places.append(path.stat().st_dev)

    disk.create_filled(MiB, write, encrypt=True)
    assert places != [disk.directory.stat().st_dev]
    plain = rooms.state / "plain"
    disk.extract(plain, DiskFormat.RAW, plaintext=True)
    assert plain.read_bytes().startswith(b"a password" * 1024)
    assert b"a password" not in disk.data.read_bytes()


@pytest.mark.parametrize("backend", ["qcow2", "raw"])
def test_every_disk_of_its_own_is_encrypted_and_reads_as_it_should(
    rooms: Rooms, debian: Image, backend: str, tmp_path: Path
) -> None:
    who = instance(encrypt=True, backend=backend, hostname="sealed-meadow")
    make(rooms, who, debian)
    found = sealed(rooms, who)
    assert set(found) == {"disk", "disk.local", "disk.swap", "disk.config"}
    assert keys(rooms) == sorted(found.values())
    held = b"".join(path.read_bytes() for path in rooms.directory(who.uuid).path.iterdir() if path.name in found)
    assert b"sealed-meadow" not in held
    assert b"SWAPSPACE2" not in held
    plain = {}
    for name in found:
        target = tmp_path / name
        entry = manifest.require(rooms.directory(who.uuid).path, name)
        rooms.backend(entry.backend).disk(who.uuid, name).extract(target, DiskFormat.RAW, plaintext=True)
        plain[name] = target.read_bytes()
    stored = rooms.images.local_path(debian)
    assert stored is not None
    assert plain["disk"][:SIZE] == stored.read_bytes()
    assert plain["disk.swap"][4086:4096] == b"SWAPSPACE2"
    assert plain["disk.local"][1080:1082] == b"\x53\xef"  # ext4
    assert b"sealed-meadow" in plain["disk.config"]
    teardown.delete_disks(rooms, who)
    assert keys(rooms) == []


@pytest.mark.parametrize(
    ("fields", "properties", "specs", "configured", "wanted"),
    [
        ({}, {}, {}, False, False),
        ({"encrypt": True}, {}, {}, False, True),
        ({}, {"hw_ephemeral_encryption": "true"}, {}, False, True),
        ({}, {}, {"hw:ephemeral_encryption": "yes", "hw:ephemeral_encryption_format": "luks"}, False, True),
        ({}, {"hw_ephemeral_encryption": "true"}, {"hw:ephemeral_encryption": "false"}, False, False),
        ({}, {}, {}, True, True),
        ({}, {"hw_ephemeral_encryption": "false"}, {}, True, False),
    ],
)
def test_who_asks_for_it(
    tmp_path: Path, fields: dict[str, Any], properties: dict[str, str], specs: dict[str, str], configured: bool,
    wanted: bool,
) -> None:  # fmt: skip
    rooms = house(tmp_path, encrypt=configured)
    image = Image("i", properties=properties)
    who = instance(flavor=Flavor(root=SIZE, extra_specs=specs), **fields)
    assert layout.encrypts(rooms, who, image) is wanted
    assert {one.spec.encrypt for one in layout.plan(rooms, who, image, None).disks} == {wanted}


def test_a_way_that_there_is_not(tmp_path: Path) -> None:
    image = Image("i", properties={"hw_ephemeral_encryption": "true", "hw_ephemeral_encryption_format": "plain"})
    with pytest.raises(InvalidRequest, match="hw_ephemeral_encryption_format: 'plain' is not known"):
        layout.plan(house(tmp_path), instance(), image, None)


def test_the_bytes_of_an_image_stay_as_plain_as_they_are_in_the_cache(tmp_path: Path) -> None:
    image = Image("i", disk_format=DiskFormat.ISO, properties={"kernel_id": "k", "ramdisk_id": "r"})
    plan = layout.plan(house(tmp_path), instance(encrypt=True), image, None)
    assert {one.spec.name for one in plan.disks if not one.spec.encrypt} == {"kernel", "ramdisk", "disk.cdrom"}


def test_a_backend_that_cannot_is_told_before_anything_is_made(rooms: Rooms, debian: Image) -> None:
    rooms.__dict__["backends"] = {**rooms.backends, "memory": MemoryBackend()}
    who = instance(encrypt=True, disk_backends={"swap": "memory"})
    with pytest.raises(UnsupportedOperation, match="backend memory cannot encrypt disks") as caught:
        make(rooms, who, debian)
    assert "cowshed backends" in str(caught.value.hint)
    assert not rooms.directory(who.uuid).exists()
    assert keys(rooms) == []


def test_a_failure_at_any_disk_leaves_no_key(rooms: Rooms, debian: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise NoSpace(place="disk", needed=1, free=0)

    who = instance(encrypt=True)
    monkeypatch.setattr("cowshed.tools.mkfs.make", full)
    with pytest.raises(NoSpace):
        make(rooms, who, debian)
    assert keys(rooms) == []
    assert not rooms.directory(who.uuid).exists()


@pytest.mark.parametrize("owner", [manifest, FileKeys])
def test_a_reception_killed_at_a_key_that_came_leaves_none_that_nobody_names(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch, owner: Any
) -> None:
    """Of a disk that stays where it is: killed where its line is written, or where its key is."""
    who = instance()
    place = rooms.directory(who.uuid)
    place.create()
    rooms.__dict__["backends"] = {"rbd": RbdBackend(rooms.instances, RbdSection(pool="pool"), rooms.keys)}
    there = Encryption(EncryptionFormat.LUKS, str(uuid.uuid4()))
    entry = ManifestDisk("disk", "rbd", DiskFormat.RAW, "pool/disk", SIZE, encryption=there)
    name = "record" if owner is manifest else "keep"
    real = getattr(owner, name)

    def killed(*arguments: Any) -> None:
        real(*arguments)
        raise SystemExit

    monkeypatch.setattr(owner, name, killed)
    with pytest.raises(SystemExit):
        taking.stays(rooms, place.path, entry, {"disk": b"a key that came"})
    (own,) = sealed(rooms, who).values()
    assert own != there.key_id
    assert set(keys(rooms)) <= {own}
    leaving.forget_common_keys(rooms, who)
    assert keys(rooms) == []
