"""The driver without libvirt: what it refuses, what it clears away, what it never removes."""

from __future__ import annotations

import dataclasses
import inspect
import json
import socket
import sys
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cowshed.config import Config, ConsoleSection, GuestSection, HostSection
from cowshed.contract.compute import CAPABILITIES
from cowshed.contract.promise import is_fulfilled
from cowshed.driver import LibvirtDriver
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import examine, launch, layout, locate, placing, serial, sweep
from cowshed.errors import (
    DataCorrupt,
    DiskTooSmall,
    HypervisorUnavailable,
    InvalidRequest,
    PortInUse,
    UnsupportedOperation,
)
from cowshed.host.kvm import KvmState
from cowshed.hypervisor.capabilities import qemu_user
from cowshed.model.disk import Base, Bus, Device, DiskFormat
from cowshed.model.flavor import Flavor
from cowshed.model.image import Image
from cowshed.model.instance import Instance, PowerState
from cowshed.units import GiB, MiB

UUID = "0e1d2c3b-4a59-6877-8695-a4b3c2d1e0f9"
UNFULFILLED = sorted(
    name
    for capability in CAPABILITIES
    for name in vars(capability)
    if not name.startswith("_") and not is_fulfilled(LibvirtDriver, name)
)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Nobody answers at this address."""
    uri = f"qemu+unix:///session?socket={tmp_path}/nobody"
    return Config(host=HostSection(state=str(tmp_path / "state"), uri=uri), guest=GuestSection(config_drive=False))


@pytest.fixture
def rooms(config: Config) -> Rooms:
    return Rooms(config)


def instance(**fields: Any) -> Instance:
    flavor = fields.pop("flavor", Flavor())
    return Instance(uuid=fields.pop("uuid", UUID), name="cow", flavor=flavor, **fields)


def image(**fields: Any) -> Image:
    return Image(id="image", name="debian", disk_format=fields.pop("disk_format", DiskFormat.QCOW2), **fields)


# --- refused before anything happens --------------------------------------------------------------


def test_kvm_is_tried_with_the_emulator_of_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another QEMU in the PATH, or none, says nothing of it."""
    asked: list[tuple[str, bool]] = []

    def probe(timeout: float, cache: Path, *, emulator: str, configured: bool) -> KvmState:
        asked.append((emulator, configured))
        return KvmState(usable=True)

    monkeypatch.setattr("cowshed.host.kvm.probe", probe)
    for path in ("/opt/qemu/bin/qemu", ""):
        assert Rooms(Config(host=HostSection(state=str(tmp_path), emulator=path))).kvm.usable
    assert asked == [("/opt/qemu/bin/qemu", True), ("qemu-system-x86_64", False)]


@pytest.mark.parametrize("name", UNFULFILLED)
def test_what_is_not_fulfilled_says_so_before_it_does_anything(config: Config, name: str) -> None:
    driver = LibvirtDriver(config=config)
    method = getattr(driver, name)
    wanted = [one for one in inspect.signature(method).parameters.values() if one.default is one.empty]
    named = {one.name: None for one in wanted if one.kind is one.POSITIONAL_OR_KEYWORD}
    with pytest.raises(NotImplementedError) as caught:
        method(**named)
    assert isinstance(caught.value, UnsupportedOperation)
    assert name in str(caught.value)
    assert "hypervisor" not in driver.rooms.__dict__
    assert not config.state.exists()


def test_there_are_calls_of_both_kinds() -> None:
    assert "spawn" not in UNFULFILLED
    assert "get_rdp_console" in UNFULFILLED


def test_making_a_driver_opens_nothing(config: Config) -> None:
    loaded = set(sys.modules)
    LibvirtDriver(config=config)
    assert "libvirt" not in set(sys.modules) - loaded
    assert not config.state.exists()


def test_without_libvirt_a_start_says_so(config: Config) -> None:
    with pytest.raises(HypervisorUnavailable):
        LibvirtDriver(config=config).init_host("here")


def test_without_libvirt_the_doctor_goes_on(config: Config) -> None:
    rooms = Rooms(config)
    rooms.__dict__["kvm"] = KvmState(usable=False, reason="not here")
    subjects = [finding.subject for finding in examine.host(rooms)]
    assert "state directory" in subjects
    assert any("libvirt" in subject for subject in subjects)


def test_an_unknown_backend_names_the_known_ones(rooms: Rooms) -> None:
    with pytest.raises(InvalidRequest) as caught:
        rooms.backend("tape")
    assert "qcow2" in str(caught.value.hint)


# --- the plan of the disks ------------------------------------------------------------------------


