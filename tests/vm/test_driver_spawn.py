"""Spawn and destroy on real libvirt: what an instance gets, and that a failure at any step leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cowshed.config import ConsoleSection, GuestSection
from cowshed.driver import LibvirtDriver
from cowshed.driver.steps import connect, examine, launch, provision, sweep
from cowshed.errors import (
    CowshedError,
    DigestMismatch,
    HypervisorError,
    InvalidRequest,
    NameTaken,
    NetworkNotConnected,
    NetworkNotFound,
    NoSpace,
    PortInUse,
)
from cowshed.model.flavor import Flavor
from cowshed.model.image import Image
from cowshed.model.instance import Instance, PowerState
from cowshed.model.vif import Vif, VifType
from cowshed.units import GiB, MiB
from tests.conftest import LoopFs
from tests.vm.machines import KERNEL_OPTIONS, MAC, Machines, forwarded, free_port, machines

# --- what an instance gets ------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["qcow2", "raw"])
def test_it_boots_with_swap_ephemeral_disk_config_drive_and_a_forwarded_port(
    house: Machines, tiny: Image, backend: str
) -> None:
    port = free_port()
    instance = house.spawn(
        tiny,
        backend=backend,
        vifs=forwarded(port),
        flavor=Flavor(vcpus=2, memory=192 * MiB, root=128 * MiB, ephemeral=64 * MiB, swap=32 * MiB),
        config_drive=True,
        hostname="meadow",
        user_data="#!/bin/sh\necho user-data-ran >/dev/console\n",
    )
    assert house.state_of(instance) == PowerState.RUNNING
    house.wait(instance, r"cowshed-guest: up")
    said = house.log(instance)
    assert f"disk vda {128 * MiB} rw" in said
    assert f"disk vdb {64 * MiB} rw" in said
    assert f"disk vdc {32 * MiB} rw" in said
    assert "fs vdb ext4 ephemeral0" in said
    assert "seed vdd cidata" in said
    assert f"instance-id {instance.uuid}" in said
    assert "hostname meadow" in said
    assert "cpus 2" in said
    assert "user-data-ran" in said
    assert _page(port) == "cowshed-guest meadow"
    kinds = {
        Path(disk["path"]).name: disk["type"] for disk in json.loads(house.driver.get_instance_disk_info(instance))
    }
    assert kinds == {"disk": backend, "disk.local": backend, "disk.swap": backend, "disk.config": "raw"}


def _page(port: int) -> str:
    """The guest's network may need a moment longer than its ``up``."""
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                return str(answer.read().decode().strip())
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.2)


class Connecting:
    """Connects the interfaces of a guest, or says that it cannot, when it is waited for."""

    def __init__(self, house: Machines, instance: Instance, *, fails: bool) -> None:
        self.house, self.instance, self.fails = house, instance, fails
        self.states: list[PowerState] = []

    @contextmanager
    def wait_for_instance_event(
        self, instance: Instance, events: Sequence[tuple[str, str]], *, timeout: float, error_callback: Any
    ) -> Iterator[None]:
        yield
        time.sleep(1)
        self.states.append(self.house.state_of(instance))
        if self.fails:
            error_callback(events[0][0], instance)

    def update_compute_provider_status(self, context: Any, provider_uuid: str, *, enabled: bool) -> None:
        raise AssertionError


@pytest.mark.parametrize("fails", [False, True])
def test_a_guest_stands_still_until_somebody_has_connected_its_interface(
    house: Machines, tiny: Image, fails: bool
) -> None:
    instance = house.instance(tiny)
    connecting = Connecting(house, instance, fails=fails)
    vifs = [replace(one, active=False) for one in forwarded(free_port())]
    driver = LibvirtDriver(connecting, config=house.config)
    if fails:
        with pytest.raises(NetworkNotConnected):
            driver.spawn(None, instance, tiny, [], None, network_info=vifs)
        house.assert_nothing_left(instance)
    else:
        driver.spawn(None, instance, tiny, [], None, network_info=vifs)
        assert house.state_of(instance) == PowerState.RUNNING
        driver.reboot(None, instance, vifs, "HARD")
        assert house.state_of(instance) == PowerState.RUNNING
    assert connecting.states == ([PowerState.PAUSED] if fails else [PowerState.PAUSED] * 2)


