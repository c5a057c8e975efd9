"""Inside a guest through its agent, and instances that somebody has deleted softly or forbidden to start."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cowshed.domain import read
from cowshed.errors import (
    DeadlineExceeded,
    HypervisorError,
    InvalidRequest,
    InvalidState,
    NotFound,
    PortInUse,
    UnsupportedOperation,
)
from cowshed.model.image import Image
from cowshed.model.instance import Instance, PowerState
from cowshed.model.vif import Vif
from tests.vm.machines import Machines, forwarded, free_port, machines


@pytest.fixture(scope="module")
def house(libvirt_uri: str, guest_dir: Path) -> Iterator[Machines]:
    with machines(libvirt_uri, guest_dir) as made:
        yield made


@pytest.fixture(scope="module")
def tiny(house: Machines) -> Image:
    return house.image()


@pytest.fixture(scope="module")
def running(house: Machines, tiny: Image) -> Instance:
    instance = house.spawn(tiny, vifs=forwarded(free_port()), metadata={"role": "web", "old": "1"})
    house.wait(instance, "cowshed-guest: agent")
    house.wait(instance, "cowshed-guest: up")
    return instance


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def output(house: Machines, instance: Instance, *command: str) -> str:
    done = house.driver.execute(instance, command)
    assert done.status == 0, done
    return done.stdout.decode()


# --- through the agent ----------------------------------------------------------------------------


def test_files_go_in_and_out_whole(house: Machines, running: Instance) -> None:
    content = os.urandom(400_000)
    assert house.driver.write_file(running, "/root/deep/er/file", io.BytesIO(content)) == len(content)
    back = io.BytesIO()
    assert house.driver.read_file(running, "/root/deep/er/file", back) == len(content)
    assert back.getvalue() == content
    with pytest.raises(NotFound):
        house.driver.read_file(running, "/nowhere", io.BytesIO())
    with pytest.raises(HypervisorError):
        house.driver.write_file(running, "/proc/nothing/here", io.BytesIO(b"x"))
    with pytest.raises(InvalidRequest):
        house.driver.write_file(running, "relative", io.BytesIO(b"x"))


def test_a_file_is_injected_as_the_contract_has_it(house: Machines, running: Instance) -> None:
    house.driver.inject_file(running, b64("/root/injected"), b64("first, longer"))
    house.driver.inject_file(running, b64("/root/injected"), b64("second"))
    assert output(house, running, "cat", "/root/injected") == "second"
    with pytest.raises(InvalidRequest):
        house.driver.inject_file(running, "no base64!", b64("x"))


def test_programs_run_in_the_guest(house: Machines, running: Instance) -> None:
    done = house.driver.execute(running, ["sh", "-c", "cat; echo oops >&2; exit 3"], input=b"hello")
    assert (done.status, done.stdout, done.stderr) == (3, b"hello", b"oops\n")
    assert house.driver.execute(running, ["sh", "-c", "kill -9 $$"]).status == -9
    with pytest.raises(DeadlineExceeded):
        house.driver.execute(running, ["sleep", "5"], timeout=0.5)
    with pytest.raises(HypervisorError):
        house.driver.execute(running, ["/no/such/program"])


def test_the_password_of_root_is_set(house: Machines, running: Instance) -> None:
    house.driver.set_admin_password(running, "correct horse")
    digest = hashlib.sha512(b"correct horse").hexdigest()
    assert f"root:$sha512${digest}" in output(house, running, "cat", "/etc/shadow").splitlines()


def test_changed_metadata_reaches_domain_and_guest(house: Machines, running: Instance) -> None:
    house.driver.change_instance_metadata(None, running, {"role": ["+", "db"], "old": ["-"], "new": ["+", "2"]})
    recovered = read.recover(house.driver.rooms.hypervisor.guest(running.uuid).xml())
    assert recovered
    assert recovered.instance.metadata == {"role": "db", "new": "2"}
    assert recovered.vifs == read.recover(house.driver.rooms.hypervisor.guest(running.uuid).xml(inactive=True)).vifs
    assert output(house, running, "cat", "/run/cowshed/metadata.json") == '{"new": "2", "role": "db"}'
    with pytest.raises(InvalidRequest):
        house.driver.change_instance_metadata(None, running, {"role": ["*", "x"]})


def test_a_guest_finds_a_device_by_its_tag(house: Machines, running: Instance) -> None:
    """Where the metadata says, there is the card with that address."""
    vif = Vif("front", "52:54:00:00:02:02", tag="front")
    house.driver.attach_interface(running, house.driver.remembered_image(running), vif)
    told = json.loads(output(house, running, "cat", "/run/cowshed/devices.json"))["devices"]
    assert told == house.driver.device_metadata(running)
    (one,) = told
    assert (one["type"], one["bus"], one["mac"], one["tags"]) == ("nic", "pci", vif.address, ["front"])
    card = f"cat /sys/bus/pci/devices/{one['address']}/virtio*/net/*/address"
    assert output(house, running, "sh", "-c", card).strip() == vif.address
    house.driver.detach_interface(running, vif)
    assert json.loads(output(house, running, "cat", "/run/cowshed/devices.json")) == {"devices": []}
    assert house.driver.device_metadata(running) == []


def test_a_guest_without_an_agent_says_so_soon(house: Machines, tiny: Image, running: Instance) -> None:
    with suppress(UnsupportedOperation):  # it goes before it has answered
        house.driver.execute(running, ["sh", "-c", "kill $(cat /run/qemu-ga.pid) &"])
    with pytest.raises((UnsupportedOperation, DeadlineExceeded)):
        for _ in range(3):  # it may answer once more while it ends
            house.driver.execute(running, ["true"], timeout=5)


# --- soft-deleted, not bootable -------------------------------------------------------------------


def test_a_softly_deleted_instance_rests_until_it_is_restored(house: Machines, tiny: Image) -> None:
    port = free_port()
    instance = house.spawn(tiny, vifs=forwarded(port))
    house.wait(instance, "cowshed-guest: up")
    house.driver.soft_delete(instance)
    assert house.state_of(instance) == PowerState.SHUTDOWN
    house.driver.soft_delete(instance)
    for start in (
        lambda: house.driver.power_on(None, instance, []),
        lambda: house.driver.reboot(None, instance, [], "HARD"),
        lambda: house.driver.resume_state_on_host_boot(None, instance, []),
        lambda: house.reopened().power_on(None, instance, []),
    ):
        with pytest.raises(InvalidState, match="is deleted"):
            start()
    with socket.create_server(("127.0.0.1", port)), pytest.raises(PortInUse):
        house.driver.restore(instance)
    with pytest.raises(InvalidState, match="is deleted"):  # what could not be started is deleted as before
        house.driver.power_on(None, instance, [])
    house.driver.restore(instance)
    house.wait(instance, "boot 2\r?\n")
    house.driver.restore(instance)
    assert house.state_of(instance) == PowerState.RUNNING


def test_what_must_not_start_does_not(house: Machines, tiny: Image) -> None:
    instance = house.spawn(tiny)
    house.driver.set_bootable(instance, False)
    assert house.state_of(instance) == PowerState.RUNNING
    house.driver.power_off(instance)
    with pytest.raises(InvalidState, match="not bootable"):
        house.driver.power_on(None, instance, [])
    house.driver.set_bootable(instance, True)
    house.driver.power_on(None, instance, [])
    assert house.state_of(instance) == PowerState.RUNNING