def test_disks_are_named_and_placed(rooms: Rooms) -> None:
    flavor = Flavor(root=2 * GiB, ephemeral=GiB, swap=64 * MiB)
    plan = layout.plan(rooms, instance(flavor=flavor, config_drive=True), image(), None)
    placed = [(one.spec.name, one.place.target, one.place.bus) for one in plan.disks if one.place]
    assert placed == [
        ("disk", "vda", Bus.VIRTIO),
        ("disk.local", "vdb", Bus.VIRTIO),
        ("disk.swap", "vdc", Bus.VIRTIO),
        ("disk.config", "vdd", Bus.VIRTIO),
    ]
    assert [one.place.readonly for one in plan.disks if one.place] == [False, False, False, True]


def test_an_iso_is_a_cdrom_beside_an_empty_disk(rooms: Rooms) -> None:
    plan = layout.plan(rooms, instance(flavor=Flavor(root=GiB)), image(disk_format=DiskFormat.ISO), None)
    first, second = plan.disks
    assert first.place
    assert (first.spec.name, first.place.device, first.place.readonly) == ("disk.cdrom", Device.CDROM, True)
    assert (second.spec.name, second.spec.image_id) == ("disk", "")


def test_kernel_and_ramdisk_are_no_disks_of_the_guest(rooms: Rooms) -> None:
    plan = layout.plan(rooms, instance(kernel_id="k"), image(properties={"ramdisk_id": "r"}), None)
    assert [(one.spec.name, one.spec.image_id, one.place) for one in plan.disks[:2]] == [
        ("kernel", "k", None),
        ("ramdisk", "r", None),
    ]


def test_a_disk_or_memory_too_small_for_the_image_is_refused(rooms: Rooms) -> None:
    with pytest.raises(DiskTooSmall):
        layout.plan(rooms, instance(flavor=Flavor(root=GiB)), image(virtual_size=2 * GiB), None)
    with pytest.raises(DiskTooSmall):
        layout.plan(rooms, instance(flavor=Flavor(root=GiB)), image(min_disk=2 * GiB), None)
    with pytest.raises(InvalidRequest):
        layout.plan(rooms, instance(flavor=Flavor(memory=64 * MiB)), image(min_ram=GiB), None)


def test_the_places_of_the_disks_are_remembered(rooms: Rooms) -> None:
    one = instance(flavor=Flavor(root=GiB, swap=MiB))
    rooms.directory(one.uuid).create()
    plan = layout.plan(rooms, one, image(), None)
    layout.remember(rooms, one, plan)
    assert placing.remembered(rooms, one) == {planned.spec.name: planned.place for planned in plan.disks}
    (rooms.directory(one.uuid).path / placing.FILE).write_text("{")
    with pytest.raises(DataCorrupt):
        placing.remembered(rooms, one)


def test_the_image_is_remembered_with_its_properties(rooms: Rooms) -> None:
    one, launched = instance(image_ref="image"), image(properties={"hw_machine_type": "pc"})
    assert locate.remembered_image(rooms, one).id == "image"
    rooms.directory(one.uuid).create()
    locate.remember_image(rooms, one, launched)
    assert locate.remembered_image(rooms, one) == launched
    (rooms.directory(one.uuid).path / locate.LAUNCH).write_text("{}")
    with pytest.raises(DataCorrupt):
        locate.remembered_image(rooms, one)


# --- clearing away --------------------------------------------------------------------------------


def test_bases_of_every_disk_are_in_use(rooms: Rooms, tmp_path: Path) -> None:
    bases = []
    for number, name in enumerate(("disk", "disk.rescue", "disk.eph1")):
        path = tmp_path / f"base{number}"
        path.write_bytes(bytes(MiB))
        path.chmod(0o444)
        bases.append(path)
        rooms.backend("qcow2").disk(UUID, name).create(MiB, Base(path, DiskFormat.RAW, MiB))
    assert sweep.bases_in_use(rooms) == set(bases)


def test_a_manifest_that_cannot_be_read_stops_the_sweep(config: Config) -> None:
    driver = LibvirtDriver(config=config)
    driver.rooms.backend("qcow2").disk(UUID, "disk").create(MiB)
    base = driver.cache.make("base", lambda target: target.write_bytes(bytes(MiB)))
    (driver.rooms.instances / UUID / "manifest.json").write_text("{}")
    with pytest.raises(DataCorrupt):
        driver.sweep_cache(all_unused=True)
    assert base.path.exists()