def test_block_devices_of_the_request_win_over_the_flavor(house: Machines, tiny: Image) -> None:
    devices = {
        "swap": {"device_name": "/dev/vdc", "swap_size": 16},
        "ephemerals": [{"size": 1, "guest_format": "vfat"}],
    }
    instance = house.spawn(tiny, disks=devices, flavor=Flavor(memory=160 * MiB, swap=64 * MiB, ephemeral=2 * GiB))
    sizes = {
        Path(disk["path"]).name: disk["virt_disk_size"]
        for disk in json.loads(house.driver.get_instance_disk_info(instance))
    }
    assert sizes == {"disk": tiny.virtual_size, "disk.eph0": GiB, "disk.swap": 16 * MiB}
    house.wait(instance, "fs vdb vfat")


@pytest.mark.parametrize(
    ("properties", "expected"),
    [({"hw_firmware_type": "uefi"}, "firmware uefi"), ({"hw_machine_type": "pc"}, "firmware bios")],
)
def test_the_image_chooses_machine_and_firmware(house: Machines, properties: dict[str, str], expected: str) -> None:
    image = house.image(properties=properties)
    instance = house.spawn(image, flavor=Flavor(memory=224 * MiB))
    house.wait(instance, f"cowshed-guest: {expected}", 180)


def test_kernel_and_ramdisk_images_boot(house: Machines) -> None:
    kernel, ramdisk = (house.image(name, format="raw") for name in ("vmlinuz", "initramfs"))
    root = house.image(
        "tiny.raw",
        properties={"kernel_id": kernel.id, "ramdisk_id": ramdisk.id, "os_command_line": f"{KERNEL_OPTIONS} mine"},
    )
    instance = house.spawn(root)
    assert "mine" in house.wait(instance, r"cowshed-guest: cmdline .*")
    house.driver.reboot(None, instance, [], "HARD")
    assert house.state_of(instance) == PowerState.RUNNING


# --- nothing is left behind -----------------------------------------------------------------------


def _refused(house: Machines, image: Image, error: type[CowshedError], **fields: object) -> None:
    vifs = fields.pop("vifs", None)
    instance = house.instance(image, **fields)
    with pytest.raises(error):
        house.start(instance, image, vifs=vifs)  # type: ignore[arg-type]
    house.assert_nothing_left(instance)
    good = replace(instance, backend="", name=f"again-{instance.uuid[:8]}")
    house.start(good, image)
    assert house.state_of(good) == PowerState.RUNNING


def test_an_unknown_backend_is_refused(house: Machines, tiny: Image) -> None:
    _refused(house, tiny, InvalidRequest, backend="tape")


def test_a_port_in_use_is_refused(house: Machines, tiny: Image) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        _refused(house, tiny, PortInUse, vifs=forwarded(taken.getsockname()[1]))


def test_a_missing_network_is_refused(house: Machines, tiny: Image) -> None:
    _refused(house, tiny, NetworkNotFound, vifs=[Vif("net", MAC, VifType.NETWORK, source="no-such-network")])


def test_a_name_libvirt_knows_already_leaves_nothing(house: Machines, tiny: Image) -> None:
    first = house.spawn(tiny)
    _refused(house, tiny, NameTaken, name=first.name)
    assert house.state_of(first) == PowerState.RUNNING


def test_a_domain_libvirt_refuses_leaves_nothing(house: Machines, tiny: Image) -> None:
    _refused(house, tiny, CowshedError, name="a/b")


def test_a_damaged_image_leaves_nothing(house: Machines) -> None:
    image = house.image("tiny.raw")
    data = house.state / "images" / image.id / "data"
    before = data.read_bytes()
    data.chmod(0o600)
    data.write_bytes(before[:-512] + b"x" * 512)
    instance = house.instance(image)
    with pytest.raises(DigestMismatch):
        house.start(instance, image)
    house.assert_nothing_left(instance)
    assert not list((house.state / "cache").glob(".*part*"))
    data.write_bytes(before)
    house.start(instance, image)


def test_no_space_leaves_nothing_and_a_retry_finds_room(libvirt_uri: str, guest_dir: Path, loopfs: LoopFs) -> None:
    with machines(libvirt_uri, guest_dir, loopfs("ext4", size="160M") / "state") as house:
        image = house.image()
        filler = house.state / "filler"
        with filler.open("wb") as file:
            file.write(bytes(max(0, shutil.disk_usage(house.state).free - 4 * MiB)))
        instance = house.instance(image)
        with pytest.raises(NoSpace):
            house.start(instance, image)
        house.assert_nothing_left(instance)
        assert not house.driver.cache.bases()
        filler.unlink()
        house.start(instance, image)
        assert house.state_of(instance) == PowerState.RUNNING


