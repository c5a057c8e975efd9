"""The host itself on real libvirt: a daemon that goes away, a maintenance, reboots that hang."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cowshed.config import Config, HostSection
from cowshed.driver import LibvirtDriver
from cowshed.driver.steps import marks
from cowshed.errors import HostUnsuitable, InstanceNotFound
from cowshed.model.instance import Instance, PowerState
from tests.vm.conftest import end, start_daemon
from tests.vm.machines import Machines


@pytest.fixture(scope="module")
def running(house: Machines) -> Instance:
    return house.spawn(house.image())


def eventually(what: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_host_that_loses_its_libvirt_is_disabled_until_it_is_back(home: Path, tmp_path: Path) -> None:
    pid = start_daemon()
    uri = f"qemu+unix:///session?socket={home}/run/libvirt/libvirt-sock"
    driver = LibvirtDriver(config=Config(host=HostSection(uri=uri, state=str(tmp_path), virt_type="qemu")))
    driver.init_host("here")
    try:
        assert driver.host_disabled() == []
        driver.set_host_enabled(False)
        end(pid, signal.SIGKILL)
        eventually(lambda: len(driver.host_disabled()) == 2)
        assert "libvirt cannot be reached" in driver.host_disabled()[1]
        start_daemon()
        eventually(lambda: driver.host_disabled() == ["somebody disabled it"])
    finally:
        driver.cleanup_host("here")


def test_a_host_on_which_guests_run_is_not_drained_to_nowhere(house: Machines, running: Instance) -> None:
    driver = house.driver
    (node,) = driver.get_available_nodes()
    with pytest.raises(HostUnsuitable, match=running.name):
        driver.host_maintenance_mode(node, True)
    assert driver.host_disabled() == []
    assert house.state_of(running) == PowerState.RUNNING


def test_reboots_that_hang_are_ended(house: Machines, running: Instance) -> None:
    driver = house.driver
    number = driver.get_info(running).internal_id
    driver.poll_rebooting_instances(60, [running])
    assert driver.get_info(running).internal_id == number, "what runs is left alone"
    driver.power_off(running)
    unknown = house.instance(house.image())
    driver.poll_rebooting_instances(60, [unknown, running])
    assert house.state_of(running) == PowerState.RUNNING
    driver.pause(running)
    driver.poll_rebooting_instances(60, [running])
    assert house.state_of(running) == PowerState.RUNNING


def test_nothing_is_started_that_is_not_there(house: Machines) -> None:
    unknown = house.instance(house.image())
    with pytest.raises(InstanceNotFound):
        house.driver.power_on(None, unknown, [])
    with pytest.raises(InstanceNotFound):
        house.driver.resume_state_on_host_boot(None, unknown, [])
    assert not house.driver.instance_exists(unknown)


def test_a_reboot_does_not_start_what_must_not_start(house: Machines, running: Instance) -> None:
    driver = house.driver
    driver.power_off(running)
    driver.set_bootable(running, False)
    try:
        driver.poll_rebooting_instances(60, [running])
        assert house.state_of(running) == PowerState.SHUTDOWN
        assert marks.Mark.NOT_BOOTABLE in marks.marks(driver.rooms, running.uuid)
    finally:
        driver.set_bootable(running, True)