def test_an_instance_on_its_way_out_is_no_obstacle(config: Config) -> None:
    driver = LibvirtDriver(config=config)
    base = driver.cache.make("base", lambda target: target.write_bytes(bytes(MiB)))
    driver.rooms.backend("qcow2").disk(UUID, "disk").create(MiB, base)
    (driver.rooms.instances / UUID).rename(driver.rooms.instances / f"{UUID}_del")
    driver.sweep_cache(all_unused=True)
    assert not base.path.exists()


def test_leftovers_are_cleared(rooms: Rooms) -> None:
    half = rooms.instances / f"{UUID}_del"
    half.mkdir(parents=True)
    (half / "disk").write_bytes(b"x")
    kept = rooms.instances / str(uuid.uuid4())
    kept.mkdir()
    broken = rooms.state / "images" / f".new-{uuid.uuid4()}"
    broken.mkdir(parents=True)
    sweep.leftovers(rooms)
    assert not half.exists()
    assert not broken.exists()
    assert kept.exists()


# --- serial ports ---------------------------------------------------------------------------------


@pytest.fixture
def serving(config: Config) -> Rooms:
    from dataclasses import replace

    return Rooms(replace(config, console=ConsoleSection(serial_tcp=True)))


def test_serial_ports_are_given_only_where_they_are_wanted(rooms: Rooms) -> None:
    assert serial.take(rooms, UUID) == ()
    serial.give_back(rooms, UUID)
    assert not rooms.state.exists()


def test_looking_at_a_request_takes_no_port(serving: Rooms) -> None:
    assert launch._consoles(serving, instance()).serial_ports == ()
    assert not serving.state.exists()


def test_an_instance_keeps_its_port_until_it_is_gone(serving: Rooms) -> None:
    other = str(uuid.uuid4())
    (first,), (second,) = serial.take(serving, UUID), serial.take(serving, other)
    assert first != second
    assert serial.take(serving, UUID) == (first,)
    with socket.create_server(("127.0.0.1", first)):
        (moved,) = serial.take(serving, UUID)
        assert moved not in (first, second)
    (serving.instances / other).mkdir(parents=True)
    serial.keep_existing(serving)
    assert json.loads((serving.facts / serial.RECORD).read_text()) == {str(second): other}
    serial.give_back(serving, other)
    assert json.loads((serving.facts / serial.RECORD).read_text()) == {}


# --- starting -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("failures", "works"), [(0, True), (2, True), (3, False)])
def test_a_port_taken_in_between_is_tried_again(rooms: Rooms, failures: int, works: bool) -> None:
    starts: list[int] = []

    def start(*, paused: bool) -> None:
        assert not paused, "it has no packet filters"
        starts.append(1)
        if len(starts) <= failures:
            raise PortInUse(port=5900, address="127.0.0.1")

    guest = cast(
        Any,
        SimpleNamespace(
            name="cow",
            start=start,
            wait=lambda *_, **__: None,
            state=lambda: PowerState.RUNNING,
            has_saved=lambda: False,
            persistent=lambda: True,
            xml=lambda **_: "<domain><name>cow</name></domain>",
        ),
    )
    if works:
        launch.start(rooms, guest)
    else:
        with pytest.raises(PortInUse):
            launch.start(rooms, guest)
    assert len(starts) == min(failures + 1, launch.START_ATTEMPTS)


# --- who QEMU runs as -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("<model>dac</model><doi>0</doi><baselabel type='kvm'>+1:+2</baselabel><baselabel type='qemu'>+64055:+109</baselabel>", (64055, 109)),
        ("<model>dac</model><baselabel type='kvm'>+0:+0</baselabel>", (0, 0)),
        ("<model>apparmor</model><doi>0</doi>", None),
        ("<model>none</model>", None),
    ],
)  # fmt: skip
def test_the_user_of_qemu_is_read_from_libvirt(model: str, expected: tuple[int, int] | None) -> None:
    xml = f"<capabilities><host><secmodel>{model}</secmodel></host></capabilities>"
    hypervisor = SimpleNamespace(call=lambda *_, **__: xml)
    assert qemu_user(cast(Any, hypervisor)) == expected


def test_what_the_guest_shall_be_told_gets_a_config_drive_also_where_it_is_switched_off(tmp_path: Path) -> None:
    off = Config(host=HostSection(state=str(tmp_path)), guest=GuestSection(config_drive=False))
    silent = Instance(str(uuid.uuid4()), "web", Flavor())
    told = dataclasses.replace(silent, user_data="#cloud-config\n")
    names = [[one.spec.name for one in layout.plan(Rooms(off), who, Image("i"), None).disks] for who in (silent, told)]
    assert names == [["disk"], ["disk", "disk.config"]]
