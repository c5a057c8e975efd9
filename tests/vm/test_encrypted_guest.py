"""Guests on encrypted disks: what they write is ciphertext on the host, and nothing takes their disks away from them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cowshed.config import DisksSection, GuestSection
from cowshed.disks import manifest
from cowshed.errors import HypervisorError, NotFound, UnsupportedOperation
from cowshed.hypervisor import Hypervisor
from cowshed.model.flavor import Flavor
from cowshed.model.image import Image
from cowshed.model.instance import Instance, PowerState
from cowshed.units import MiB
from tests.vm.conftest import end, start_daemon
from tests.vm.machines import Machines, machines

MARK = "a line that nobody but the guest may read"
WRITE = f"""#!/bin/sh
yes '{MARK}' | dd of=/dev/vdb bs=64k count=8 iflag=fullblock conv=notrunc,fsync 2>/dev/null
sync
echo pattern-written >/dev/console
"""
OTHERS: set[str] = set()
FLAVOR = Flavor(memory=160 * MiB, root=128 * MiB, swap=32 * MiB)


@pytest.fixture(scope="module")
def house(libvirt_uri: str, guest_dir: Path) -> Iterator[Machines]:
    disks = DisksSection(luks_iterations=1000)
    with machines(libvirt_uri, guest_dir, disks=disks, guest=GuestSection(config_drive=False)) as made:
        yield made


@pytest.fixture(autouse=True)
def others(libvirt_uri: str) -> Iterator[set[str]]:
    """Secrets that other tests have left with this libvirt; :func:`told` does not speak of them."""
    with Hypervisor(libvirt_uri) as hypervisor:
        OTHERS.update(hypervisor.secrets.uuids())
    yield OTHERS
    OTHERS.clear()


def keys(house: Machines) -> list[str]:
    place = house.state / "keys"
    return sorted(os.listdir(place)) if place.exists() else []


def stored(house: Machines, instance: Instance) -> bytes:
    """Everything in the instance's directory but its console's log."""
    place = house.state / "instances" / instance.uuid
    return b"".join(path.read_bytes() for path in place.rglob("*") if path.is_file() and path.name != "console.log")


def told(house: Machines) -> list[str]:
    """Keys that libvirt has learned in this test."""
    return sorted(set(house.driver.rooms.hypervisor.secrets.uuids()) - OTHERS)


def nobody_is_told(house: Machines) -> None:
    """No process has a key among its words or in its environment, and no file of libvirt or ours but its own."""
    secrets = [(house.state / "keys" / key_id).read_bytes() for key_id in keys(house)]
    assert secrets
    places = [path for process in Path("/proc").glob("[0-9]*") for path in (process / "cmdline", process / "environ")]
    for folder in (house.state, *(Path(os.environ[f"XDG_{name}"]) for name in ("CONFIG_HOME", "CACHE_HOME"))):
        places += [path for path in folder.rglob("*") if path.is_file() and path.parent != house.state / "keys"]
    for path in places:
        with suppress(OSError):
            said = path.read_bytes() if path.stat().st_size < 64 * MiB else b""
            assert not [key for key in secrets if key in said], path


@pytest.mark.parametrize("backend", ["qcow2", "raw"])
def test_a_guest_lives_on_encrypted_disks(house: Machines, tiny: Image, backend: str) -> None:
    instance = house.spawn(
        tiny, backend=backend, encrypt=True, flavor=FLAVOR, config_drive=True, user_data=WRITE, hostname="sealed"
    )
    house.wait(instance, "pattern-written")
    house.wait(instance, "hostname sealed")
    house.wait(instance, "boot 1\r?\n")
    entries = manifest.load(house.state / "instances" / instance.uuid).disks
    assert set(entries) == {"disk", "disk.swap", "disk.config"}
    assert sorted(entry.encryption.key_id for entry in entries.values() if entry.encryption) == keys(house)
    assert len(keys(house)) == 3
    assert told(house) == keys(house)
    xml = house.driver.rooms.hypervisor.guest(instance.uuid).xml()
    assert xml.count("<encryption format='luks'") == 3

    nobody_is_told(house)

    assert house.driver.resize_disk(instance, 192 * MiB) == 192 * MiB
    house.driver.power_off(instance, timeout=60, retry_interval=10)
    assert told(house) == []
    held = stored(house, instance)
    assert MARK.encode() not in held
    assert b"pattern-written" not in held, "the user data is in plaintext"
    for key_id in keys(house):
        assert (house.state / "keys" / key_id).read_bytes() not in held

    house.driver.power_on(None, instance, [])
    house.wait(instance, "boot 2\r?\n")
    assert f"disk vda {192 * MiB} rw" in house.log(instance)
    house.driver.reboot(None, instance, [], "HARD")
    house.wait(instance, "boot 3\r?\n")
    house.driver.destroy(None, instance, [])
    house.assert_nothing_left(instance)
    assert keys(house) == []
    assert told(house) == []


def test_libvirt_forgets_the_keys_when_it_restarts_and_the_guest_goes_on(home: Path, guest_dir: Path) -> None:
    """The secrets are in the daemon's memory only: a start after its restart gives them again."""
    pid = start_daemon()
    uri = f"qemu+unix:///session?socket={home}/run/libvirt/libvirt-sock"
    with machines(uri, guest_dir, disks=DisksSection(luks_iterations=1000)) as house:
        instance = house.spawn(house.image(), encrypt=True)
        house.wait(instance, "cowshed-guest: up")
        before = told(house)
        assert before
        end(pid, signal.SIGKILL)
        start_daemon()
        assert told(house) == []
        assert house.state_of(instance) == PowerState.RUNNING
        house.driver.suspend(None, instance)
        house.driver.resume(None, instance, [])
        assert house.state_of(instance) == PowerState.RUNNING
        assert told(house) == before
        house.driver.reboot(None, instance, [], "HARD")
        house.wait(instance, "boot 2\r?\n")


