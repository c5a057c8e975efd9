"""The driver's running instances: power, consoles, statistics, events; the tiny guest counts its boots."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cowshed.clock import Deadline
from cowshed.config import ConsoleSection, GuestSection, PowerSection
from cowshed.errors import InvalidState, UnsupportedOperation
from cowshed.model.event import Event, LifecycleEvent, Transition
from cowshed.model.image import Image
from cowshed.model.instance import Instance, PowerState
from cowshed.units import MiB
from tests.vm.machines import MAC, Machines, forwarded, free_port, machines


@pytest.fixture(scope="module")
def house(libvirt_uri: str, guest_dir: Path) -> Iterator[Machines]:
    with machines(libvirt_uri, guest_dir, power=PowerSection(soft_reboot_timeout=60)) as made:
        yield made


@pytest.fixture(scope="module")
def running(house: Machines, tiny: Image) -> Instance:
    """One guest for the tests that only look."""
    instance = house.spawn(tiny, vifs=forwarded(free_port()))
    house.wait(instance, "cowshed-guest: up")
    return instance


# --- power ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["qcow2", "raw"])
def test_a_graceful_stop_and_a_start_keep_the_disk(house: Machines, tiny: Image, backend: str) -> None:
    instance = house.spawn(tiny, backend=backend)
    house.wait(instance, "boot 1\r?\n")
    house.wait(instance, "cowshed-guest: up")
    house.driver.power_off(instance, timeout=60, retry_interval=10)
    assert house.state_of(instance) == PowerState.SHUTDOWN
    assert "cowshed-guest: down" in house.log(instance) or "Power down" in house.log(instance)
    house.driver.power_on(None, instance, [])
    house.wait(instance, "boot 2\r?\n")
    house.driver.power_off(instance)
    assert house.state_of(instance) == PowerState.SHUTDOWN


def test_a_guest_that_does_not_listen_is_stopped_hard(house: Machines, tiny: Image) -> None:
    deaf = "#!/bin/sh\ntouch /run/ignore-power-button\n"
    instance = house.spawn(tiny, user_data=deaf, config_drive=True)
    house.wait(instance, "cowshed-guest: up")
    house.driver.power_off(instance, timeout=3, retry_interval=1)
    assert house.state_of(instance) == PowerState.SHUTDOWN


@pytest.mark.parametrize("kind", ["SOFT", "HARD"])
def test_a_reboot_keeps_the_disk(house: Machines, tiny: Image, kind: str) -> None:
    instance = house.spawn(tiny)
    house.wait(instance, "cowshed-guest: up")
    house.driver.reboot(None, instance, [], kind)
    assert house.state_of(instance) == PowerState.RUNNING
    house.wait(instance, "boot 2\r?\n")


def test_a_suspended_guest_goes_on_where_it_was(house: Machines, tiny: Image) -> None:
    port = free_port()
    instance = house.spawn(tiny, vifs=forwarded(port))
    house.wait(instance, "cowshed-guest: up")
    house.driver.suspend(None, instance)
    assert house.state_of(instance) == PowerState.SHUTDOWN
    with pytest.raises(InvalidState):
        house.driver.pause(instance)
    house.driver.resume(None, instance, forwarded(port))
    assert house.state_of(instance) == PowerState.RUNNING
    assert house.log(instance).count("cowshed-guest: up") == 1


def test_changed_configuration_does_not_change_what_exists(house: Machines, tiny: Image) -> None:
    from cowshed.config import DisksSection

    instance = house.spawn(tiny)
    house.wait(instance, "boot 1\r?\n")
    house.driver.power_off(instance)
    other = house.reopened(disks=DisksSection(backend="raw", bus="sata"))
    other.power_on(None, instance, [])
    house.wait(instance, "boot 2\r?\n")
    other.cleanup_host("here")


# --- look -----------------------------------------------------------------------------------------


def test_counters_count(house: Machines, running: Instance) -> None:
    driver = house.driver
    info = driver.get_info(running)
    assert (info.state, info.num_cpu, info.max_mem_kb) == (PowerState.RUNNING, 1, 160 * 1024)
    assert info.cpu_time_ns > 0
    reads, read_bytes, writes, written, errors = driver.block_stats(running, "vda") or [0] * 5
    assert reads > 0
    assert read_bytes > MiB
    assert writes > 0
    assert written > 0
    assert errors == 0
    assert driver.get_per_instance_usage()[running.uuid] == {"memory_mb": 160, "uuid": running.uuid}
    diagnostics = driver.get_instance_diagnostics(running)
    assert diagnostics["state"] == "running"
    assert len(diagnostics["disk_details"]) == 1
    flat = driver.get_diagnostics(running)
    assert flat["memory"] == 160 * 1024
    assert flat["vda_read"] > 0


def test_traffic_is_counted_by_card(house: Machines, running: Instance) -> None:
    counters = house.driver.get_all_bw_counters([running])
    assert all(one["mac_address"] == MAC and one["uuid"] == running.uuid for one in counters)
    assert house.driver.get_all_bw_counters([]) == []


def test_the_console_can_be_read_and_followed(house: Machines, running: Instance) -> None:
    assert b"cowshed-guest: up" in house.driver.get_console_output(None, running)
    followed = b"".join(house.driver.follow_console(running, until="cowshed-guest: up", timeout=20))
    assert b"cowshed-guest: boot" in followed


def test_vnc_answers_and_what_is_not_there_says_so(house: Machines, running: Instance) -> None:
    console = house.driver.get_vnc_console(None, running)
    with socket.create_connection((console.host, int(console.port)), timeout=10) as connection:
        assert connection.recv(4) == b"RFB "
    for call in (house.driver.get_spice_console, house.driver.get_serial_console):
        with pytest.raises(UnsupportedOperation):
            call(None, running)


def test_a_serial_console_on_tcp_keeps_its_port_over_a_stop(libvirt_uri: str, guest_dir: Path) -> None:
    sections = {"console": ConsoleSection(serial_tcp=True), "guest": GuestSection(config_drive=False)}
    with machines(libvirt_uri, guest_dir, **sections) as house:
        image = house.image()
        instance = house.spawn(image)
        console = house.driver.get_serial_console(None, instance)
        other = house.spawn(image)
        assert house.driver.get_serial_console(None, other).port != console.port
        house.driver.destroy(None, other, [])
        house.wait(instance, "cowshed-guest: up")
        with socket.create_connection((console.host, int(console.port)), timeout=10) as connection:
            connection.settimeout(20)
            connection.sendall(b"\r")
            assert connection.recv(100)
        with (
            Path(os.devnull).open("rb") as typed,
            (house.state / "shown").open("wb") as shown,
            pytest.raises(UnsupportedOperation) as caught,
        ):
            house.driver.attach_console(instance, typed, shown)
        assert f"{console.host} {console.port}" in str(caught.value.hint)
        house.driver.power_off(instance)
        house.driver.power_on(None, instance, [])
        assert house.driver.get_serial_console(None, instance).port == console.port
        house.driver.power_off(instance)
        with socket.create_server((console.host, int(console.port))):
            house.driver.power_on(None, instance, [])
            assert house.driver.get_serial_console(None, instance).port != console.port
        house.driver.destroy(None, instance, [])
        assert (house.state / "host" / "serial-ports.json").read_text() == "{}"


def test_events_tell_of_a_guest_that_ends_by_itself(house: Machines, tiny: Image) -> None:
    heard: list[Event] = []
    arrived = threading.Event()
    instance = house.instance(tiny, config_drive=True, user_data="#!/bin/sh\nsleep 1\npoweroff\n")

    def listen(event: Event) -> None:
        heard.append(event)
        if isinstance(event, LifecycleEvent) and event.uuid == instance.uuid and event.transition == Transition.STOPPED:
            arrived.set()

    house.driver.register_event_listener(listen)
    try:
        house.start(instance, tiny)
        assert arrived.wait(Deadline(90, "stopped").remaining()), heard
    finally:
        house.driver.register_event_listener(None)
    assert house.state_of(instance) == PowerState.SHUTDOWN


def test_resources_count_running_guests(house: Machines, running: Instance) -> None:
    (node,) = house.driver.get_available_nodes()
    told = house.driver.get_available_resource(node)
    assert told["vcpus_used"] >= running.flavor.vcpus
    assert told["memory_mb_used"] >= 160
    assert told["uuid"] == house.driver.node_uuid()
    assert json.loads(told["cpu_info"]).keys() == {"arch", "model", "vendor", "topology", "features"}
    house.driver.pause(running)
    try:  # its memory and its processors are still its own
        assert house.driver.get_available_resource(node)["vcpus_used"] == told["vcpus_used"]
        assert house.driver.get_per_instance_usage()[running.uuid]["memory_mb"] == 160
    finally:
        house.driver.unpause(running)