def test_a_qemu_that_does_not_start_leaves_nothing(house: Machines, tiny: Image) -> None:
    broken = house.reopened(console=ConsoleSection(listen="203.0.113.7"))
    instance = house.instance(tiny)
    with pytest.raises((HypervisorError, InvalidRequest)) as caught:
        broken.spawn(None, instance, tiny, [], None, [])
    assert "Traceback" not in str(caught.value)
    house.assert_nothing_left(instance)
    broken.cleanup_host("here")
    house.start(instance, tiny)
    assert house.state_of(instance) == PowerState.RUNNING


@pytest.mark.parametrize(
    ("room", "step"),
    [
        (provision, "directory"),
        (provision, "disks"),
        (provision, "config_drive"),
        (connect, "plug"),
        (launch, "define"),
        (launch, "start"),
    ],
)
def test_an_interruption_after_any_step_leaves_nothing(
    house: Machines, tiny: Image, monkeypatch: pytest.MonkeyPatch, room: ModuleType, step: str
) -> None:
    usual = getattr(room, step)

    def interrupted(*args: object, **named: object) -> None:
        usual(*args, **named)
        raise KeyboardInterrupt

    monkeypatch.setattr(room, step, interrupted)
    instance = house.instance(tiny, config_drive=True)
    with pytest.raises(KeyboardInterrupt):
        house.start(instance, tiny, vifs=forwarded(free_port()))
    house.assert_nothing_left(instance)


# --- destroy when half of it is gone --------------------------------------------------------------


def test_a_domain_undefined_by_hand_is_no_obstacle(house: Machines, tiny: Image) -> None:
    instance = house.spawn(tiny)
    guest = house.driver.rooms.hypervisor.guest(instance.uuid)
    guest.destroy()
    guest.undefine()
    house.driver.destroy(None, instance, [])
    house.assert_nothing_left(instance)


def test_a_directory_deleted_by_hand_is_no_obstacle(house: Machines, tiny: Image) -> None:
    instance = house.spawn(tiny)
    shutil.rmtree(house.state / "instances" / instance.uuid)
    for _ in range(2):
        house.driver.destroy(None, instance, [])
        house.assert_nothing_left(instance)


def test_a_start_of_the_host_finishes_broken_deletions(house: Machines, tiny: Image) -> None:
    instance = house.instance(tiny)
    half = house.state / "instances" / f"{instance.uuid}_del"
    half.mkdir(parents=True)
    (half / "disk").write_bytes(b"x")
    names = [finding.sentence for finding in examine.host(house.driver.rooms) if half.name in finding.sentence]
    assert names
    house.driver.init_host("here")
    assert not half.exists()


@pytest.mark.parametrize("state", ["paused", "suspended"])
def test_what_rests_is_destroyed_with_its_memory(house: Machines, tiny: Image, state: str) -> None:
    instance = house.spawn(tiny)
    if state == "paused":
        house.driver.pause(instance)
    else:
        house.driver.suspend(None, instance)
    house.driver.destroy(None, instance, [])
    house.assert_nothing_left(instance)
    kept = [path for path in Path(os.environ["XDG_CONFIG_HOME"]).rglob("*.save") if instance.name in path.name]
    assert not kept


# --- bases ----------------------------------------------------------------------------------------


def test_a_base_in_use_is_never_swept(house: Machines) -> None:
    image = house.image()
    instance = house.spawn(image)
    base = house.driver.cache.find(image.id)
    assert base
    house.driver.power_off(instance)
    assert base.path in sweep.bases_in_use(house.driver.rooms)
    house.driver.sweep_cache(all_unused=True)
    assert base.path.exists()
    house.driver.manage_image_cache(None, [])
    house.driver.power_on(None, instance, [])
    house.driver.destroy(None, instance, [])
    house.driver.sweep_cache(all_unused=True)
    assert not base.path.exists()


def test_an_image_is_cached_ahead_once(house: Machines) -> None:
    image = house.image()
    assert house.driver.cache_image(None, image.id)
    assert not house.driver.cache_image(None, image.id)


def test_a_guest_finds_cloud_data_on_a_config_drive_of_the_openstack_kind(
    house: Machines, libvirt_uri: str, guest_dir: Path
) -> None:
    with machines(libvirt_uri, guest_dir, guest=GuestSection(datasource="configdrive")) as other:
        image = other.image()
        instance = other.spawn(image, hostname="barn")
        other.wait(instance, r"seed \w+ config-2")
        other.wait(instance, "hostname barn")