def test_a_guest_that_went_off_by_itself_starts_again(house: Machines, tiny: Image) -> None:
    off = "#!/bin/sh\n[ -e /run/again ] || { sleep 1; poweroff -f; }\n"
    instance = house.spawn(tiny, encrypt=True, config_drive=True, user_data=off)
    guest = house.driver.rooms.hypervisor.guest(instance.uuid)
    guest.wait(PowerState.SHUTDOWN, timeout=60, what="it went off")
    house.driver.power_on(None, instance, [])
    house.wait(instance, "boot 2\r?\n")
    house.driver.power_off(instance)
    assert told(house) == []
    house.driver.destroy(None, instance, [])


def test_a_lost_key_is_said_before_libvirt_is_asked(house: Machines, tiny: Image) -> None:
    instance = house.spawn(tiny, encrypt=True)
    house.driver.power_off(instance)
    [key_id] = keys(house)
    path = house.state / "keys" / key_id
    key = path.read_bytes()
    path.unlink()
    with pytest.raises(NotFound, match=f"key {key_id} does not exist"):
        house.driver.power_on(None, instance, [])
    assert house.state_of(instance) == PowerState.SHUTDOWN
    path.write_bytes(b"x" * 64)
    with pytest.raises(HypervisorError):  # in whose words depends on how fast QEMU ends
        house.driver.power_on(None, instance, [])
    assert told(house) == []
    path.write_bytes(key)
    house.driver.power_on(None, instance, [])
    assert house.state_of(instance) == PowerState.RUNNING
    house.driver.destroy(None, instance, [])


def test_a_spawn_that_fails_leaves_no_key(house: Machines, tiny: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    from cowshed.driver.steps import launch

    def fails(*_: object, **__: object) -> None:
        raise HypervisorError(action="start", reason="as the test wants", number=1)

    monkeypatch.setattr(launch, "start", fails)
    instance = house.instance(tiny, encrypt=True, flavor=FLAVOR)
    with pytest.raises(HypervisorError):
        house.start(instance, tiny)
    house.assert_nothing_left(instance)
    assert keys(house) == []
    assert told(house) == []


def test_keys_that_libvirt_keeps(libvirt_uri: str, guest_dir: Path) -> None:
    with machines(libvirt_uri, guest_dir, disks=DisksSection(keys="libvirt", luks_iterations=1000)) as house:
        image = house.image(properties={"hw_ephemeral_encryption": "true"})
        instance = house.spawn(image)
        house.wait(instance, "cowshed-guest: up")
        assert not (house.state / "keys").exists()
        kept = told(house)
        assert len(kept) == 1
        house.driver.power_off(instance)
        assert told(house) == kept
        house.driver.power_on(None, instance, [])
        house.wait(instance, "boot 2\r?\n")
        house.driver.destroy(None, instance, [])
        assert told(house) == []


def test_what_cannot_be_encrypted_is_refused_before_anything_is_made(house: Machines, tiny: Image) -> None:
    backend = house.driver.rooms.backends["qcow2"]
    before = backend.keys  # type: ignore[attr-defined]
    backend.keys = None  # type: ignore[attr-defined]
    try:
        instance = house.instance(tiny, encrypt=True)
        with pytest.raises(UnsupportedOperation, match="backend qcow2 cannot encrypt disks"):
            house.start(instance, tiny)
    finally:
        backend.keys = before  # type: ignore[attr-defined]
    house.assert_nothing_left(instance)
