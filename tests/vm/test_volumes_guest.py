"""Volumes on real storage in a real guest, which says what it sees, reads and writes."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from cowshed.config import VolumesSection
from cowshed.errors import (
    NameTaken,
)
from cowshed.model.instance import Instance
from tests import volume_servers as servers
from tests.vm.machines import Machines, machines

# Says what is at the beginning of each disk that comes, and writes something at 1 MiB.
SCRIPT = r"""#!/bin/sh
mkdir -p /run/marked
(
while :; do
    for path in /sys/block/vd* /sys/block/sd*; do
        name=${path##*/}
        [ -e "$path/size" ] && [ -b "/dev/$name" ] || continue
        serial=$(cat "$path/serial" 2>/dev/null)
        [ -n "$serial" ] || continue
        [ -e "/run/marked/$name" ] && continue
        touch "/run/marked/$name"
        text=$(dd if=/dev/$name bs=512 count=1 2>/dev/null | tr -d '\000')
        echo "guest: $serial reads [$text] blocks $(cat $path/queue/logical_block_size)/$(cat $path/queue/physical_block_size)"
        if printf 'guest was here on %s' "$serial" | dd of=/dev/$name bs=512 seek=2048 conv=fsync 2>/dev/null
        then echo "guest: $serial written"; else echo "guest: $serial not written"; fi
    done
    for mark in /run/marked/*; do
        [ -e "$mark" ] && [ ! -e "/sys/block/${mark##*/}" ] && rm -f "$mark" && echo "guest: ${mark##*/} forgotten"
    done
    sleep 1
done >/dev/console 2>&1
) &
"""


@pytest.fixture(scope="module")
def store() -> Iterator[Path]:
    """Where the storage keeps its files: not below pytest's directory, where a QEMU of another user could not enter."""
    place = Path(tempfile.mkdtemp(prefix="cowshed-store-", dir="/tmp"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="module")
def house(libvirt_uri: str, guest_dir: Path) -> Iterator[Machines]:
    section = VolumesSection(detach_timeout=10, detach_attempts=4)
    with machines(libvirt_uri, guest_dir, volumes=section) as made:
        yield made


@pytest.fixture(scope="module")
def running(house: Machines) -> Instance:
    """One guest for everything that comes and goes while it runs."""
    instance = house.spawn(house.image(), user_data=SCRIPT, config_drive=True)
    house.wait(instance, "cowshed-guest: up")
    return instance


def info(kind: str, volume_id: str, **data: Any) -> dict[str, Any]:
    extra = {"multiattach": data.pop("multiattach")} if "multiattach" in data else {}
    return {"driver_volume_type": kind, "serial": volume_id, "data": data, **extra}


def attach(house: Machines, instance: Instance, volume: dict[str, Any], name: str = "", **options: Any) -> None:
    house.driver.attach_volume(None, volume, instance, name, **options)


def detach(house: Machines, instance: Instance, volume: dict[str, Any], name: str = "") -> None:
    """Until the guest, which looks once a second, has noticed: the next disk may have the same name and size."""
    before = gone(house, instance)
    house.driver.detach_volume(volume, instance, name)
    servers.until(lambda: gone(house, instance) > before, "the guest noticing", timeout=60)


def gone(house: Machines, instance: Instance) -> int:
    """How many disks the guest has seen go: what is here and ``cowshed-guest`` both watch."""
    log = house.log(instance)
    return min(len(re.findall(r"cowshed-guest: disk \w+ gone", log)), len(re.findall(r"guest: \w+ forgotten", log)))


def assert_gone(house: Machines, instance: Instance, volume: dict[str, Any]) -> None:
    xml = house.driver.rooms.hypervisor.guest(instance.uuid)
    assert volume["serial"] not in xml.xml()
    assert volume["serial"] not in xml.xml(inactive=True)
    assert volume["serial"] not in [one.id for one in house.driver.volumes(instance)]


# --- every kind of storage ------------------------------------------------------------------------


@pytest.fixture(params=["file-raw", "file-qcow2", "loop", "nbd-tcp", "nbd-unix", "iscsi"])
def volume(request: pytest.FixtureRequest, store: Path) -> Iterator[tuple[dict[str, Any], Path]]:
    """A volume of each kind, and the file where its bytes are in the end."""
    kind = request.param
    identity = f"v-{kind}"
    raw = servers.raw_file(store / f"{kind}.img", f"hello {kind}")
    with ExitStack() as stack:
        if kind == "file-raw":
            yield info("file", identity, path=str(raw), format="raw"), raw
        elif kind == "file-qcow2":
            path = store / f"{kind}.qcow2"
            run("qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", raw, path)
            path.chmod(0o666)
            yield info("file", identity, path=str(path), format="qcow2"), path
        elif kind == "loop":
            device = stack.enter_context(servers.loop_device(raw))
            yield info("local", identity, device_path=str(device)), raw
        elif kind == "nbd-tcp":
            port = stack.enter_context(servers.nbd(raw))
            yield info("nbd", identity, host="127.0.0.1", port=port, export="disk"), raw
        elif kind == "nbd-unix":
            socket = store / "nbd.sock"
            stack.enter_context(servers.nbd(raw, socket_path=socket))
            yield info("nbd", identity, socket=str(socket), export="disk"), raw
        else:
            yield info("iscsi", identity, **stack.enter_context(servers.iscsi(raw)).data()), raw


def run(*words: object) -> None:
    import subprocess

    done = subprocess.run([str(one) for one in words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def content(path: Path) -> str:
    """What the guest wrote, from the storage's own file."""
    if path.suffix != ".qcow2":
        return servers.text_at(path)
    copy = path.with_suffix(".copy")
    run("qemu-img", "convert", "-q", "-f", "qcow2", "-O", "raw", path, copy)
    return servers.text_at(copy)


def test_a_guest_sees_reads_and_writes_a_volume_until_it_is_taken_away(
    house: Machines, running: Instance, volume: tuple[dict[str, Any], Path]
) -> None:
    what, file = volume
    serial = what["serial"]
    attach(house, running, what)
    kind = serial.removeprefix("v-")
    house.wait(running, rf"cowshed-guest: disk vd\w {servers.SIZE} rw serial {serial}")
    house.wait(running, rf"guest: {serial} reads \[hello {kind}\]")
    house.wait(running, f"guest: {serial} written")
    (known,) = [one for one in house.driver.volumes(running) if one.id == serial]
    assert known.alias == f"ua-{serial}"
    assert house.driver.volume_sizes(running)[serial] == servers.SIZE
    with pytest.raises(NameTaken):
        attach(house, running, what)
    detach(house, running, what)
    assert_gone(house, running, what)
    assert content(file) == f"guest was here on {serial}"
    house.driver.detach_volume(what, running, "")  # again: already gone is success
