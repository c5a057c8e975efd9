"""Inside a guest through its agent, and instances that somebody has deleted softly or forbidden to start."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import socket
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from cowshed.domain import read
from cowshed.driver.steps import nics
from cowshed.errors import (
    DeadlineExceeded,
    HypervisorError,
    InvalidRequest,
    InvalidState,
    NotFound,
    PortInUse,
    UnsupportedOperation,
)
from cowshed.hypervisor import agent_files
from cowshed.model.image import Image
from cowshed.model.instance import Instance, PowerState
from cowshed.model.vif import Vif
from tests.vm.machines import Machines, forwarded, free_port


@pytest.fixture(scope="module")
def running(house: Machines, tiny: Image) -> Instance:
    """With an interface that is QEMU's alone, one that libvirt made, and a volume; each has a tag."""
    path = house.state / "scratch.raw"
    path.write_bytes(bytes(1 << 20))
    volume = {"driver_volume_type": "file", "serial": "v-1", "data": {"path": str(path), "format": "raw"}}
    instance = house.spawn(
        tiny,
        vifs=[replace(forwarded(free_port())[0], tag="way"), Vif("back", "52:54:00:00:02:03", tag="back")],
        disks={"block_device_mapping": [{"connection_info": volume, "tag": "scratch"}]},
        metadata={"role": "web", "old": "1"},
        system_metadata={"datasource": "configdrive"},
        config_drive=True,
    )
    house.wait_for_agent(instance)
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
    most = agent_files.GIVEN - len("wc-c")
    assert house.driver.execute(running, ["wc", "-c"], input=bytes(most)).stdout == b"%d\n" % most
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


def told_by_the_drive(house: Machines, instance: Instance) -> list[dict[str, Any]]:
    """What the config drive says of devices; each is where it says."""
    script = "mkdir -p /drive && mount -t iso9660 -o ro /dev/vdb /drive && cat /drive/openstack/latest/meta_data.json"
    devices = json.loads(output(house, instance, "sh", "-c", script))["devices"]
    for one in devices:
        place = f"/sys/bus/pci/devices/{one['address']}/virtio*"
        found, known = (
            (f"{place}/net/*/address", one["mac"]) if "mac" in one else (f"{place}/block/*/serial", one["serial"])
        )
        assert output(house, instance, "sh", "-c", f"cat {found}").strip() == known
    assert devices == house.driver.device_metadata(instance)
    return list(devices)


def test_the_config_drive_says_where_tagged_devices_are(house: Machines, running: Instance) -> None:
    """From the first start on, and at each later one what is true by then."""
    devices = told_by_the_drive(house, running)
    assert [(one["type"], one["bus"], one["tags"]) for one in devices] == [
        ("nic", "pci", ["way"]),
        ("nic", "pci", ["back"]),
        ("disk", "pci", ["scratch"]),
    ]
    house.driver.power_off(running)
    guest = house.driver.rooms.hypervisor.guest(running.uuid)
    way, back = nics.remembered(house.driver.rooms, guest)
    house.driver.detach_interface(running, back)
    house.driver.power_on(None, running, [way])
    house.wait(running, r"cowshed-guest: boot 2")
    house.wait_for_agent(running)
    assert [one["tags"] for one in told_by_the_drive(house, running)] == [["way"], ["scratch"]]
    assert len(list(house.driver.rooms.directory(running.uuid).path.glob("disk.config*"))) == 1


def test_a_guest_finds_a_device_by_its_tag(house: Machines, running: Instance) -> None:
    """Where the metadata says, there is the card with that address."""
    vif = Vif("front", "52:54:00:00:02:02", tag="front")
    house.driver.attach_interface(running, house.driver.remembered_image(running), vif)
    told = json.loads(output(house, running, "cat", "/run/cowshed/devices.json"))["devices"]
    assert told == house.driver.device_metadata(running)
    (one,) = (one for one in told if one["tags"] == ["front"])
    assert (one["type"], one["bus"], one["mac"], one["tags"]) == ("nic", "pci", vif.address, ["front"])
    card = f"cat /sys/bus/pci/devices/{one['address']}/virtio*/net/*/address"
    assert output(house, running, "sh", "-c", card).strip() == vif.address
    house.driver.detach_interface(running, vif)
    left = house.driver.device_metadata(running)
    assert json.loads(output(house, running, "cat", "/run/cowshed/devices.json")) == {"devices": left}
    assert [one["tags"] for one in left] == [["way"], ["scratch"]]


def test_a_guest_without_an_agent_says_so_soon(house: Machines, tiny: Image, running: Instance) -> None:
    with suppress(UnsupportedOperation):  # it goes before it has answered
        house.driver.execute(running, ["sh", "-c", "kill $(cat /run/qemu-ga.pid) &"])
    with pytest.raises((UnsupportedOperation, DeadlineExceeded)):
        for _ in range(3):  # it may answer once more while it ends
            house.driver.execute(running, ["true"], timeout=5)


def test_a_guest_that_stood_has_the_right_time_again(house: Machines, tiny: Image) -> None:
    """Its clock stands while it does: saved to the host's disk, or paused."""
    instance = house.spawn(tiny)
    house.wait_for_agent(instance)
    for stand, go_on in (
        (lambda: house.driver.suspend(None, instance), lambda: house.driver.resume(None, instance, [])),
        (lambda: house.driver.pause(instance), lambda: house.driver.unpause(instance)),
    ):
        stand()
        time.sleep(5)
        go_on()
        house.wait_for_agent(instance)
        asked = time.time()
        assert asked - 2 < int(output(house, instance, "date", "+%s")) < time.time() + 2
    house.driver.destroy(None, instance, [])


# --- soft-deleted, not bootable -------------------------------------------------------------------


def test_a_softly_deleted_instance_rests_until_it_is_restored(house: Machines, tiny: Image) -> None:
    port = free_port()
    instance = house.spawn(tiny, vifs=forwarded(port))
    house.wait(instance, "cowshed-guest: up")
    guest = house.driver.rooms.hypervisor.guest(instance.uuid)
    guest.set_autostart(True)
    house.driver.soft_delete(instance)
    assert house.state_of(instance) == PowerState.SHUTDOWN
    assert not guest.autostart()
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
    assert guest.autostart()


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
