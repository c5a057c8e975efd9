"""Volumes without storage: specs, connection info, chains, records, and how a volume shows in the domain."""

from __future__ import annotations

import dataclasses
import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from cowshed.config import RbdSection, VolumesSection
from cowshed.domain.naming import Names
from cowshed.driver.steps import mapping, volume_checks
from cowshed.errors import (
    Conflict,
    DataCorrupt,
    ImageRejected,
    InvalidRequest,
    NameTaken,
    NotFound,
    OperatorError,
    PermissionDenied,
    UnsupportedOperation,
)
from cowshed.model.disk import Bus, CacheMode, Device, DiskFormat, DiskSource, DiskType, Encryption, EncryptionFormat
from cowshed.model.volume import AttachedVolume, BlockDeviceInfo, VolumeState
from cowshed.tools import qemu_source
from cowshed.tools.qcow2 import overlay
from cowshed.units import MiB
from cowshed.volumes import chain, find, host, open_connectors, record, shape, spec
from cowshed.volumes import info as infos
from cowshed.volumes.iscsi import Iscsi
from cowshed.volumes.nbd import Nbd

FILE = {"driver_volume_type": "file", "serial": "v", "data": {"path": "/x", "format": "raw"}}


class Secrets:
    """Keeps them in a table."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[str, str, bytes]] = {}

    def keep(self, uuid: str, usage: str, name: str, content: bytes) -> None:
        self.kept[uuid] = (usage, name, content)

    def read(self, uuid: str) -> bytes:
        if uuid not in self.kept:
            raise NotFound(kind="secret", name=uuid)
        return self.kept[uuid][2]

    def forget(self, uuid: str) -> None:
        self.kept.pop(uuid, None)


# --- specs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "data"),
    [
        ("nbd://store/disk", "nbd", {"host": "store", "port": 10809, "export": "disk"}),
        ("nbd://store:10810/a%20b", "nbd", {"host": "store", "port": 10810, "export": "a b"}),
        ("nbd+unix:///disk?socket=/run/x.sock", "nbd", {"socket": "/run/x.sock", "export": "disk"}),
        (
            "iscsi://me@[2001:db8::1]:3261/iqn.2025-01.org.example:a/2",
            "iscsi",
            {
                "target_portal": "[2001:db8::1]:3261",
                "target_iqn": "iqn.2025-01.org.example:a",
                "target_lun": 2,
                "auth_method": "CHAP",
                "auth_username": "me",
            },
        ),
        ("rbd:vms/web", "rbd", {"name": "vms/web"}),
        ("rbd:vms/space/web", "rbd", {"name": "vms/space/web"}),
    ],
)
def test_a_word_becomes_connection_info_and_back(text: str, kind: str, data: dict[str, Any]) -> None:
    found = spec.parse(text)
    assert (found["driver_volume_type"], found["data"]) == (kind, data)
    again = spec.parse(spec.shown(found), user=data.get("auth_username", ""))
    assert again == found  # the identity follows from the place
    assert infos.volume_id(found) == found["serial"]


def test_a_file_and_a_link_to_it_are_one_volume(tmp_path: Path) -> None:
    file, link = tmp_path / "a.img", tmp_path / "b.img"
    file.touch()
    link.symlink_to(file)
    first, second = (spec.parse(str(path), format="raw") for path in (file, link))
    assert first == second
    assert first["data"]["path"] == str(file)
    with pytest.raises(InvalidRequest) as caught:
        spec.parse(str(file))
    assert "never guessed" in str(caught.value.hint)
    with pytest.raises(InvalidRequest):
        spec.parse(str(tmp_path), format="raw")
    with pytest.raises(NotFound):
        spec.parse(str(tmp_path / "none"), format="raw")


def test_a_password_is_given_where_there_is_a_user() -> None:
    found = spec.parse("iscsi://h/iqn.2025-01.x:y/1", user="me", password="chap-secret")
    assert found["data"]["auth_password"] == "chap-secret"
    kept = infos.without_passwords({**found, "instance": object()})
    assert "chap-secret" not in json.dumps(kept)
    assert kept["data"]["auth_username"] == "me"
    with pytest.raises(InvalidRequest):
        spec.parse("nbd://h/x", password="p")


# --- connectors -----------------------------------------------------------------------------------


def test_every_type_of_cinder_has_a_connector_and_others_are_told(tmp_path: Path) -> None:
    connectors = open_connectors(VolumesSection(), rbd=RbdSection(), secrets=Secrets(), state=tmp_path)
    known = (
        "iscsi iser local rbd nfs smbfs fibre_channel gpfs quobyte scaleio vzstorage storpool nvmeof lightos nbd file"
    )
    assert set(known.split()) <= connectors.keys()
    assert isinstance(find(connectors, {"driver_volume_type": "iscsi"}), Iscsi)
    with pytest.raises(UnsupportedOperation) as caught:
        find(connectors, {"driver_volume_type": "tape", "data": {}})
    assert "nbd" in str(caught.value.hint)
    with pytest.raises(InvalidRequest):
        find(connectors, {"data": {}})
    other = open_connectors(VolumesSection(iscsi="os-brick"), rbd=RbdSection(), secrets=Secrets(), state=tmp_path)
    assert not isinstance(find(other, {"driver_volume_type": "iscsi"}), Iscsi)
    assert not list(tmp_path.iterdir())


def test_without_os_brick_its_types_say_so_before_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "os_brick", None)
    connectors = open_connectors(VolumesSection(), rbd=RbdSection(), secrets=Secrets(), state=tmp_path)
    info = {"driver_volume_type": "nvmeof", "data": {"nqn": "nqn.x"}}
    with pytest.raises(UnsupportedOperation) as caught:
        find(connectors, info).check(info)
    assert "cowshed[cinder]" in str(caught.value.hint)
    assert host.connector("192.0.2.1", "iqn.x", "here")["ip"] == "192.0.2.1"


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"host": "h", "socket": "/s"},
        {"socket": "relative"},
        {"host": "h", "port": "many"},
        {"host": "h", "port": 70000},
    ],
)
def test_nbd_needs_one_place(data: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        Nbd().check({"driver_volume_type": "nbd", "data": data})


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"target_portal": ""}, InvalidRequest),
        ({"target_iqn": "not an iqn"}, InvalidRequest),
        ({"target_iqn": "iqn.x/../y"}, InvalidRequest),
        ({"target_lun": -1}, InvalidRequest),
        ({"auth_method": "KRB5"}, UnsupportedOperation),
        ({"auth_method": "CHAP"}, InvalidRequest),
        ({"target_portals": ["a:1", "b:2"], "target_iqns": ["iqn.x"], "target_luns": [1, 1]}, InvalidRequest),
    ],
)
def test_iscsi_refuses_what_it_cannot_use(change: dict[str, Any], kind: type[Exception]) -> None:
    data = {"target_portal": "192.0.2.1:3260", "target_iqn": "iqn.2025-01.x:y", "target_lun": 1, **change}
    with pytest.raises(kind):
        Iscsi(Secrets(), "iqn.here").check({"driver_volume_type": "iscsi", "data": data})


def test_of_several_portals_the_one_that_answers_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def size(source: DiskSource, *, password: bytes | None = None) -> int:
        tried.append((source.hosts[0].name, source.hosts[0].port, source.name, password))
        if source.hosts[0].name == "192.0.2.1":
            raise OperatorError(reason="no answer")
        return MiB

    monkeypatch.setattr(qemu_source, "size", size)
    secrets = Secrets()
    data = {
        "target_portals": ["192.0.2.1:3260", "[2001:db8::1]:3261"],
        "target_iqns": ["iqn.2025-01.x:a", "iqn.2025-01.x:b"],
        "target_luns": [1, 2],
        "auth_method": "CHAP",
        "auth_username": "me",
        "auth_password": "p",
    }
    info = {"driver_volume_type": "iscsi", "serial": "v", "data": data}
    source = Iscsi(secrets, "iqn.here").connect(info)
    assert [one[:3] for one in tried] == [
        ("192.0.2.1", 3260, "iqn.2025-01.x:a/1"),
        ("[2001:db8::1]", 3261, "iqn.2025-01.x:b/2"),
    ]
    assert source.secret_uuid in secrets.kept
    assert secrets.kept[source.secret_uuid][0] == "iscsi"
    assert source.initiator == "iqn.here"
    assert Iscsi(secrets, "iqn.here").size(info) == MiB
    # Later, without the password: libvirt has it.
    kept = infos.without_passwords(info)
    assert Iscsi(secrets, "iqn.here").connect(kept) == source
    assert tried[-1][3] == b"p"
    Iscsi(secrets, "iqn.here").disconnect(kept)
    assert not secrets.kept
    with pytest.raises(InvalidRequest):
        Iscsi(secrets, "iqn.here").connect(kept)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (
            "iSCSI: Failed to connect to LUN : Failed to log in to target. Status: Authentication failure(513)",
            PermissionDenied,
        ),
        ("iSCSI: SENSE KEY:ILLEGAL_REQUEST(5) ASCQ:LOGICAL_UNIT_NOT_SUPPORTED(0x2500)", NotFound),
        ("Requested export not available", NotFound),
        ("Unknown driver 'iscsi'", UnsupportedOperation),
        ("Failed to connect to '127.0.0.1:1': Connection refused", OperatorError),
    ],
)
def test_what_qemu_says_is_told_apart(words: str, kind: type[Exception]) -> None:
    source = DiskSource(DiskType.NETWORK, DiskFormat.RAW, protocol="nbd", name="x")
    told = qemu_source._meaning(source, f'qemu-img: Could not open \'json:{{"secret": "x"}}\': {words}')
    assert type(told) is kind
    assert "json:" not in str(told) + str(told.hint)
    assert told.hint or kind is PermissionDenied


def test_who_may_not_log_in_hears_how_to() -> None:
    source = DiskSource(DiskType.NETWORK, DiskFormat.RAW, protocol="iscsi", name="iqn.x/1")
    told = qemu_source._meaning(source, "iSCSI: Failed to log in to target. Status: Authentication failure(513)")
    assert isinstance(told, PermissionDenied) and "--password-file" in str(told.hint)


def test_this_host_has_one_name_and_keeps_it(tmp_path: Path) -> None:
    (tmp_path / "id").write_text("abc\n")
    names = {"name_file": tmp_path / "none", "machine_id": tmp_path / "id"}
    made = host.initiator(**names)
    assert made == host.initiator(**names)
    assert made.startswith("iqn.")
    (tmp_path / "name").write_text("# comment\nInitiatorName=iqn.1993-08.org.debian:01:x\n")
    assert host.initiator(name_file=tmp_path / "name", machine_id=tmp_path / "id") == "iqn.1993-08.org.debian:01:x"
    assert host.initiator("iqn.mine", name_file=tmp_path / "name") == "iqn.mine"


# --- chains ---------------------------------------------------------------------------------------


def qcow2(path: Path, backing: bytes = b"", backing_format: DiskFormat | None = DiskFormat.RAW) -> Path:
    with path.open("wb") as file:
        if backing:
            overlay.create_overlay(
                file.fileno(), size=MiB, backing_path=Path(os.fsdecode(backing)), backing_format=DiskFormat.RAW
            )
        else:
            overlay.create_blank(file.fileno(), size=MiB)
    if backing and backing_format is None:  # the extension becomes an unknown one
        data = path.read_bytes().replace(struct.pack(">I", 0xE2792ACA), struct.pack(">I", 0x1234), 1)
        path.write_bytes(data)
    return path


def test_a_chain_is_described_down_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "base").write_bytes(b"QFI\xfb" + bytes(600))  # a guest may write such bytes: raw is raw
    top = qcow2(tmp_path / "top", b"base")
    source = chain.source(top, DiskFormat.QCOW2)
    assert (source.path, source.format) == (top, DiskFormat.QCOW2)
    assert source.backing
    assert (source.backing.path, source.backing.format, source.backing.backing) == (
        tmp_path / "base",
        DiskFormat.RAW,
        None,
    )


@pytest.mark.parametrize("name", [b"/etc/passwd", b"../x", b"nbd:h:1", b"json:{}", b"sub/x", b"file:/etc/passwd"])
def test_a_chain_stays_in_its_directory(tmp_path: Path, name: bytes) -> None:
    with pytest.raises(ImageRejected):
        chain.source(qcow2(tmp_path / "top", name), DiskFormat.QCOW2)


def test_a_chain_says_its_formats_and_has_an_end(tmp_path: Path) -> None:
    (tmp_path / "base").write_bytes(bytes(512))
    with pytest.raises(ImageRejected):
        chain.source(qcow2(tmp_path / "top", b"base", None), DiskFormat.QCOW2)
    with pytest.raises(ImageRejected):
        chain.source(tmp_path / "base", DiskFormat.QCOW2)
    with pytest.raises(NotFound):
        chain.source(qcow2(tmp_path / "lost", b"nothing"), DiskFormat.QCOW2)
    with (tmp_path / "circle").open("wb") as file:
        overlay.create_overlay(file.fileno(), size=MiB, backing_path=Path("circle"), backing_format=DiskFormat.QCOW2)
    with pytest.raises(ImageRejected):
        chain.source(tmp_path / "circle", DiskFormat.QCOW2)


# --- the record -----------------------------------------------------------------------------------


def volume(identity: str = "v", **fields: Any) -> AttachedVolume:
    return AttachedVolume(identity, fields.pop("info", FILE), fields.pop("target", "vdb"), **fields)


def test_the_record_holds_all_but_passwords(tmp_path: Path) -> None:
    info = {"driver_volume_type": "iscsi", "serial": "v", "data": {"target_lun": 1, "auth_password": "secret"}}
    made = volume(
        info=info,
        bus=Bus.SCSI,
        device=Device.LUN,
        serial="v",
        alias="ua-v",
        boot_order=2,
        encryption=Encryption(EncryptionFormat.LUKS, "key"),
        tag="t",
        state=VolumeState.DETACHING,
    )
    record.save(tmp_path, made)
    record.save(tmp_path, volume("w"))
    text = (tmp_path / record.FILE).read_text()
    assert "secret" not in text
    assert (tmp_path / record.FILE).stat().st_mode & 0o077 == 0
    first, second = record.load(tmp_path)
    assert first == dataclasses.replace(made, connection_info=infos.without_passwords(info))
    assert second.id == "w"
    record.exchange(tmp_path, ("v", "w"), volume("x"))
    assert [one.id for one in record.load(tmp_path)] == ["x"]
    record.forget(tmp_path, "x")
    record.forget(tmp_path, "x")
    assert record.load(tmp_path) == ()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"version": 2, "volumes": []}', '{"version": 1}', '{"version": 1, "volumes": [{}]}']
)
def test_a_damaged_record_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / record.FILE).write_text(text)
    with pytest.raises(DataCorrupt) as caught:
        record.load(tmp_path)
    assert record.FILE in str(caught.value)


def test_who_uses_a_volume_is_found(tmp_path: Path) -> None:
    for instance in ("a", "b"):
        (tmp_path / instance).mkdir()
        record.save(tmp_path / instance, volume("shared"))
    record.save(tmp_path / "b", volume("own"))
    assert list(record.users(tmp_path, "shared")) == ["a", "b"]
    assert list(record.users(tmp_path, "own")) == ["b"]


# --- in the domain --------------------------------------------------------------------------------


def test_what_the_service_says_shows_in_the_disk() -> None:
    data = {
        **FILE["data"],  # type: ignore[dict-item]
        "access_mode": "ro",
        "discard": True,
        "logical_block_size": "512",
        "physical_block_size": 4096,
        "qos_specs": {"read_iops_sec": "10", "maxThroughput": "for the storage"},
    }
    info = {"driver_volume_type": "file", "serial": "v", "multiattach": True, "data": data}
    source = DiskSource(DiskType.FILE, DiskFormat.RAW, Path("/x"))
    found = shape.disk(volume(info=info, serial="v", alias="ua-v"), source)
    assert (found.readonly, found.shareable, found.discard, found.cache) == (True, True, "unmap", CacheMode.NONE)
    assert (found.logical_block_size, found.physical_block_size) == (512, 4096)
    assert found.iotune
    assert (found.iotune.read_iops_sec, found.iotune.total_iops_sec) == (10, None)


@pytest.mark.parametrize(
    ("data", "bus"),
    [
        ({"access_mode": "wr"}, Bus.VIRTIO),
        ({"logical_block_size": 513}, Bus.VIRTIO),
        ({"logical_block_size": 4096, "physical_block_size": 512}, Bus.VIRTIO),
        ({"logical_block_size": 4096}, Bus.SATA),
        ({"cache": "sometimes"}, Bus.VIRTIO),
        ({"qos_specs": {"total_iops_sec": "1", "read_iops_sec": "1"}}, Bus.VIRTIO),
    ],
)
def test_what_cannot_be_is_told_before_anything(data: dict[str, Any], bus: Bus) -> None:
    with pytest.raises(InvalidRequest):
        shape.check({"driver_volume_type": "file", "data": data}, bus, Device.DISK)


def asked(**fields: Any) -> mapping.Asked:
    return mapping.Asked(fields.pop("info", FILE), **fields)


@pytest.mark.parametrize(
    ("fields", "default", "target", "bus"),
    [
        ({}, Bus.VIRTIO, "vdb", Bus.VIRTIO),
        ({"name": "vdk"}, Bus.VIRTIO, "vdk", Bus.VIRTIO),
        ({"name": "sdc"}, Bus.VIRTIO, "sdc", Bus.SCSI),
        ({"name": "sdc"}, Bus.SATA, "sdc", Bus.SATA),
        ({"bus": "usb"}, Bus.VIRTIO, "sda", Bus.USB),
        ({"device": "cdrom"}, Bus.VIRTIO, "sda", Bus.SCSI),
    ],
)
def test_a_volume_finds_its_place(fields: dict[str, Any], default: Bus, target: str, bus: Bus) -> None:
    found = mapping.placed(asked(**fields), Names([("vda", Bus.VIRTIO)]), default)
    assert (found.target, found.bus, found.serial, found.alias) == (target, bus, "v", "ua-v")


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"name": "vda"}, NameTaken),
        ({"name": "xvdb"}, InvalidRequest),
        ({"bus": "pigeon"}, InvalidRequest),
        ({"device": "tape"}, InvalidRequest),
        ({"device": "lun", "bus": "virtio"}, InvalidRequest),
        ({"encryption": {"provider": "luks2", "encryption_key_id": "k"}}, UnsupportedOperation),
        ({"encryption": {"provider": "luks"}}, InvalidRequest),
        ({"info": {**FILE, "data": {"encrypted": True}}}, InvalidRequest),
        ({"info": {**FILE, "serial": "a b"}}, InvalidRequest),
    ],
)
def test_a_volume_without_a_place_is_told(fields: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        mapping.placed(asked(**fields), Names([("vda", Bus.VIRTIO)]), Bus.VIRTIO)


def test_a_bus_has_an_end() -> None:
    names = Names()
    for _ in range(4):
        mapping.placed(asked(bus="ide"), names, Bus.VIRTIO)
    with pytest.raises(InvalidRequest) as caught:
        mapping.placed(asked(bus="ide"), names, Bus.VIRTIO)
    assert "no room" in str(caught.value)


def test_block_device_info_names_the_root_and_what_it_leaves_open() -> None:
    entry = {"mount_device": "/dev/vda", "connection_info": {**FILE, "serial": ""}, "volume_id": "v-1", "boot_index": 0}
    info = {"root_device_name": "/dev/vda", "block_device_mapping": [entry]}
    (found,) = mapping.entries(info) or []
    assert (found.name, found.info["serial"], found.boot_index) == ("vda", "v-1", 0)
    assert mapping.root_volume(info) == found
    assert mapping.root_volume({**info, "block_device_mapping": [{**entry, "boot_index": None}]})
    assert (
        mapping.root_volume({"root_device_name": "/dev/vdz", "block_device_mapping": [{**entry, "boot_index": -1}]})
        is None
    )
    assert mapping.entries(None) is None
    assert mapping.entries({"root_device_name": "/dev/vda"}) is None
    assert mapping.entries(BlockDeviceInfo()) == []
    with pytest.raises(InvalidRequest):
        mapping.entries({"block_device_mapping": [{"mount_device": "/dev/vdb"}]})


def test_a_used_volume_is_nobody_elses(tmp_path: Path) -> None:
    from cowshed.config import Config, HostSection
    from cowshed.driver.rooms import Rooms
    from cowshed.model.flavor import Flavor
    from cowshed.model.instance import Instance

    rooms = Rooms(Config(host=HostSection(state=str(tmp_path))))
    first, second = (Instance(f"00000000-0000-4000-8000-00000000000{n}", f"n{n}", Flavor()) for n in (1, 2))
    place = rooms.directory(first.uuid)
    place.create()
    record.save(place.path, volume())
    with pytest.raises(NameTaken):
        volume_checks.refuse_used(rooms, first, FILE)
    with pytest.raises(Conflict):
        volume_checks.refuse_used(rooms, second, {**FILE, "serial": "another-name"})
    volume_checks.refuse_used(rooms, second, {**FILE, "serial": "w", "data": {"path": "/y", "format": "raw"}})
    with pytest.raises(Conflict):  # only one of the two is willing to share
        volume_checks.refuse_used(rooms, second, {**FILE, "multiattach": True})
    record.save(place.path, volume(info={**FILE, "multiattach": True}))
    volume_checks.refuse_used(rooms, second, {**FILE, "multiattach": True})


def test_volumes_make_room_for_the_disks_of_a_rescue() -> None:
    from cowshed.driver.steps import volumes
    from cowshed.model.disk import AttachedDisk

    source = DiskSource(DiskType.FILE, DiskFormat.RAW, Path("/x"))
    own = [AttachedDisk(source, name) for name in ("vda", "vdb", "vdc")]
    connected = [AttachedDisk(source, name, serial=name) for name in ("vdb", "vdd", "sda")]
    connected[2] = dataclasses.replace(connected[2], bus=Bus.SCSI)
    found = {one.serial: one.target for one in volumes.around(own, connected)}
    assert found == {"vdd": "vdd", "sda": "sda", "vdb": "vde"}


def test_the_last_of_many_users_disconnects_a_shared_volume_once(tmp_path: Path) -> None:
    """All leave at the same moment: the host side goes once, with the last, and no record stays."""
    from concurrent.futures import ThreadPoolExecutor

    from cowshed.config import Config, HostSection
    from cowshed.contract.connecting import Connector
    from cowshed.driver.rooms import Rooms
    from cowshed.driver.steps import volumes
    from cowshed.model.flavor import Flavor
    from cowshed.model.instance import Instance

    class Counted(Connector):
        left: list[int]

        def check(self, info: Any) -> None: ...

        def connect(self, info: Any) -> DiskSource:
            return DiskSource(DiskType.FILE, DiskFormat.RAW, Path("/x"))

        def disconnect(self, info: Any) -> None:
            self.left.append(len(list(record.users(rooms.instances, "v"))))

        def size(self, info: Any) -> int:
            return MiB

    rooms = Rooms(Config(host=HostSection(state=str(tmp_path))))
    counted = Counted()
    counted.left = []
    rooms.__dict__["connectors"] = {"file": counted}
    instances = [Instance(f"00000000-0000-4000-8000-0000000000{n:02d}", f"n{n}", Flavor()) for n in range(50)]
    shared = volume(info={**FILE, "multiattach": True})
    for one in instances:
        rooms.directory(one.uuid).create()
        volumes.connect(rooms, one, shared)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda one: volumes.disconnect(rooms, one, shared), instances))
    assert counted.left == [1]
    assert not list(record.users(rooms.instances, "v"))
