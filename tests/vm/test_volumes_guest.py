"""Volumes on real storage in a real guest, which says what it sees, reads and writes."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from cowshed.config import RbdSection, VolumesSection
from cowshed.errors import (
    Conflict,
    CowshedError,
    DeadlineExceeded,
    InvalidRequest,
    NameTaken,
    NotFound,
    PermissionDenied,
    UnsupportedOperation,
)
from cowshed.hypervisor import session
from cowshed.model.instance import Instance
from cowshed.model.volume import AttachedVolume, VolumeState
from cowshed.units import GiB, MiB
from cowshed.volumes import record
from tests import volume_servers as servers
from tests.luks_images import qemu_img
from tests.vm import conftest as vm_tests
from tests.vm.machines import Machines, machines

pytestmark = pytest.mark.filterwarnings("ignore:(?s).*[Ee]ventlet:DeprecationWarning")  # what os-brick loads

# Says what is at the beginning of each disk that comes, and writes something at 1 MiB. A look starts no process, which
# is what costs in a guest that is translated: so it looks often, and nobody waits for it.
SCRIPT = r"""#!/bin/sh
mkdir -p /run/marked
mkfifo /run/silent
value() { found=; [ -r "$1" ] && read -r found <"$1"; }
new() {  # NAME SERIAL
    text=$(dd if=/dev/$1 bs=512 count=1 2>/dev/null | tr -d '\000')
    queue=/sys/block/$1/queue
    echo "guest: $2 reads [$text] blocks $(cat $queue/logical_block_size)/$(cat $queue/physical_block_size)"
    printf 'guest was here on %s' "$2" | dd of=/dev/$1 bs=512 seek=2048 conv=fsync 2>/dev/null
    code=$?
    # Taken away meanwhile: dd has made a file of that name, and the next disk would have no node.
    [ -b /dev/$1 ] || { rm -f /dev/$1; code=1; }
    if [ $code = 0 ]
    then echo "guest: $2 written"; else echo "guest: $2 not written"; fi
}
(
exec 3<>/run/silent
while :; do
    for mark in /run/marked/*; do
        [ -e "$mark" ] || continue
        read -r serial rest <"$mark"
        value "/sys/block/${mark##*/}/serial"
        [ "$found" = "$serial" ] && continue
        rm -f "$mark"
        echo "guest: $serial gone"
    done
    for path in /sys/block/vd*; do
        name=${path##*/}
        value "$path/serial"
        serial=$found
        [ -b "/dev/$name" ] && [ -n "$serial" ] || continue
        value "$path/size"
        sectors=$found
        value "/run/marked/$name"
        known=$found
        [ "$known" = "$serial $sectors" ] && continue
        echo "$serial $sectors" >"/run/marked/$name"
        value "$path/ro"
        echo "guest: $serial has $((sectors * 512)) bytes, ro $found"
        [ -n "$known" ] || new "$name" "$serial"
    done
    read -r -t 0.3 _ <&3
done >/dev/console 2>&1
) &
"""


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


def detach(
    house: Machines, instance: Instance, volume: dict[str, Any], name: str = "", *, driver: Any = None, **options: Any
) -> None:
    """Until the guest has noticed."""
    (driver or house.driver).detach_volume(volume, instance, name, **options)
    house.wait(instance, f"guest: {volume['serial']} gone", timeout=60)


def assert_gone(house: Machines, instance: Instance, volume: dict[str, Any]) -> None:
    xml = house.driver.rooms.hypervisor.guest(instance.uuid)
    assert volume["serial"] not in xml.xml()
    assert volume["serial"] not in xml.xml(inactive=True)
    assert volume["serial"] not in [one.id for one in house.driver.volumes(instance)]


def reach(house: Machines, ceph: Any) -> None:
    """Tell the driver where the cluster is: its connectors are made anew with that."""
    rooms = house.driver.rooms
    section = RbdSection(ceph_conf=str(ceph.conf), keyring=str(ceph.keyring))
    rooms.config = dataclasses.replace(rooms.config, rbd=section)
    rooms.__dict__.pop("connectors", None)


# --- every kind of storage ------------------------------------------------------------------------


@pytest.fixture(params=["file-raw", "file-qcow2", "loop", "nbd-tcp", "nbd-unix", "iscsi", "rbd", "os-brick"])
def volume(request: pytest.FixtureRequest, store: Path) -> Iterator[tuple[dict[str, Any], Any]]:
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
        elif kind == "rbd":
            yield rbd_volume(request, identity, raw)
        elif kind == "os-brick":
            yield info("gpfs", identity, name=identity, device_path=str(raw)), raw
        else:
            yield info("iscsi", identity, **stack.enter_context(servers.iscsi(raw)).data()), raw


def rbd_volume(request: pytest.FixtureRequest, identity: str, file: Path) -> tuple[dict[str, Any], Any]:
    """An image with the content of ``file``; what the guest wrote is exported to that again."""
    ceph, pool = request.getfixturevalue("ceph"), request.getfixturevalue("rbd_pool")
    ceph.rbd("import", "--no-progress", file, f"{pool}/{identity}")
    return info("rbd", identity, name=f"{pool}/{identity}"), lambda: exported(ceph, f"{pool}/{identity}", file)


def exported(ceph: Any, image: str, file: Path) -> Path:
    file.unlink()
    ceph.rbd("export", "--no-progress", image, file)
    ceph.rbd("rm", "--no-progress", image)
    return file


def run(*words: object) -> None:
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
    house: Machines, running: Instance, volume: tuple[dict[str, Any], Any], request: pytest.FixtureRequest
) -> None:
    what, file = volume
    if what["driver_volume_type"] == "rbd":
        reach(house, request.getfixturevalue("ceph"))
    serial = what["serial"]
    attach(house, running, what)
    kind = serial.removeprefix("v-")
    house.wait(running, rf"guest: {serial} has {servers.SIZE} bytes, ro 0")
    house.wait(running, rf"guest: {serial} reads \[hello {kind}\]")
    house.wait(running, f"guest: {serial} written")
    (known,) = [one for one in house.driver.volumes(running) if one.id == serial]
    assert known.alias == f"ua-{serial}"
    assert house.driver.volume_sizes(running)[serial] == servers.SIZE
    with pytest.raises(NameTaken):
        attach(house, running, what)
    detach(house, running, what)
    assert_gone(house, running, what)
    assert content(file() if callable(file) else file) == f"guest was here on {serial}"
    house.driver.detach_volume(what, running, "")  # again: already gone is success


# --- what a volume may ask for --------------------------------------------------------------------


def file_volume(store: Path, identity: str, text: str = "", *, size: int = servers.SIZE, **data: Any) -> dict[str, Any]:
    path = servers.raw_file(store / f"{identity}.raw", text or f"hello {identity}", size)
    return info("file", identity, path=str(path), format="raw", **data)


def test_read_only_block_sizes_discard_and_limits_reach_the_guest(
    house: Machines, running: Instance, store: Path
) -> None:
    what = file_volume(
        store,
        "v-options",
        access_mode="ro",
        discard=True,
        logical_block_size=4096,
        physical_block_size=4096,
        qos_specs={"total_iops_sec": 500, "consumer_word": "for the storage"},
    )
    attach(house, running, {**what, "tag": "scratch"}, "/dev/vdk")
    house.wait(running, rf"guest: v-options has {servers.SIZE} bytes, ro 1")
    house.wait(running, r"guest: v-options reads \[hello v-options\] blocks 4096/4096")
    house.wait(running, "guest: v-options not written")
    xml = house.driver.rooms.hypervisor.guest(running.uuid).xml()
    assert 'discard="unmap"' in xml.replace("'", '"')
    assert "<total_iops_sec>500</total_iops_sec>" in xml
    (described,) = house.driver.device_metadata(running)
    assert described["tags"] == ["scratch"]
    assert described["serial"] == "v-options"
    assert re.fullmatch(r"0000:[0-9a-f]{2}:[0-9a-f]{2}\.0", described["address"])
    with pytest.raises(NameTaken):
        attach(house, running, file_volume(store, "v-other"), "/dev/vdk")
    detach(house, running, what)
    assert house.driver.device_metadata(running) == []


def test_a_scsi_disk_brings_the_controller_that_guests_know(house: Machines, running: Instance, store: Path) -> None:
    what = file_volume(store, "v-scsi", size=servers.SIZE + MiB)
    attach(house, running, what, "/dev/sda", disk_bus="scsi")
    house.wait(running, rf"cowshed-guest: disk sd\w {servers.SIZE + MiB} rw")
    assert 'model="virtio-scsi"' in house.driver.rooms.hypervisor.guest(running.uuid).xml().replace("'", '"')
    house.driver.detach_volume(what, running, "/dev/sda")
    house.wait(running, r"cowshed-guest: disk sd\w gone")
    assert_gone(house, running, what)


def test_two_guests_share_a_volume_only_when_it_says_so(house: Machines, running: Instance, store: Path) -> None:
    other = house.spawn(house.image())
    alone, shared = file_volume(store, "v-alone"), file_volume(store, "v-shared", multiattach=True)
    attach(house, running, alone)
    with pytest.raises(Conflict) as caught:
        attach(house, other, alone)
    assert running.uuid in str(caught.value)
    same_file = {**alone, "serial": "v-other-name"}
    with pytest.raises(Conflict):
        attach(house, other, same_file)
    for instance in (running, other):
        attach(house, instance, shared)
        assert "<shareable/>" in house.driver.rooms.hypervisor.guest(instance.uuid).xml()
    house.driver.destroy(None, other, [])
    house.wait(running, "guest: v-shared written")
    detach(house, running, shared)
    detach(house, running, alone)


def test_usage_is_counted_by_volume(house: Machines, running: Instance, store: Path) -> None:
    what = file_volume(store, "v-usage")
    attach(house, running, what)
    house.wait(running, "guest: v-usage written")
    (known,) = house.driver.volumes(running)
    bdms = [
        {"device_name": f"/dev/{known.target}", "volume_id": known.id},
        {"device_name": "/dev/vdz", "volume_id": "x"},
    ]
    (usage,) = house.driver.get_all_volume_usage(None, [{"instance": running, "instance_bdms": bdms}])
    assert usage["volume"] == "v-usage"
    assert usage["rd_bytes"] > 0
    assert usage["wr_bytes"] > 0
    assert usage["wr_req"] > 0
    assert (house.driver.block_stats(running, known.target) or [0])[3] == usage["wr_bytes"]
    detach(house, running, what)


# --- grow, exchange, snapshots --------------------------------------------------------------------


def test_a_guest_sees_its_volume_grow(house: Machines, running: Instance, store: Path) -> None:
    what = file_volume(store, "v-grow")
    attach(house, running, what)
    house.wait(running, "guest: v-grow written")
    house.driver.extend_volume(None, what, running, 2 * servers.SIZE)
    house.wait(running, rf"guest: v-grow has {2 * servers.SIZE} bytes, ro 0")
    assert (store / "v-grow.raw").stat().st_size == 2 * servers.SIZE
    with pytest.raises(InvalidRequest):
        house.driver.extend_volume(None, what, running, servers.SIZE)
    detach(house, running, what)
    with pytest.raises(NotFound):
        house.driver.extend_volume(None, what, running, 3 * servers.SIZE)


def test_a_device_that_the_storage_has_grown_is_seen_to_grow(house: Machines, running: Instance, store: Path) -> None:
    file = servers.raw_file(store / "grow.img")
    with servers.loop_device(file) as device:
        what = info("local", "v-grow-dev", device_path=str(device))
        attach(house, running, what)
        house.wait(running, "guest: v-grow-dev written")
        with pytest.raises(InvalidRequest):  # the storage has not
            house.driver.extend_volume(None, what, running, 2 * servers.SIZE)
        os.truncate(file, 2 * servers.SIZE)
        run("losetup", "-c", device)
        house.driver.extend_volume(None, what, running, 2 * servers.SIZE)
        house.wait(running, rf"guest: v-grow-dev has {2 * servers.SIZE} bytes, ro 0")
        detach(house, running, what)


def test_a_volume_is_exchanged_while_the_guest_writes(house: Machines, running: Instance, store: Path) -> None:
    old, new = file_volume(store, "v-old"), file_volume(store, "v-new", "nothing", size=GiB)
    attach(house, running, old)
    house.wait(running, "guest: v-old written")
    with pytest.raises(InvalidRequest):  # smaller than it is
        house.driver.swap_volume(old, file_volume(store, "v-small", size=MiB), running, "/dev/vdc", 0)
    house.driver.swap_volume(old, new, running, "/dev/vdc", 1)
    assert [one.id for one in house.driver.volumes(running)] == ["v-new"]
    house.wait(running, rf"guest: v-old has {GiB} bytes, ro 0")  # the guest goes on with what it knows
    assert servers.text_at(store / "v-new.raw", 0) == "hello v-old"
    guest = house.driver.rooms.hypervisor.guest(running.uuid)
    for xml in (guest.xml(), guest.xml(inactive=True)):
        assert str(store / "v-new.raw") in xml
        assert str(store / "v-old.raw") not in xml
    house.driver.detach_volume(new, running, "")
    house.wait(running, "guest: v-old gone")
    assert_gone(house, running, new)


def test_snapshots_of_a_file_volume_come_and_go_under_the_guest(
    house: Machines, running: Instance, store: Path
) -> None:
    what = file_volume(store, "v-snap")
    told: list[tuple[str, str]] = []

    class Service:
        def update_snapshot_status(self, context: Any, snapshot_id: str, status: str) -> None:
            told.append((snapshot_id, status))

    house.driver.rooms.volume_service = Service()
    attach(house, running, what)
    house.wait(running, "guest: v-snap written")
    for name in ("first", "second"):
        create = {"snapshot_id": name, "type": "qcow2", "new_file": f"v-snap.{name}"}
        house.driver.volume_snapshot_create(None, running, "v-snap", create)
    (known,) = house.driver.volumes(running)
    assert known.connection_info["data"]["path"] == str(store / "v-snap.second")
    guest = house.driver.rooms.hypervisor.guest(running.uuid)
    assert str(store / "v-snap.second") in guest.xml(inactive=True)
    assert (store / "v-snap.second").stat().st_mode & 0o077 == 0
    with pytest.raises(NotFound):
        house.driver.volume_snapshot_delete(
            None, running, "v-snap", "x", {"type": "qcow2", "file_to_merge": "v-snap.none", "merge_target_file": "x"}
        )
    merge = {"type": "qcow2", "file_to_merge": "v-snap.first", "merge_target_file": "v-snap.raw"}
    house.driver.volume_snapshot_delete(None, running, "v-snap", "first", merge)
    assert str(store / "v-snap.first") not in guest.xml()
    house.driver.volume_snapshot_delete(
        None, running, "v-snap", "second", {"type": "qcow2", "file_to_merge": None, "merge_target_file": None}
    )
    assert str(store / "v-snap.raw") not in guest.xml()
    assert told == [
        ("first", "creating"),
        ("second", "creating"),
        ("x", "error_deleting"),
        ("first", "deleting"),
        ("second", "deleting"),
    ]
    detach(house, running, known.connection_info)
    assert content_of(store / "v-snap.second", "qcow2") == "guest was here on v-snap"


def content_of(path: Path, format: str) -> str:
    copy = path.with_suffix(".copy")
    run("qemu-img", "convert", "-q", "-f", format, "-O", "raw", path, copy)
    return servers.text_at(copy)


def test_the_active_layer_is_committed_and_left(house: Machines, running: Instance, store: Path) -> None:
    what = file_volume(store, "v-active")
    attach(house, running, what)
    create = {"snapshot_id": "s", "type": "qcow2", "new_file": "v-active.top"}
    house.driver.volume_snapshot_create(None, running, "v-active", create)
    merge = {"type": "qcow2", "file_to_merge": "v-active.top", "merge_target_file": "v-active.raw"}
    house.wait(running, "guest: v-active written")
    house.driver.volume_snapshot_delete(None, running, "v-active", "s", merge)
    (known,) = house.driver.volumes(running)
    assert known.connection_info["data"]["path"] == str(store / "v-active.raw")
    assert known.connection_info["data"]["format"] == "raw"
    assert servers.text_at(store / "v-active.raw") == "guest was here on v-active"
    detach(house, running, known.connection_info)


# --- bad input, before anything is touched --------------------------------------------------------


def test_what_cannot_be_is_refused_and_nothing_stays(house: Machines, running: Instance, store: Path) -> None:
    good = servers.raw_file(store / "good.raw")
    (store / "link.qcow2").unlink(missing_ok=True)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd", store / "evil.qcow2", "1M")
    cases: list[tuple[dict[str, Any], type[Exception]]] = [
        (info("tape", "v", name="x"), UnsupportedOperation),
        (info("file", "v", path=str(store / "none.raw"), format="raw"), NotFound),
        (info("file", "v", path=str(good)), InvalidRequest),
        (info("file", "v", path=str(good), format="vmdk"), InvalidRequest),
        (info("file", "v", path=str(good), format="qcow2"), Exception),
        (info("file", "v", path=str(store / "evil.qcow2"), format="qcow2"), Exception),
        (info("file", "../v", path=str(good), format="raw"), InvalidRequest),
        (info("file", "v", path=str(house.state / "instances" / running.uuid / "disk"), format="qcow2"), Conflict),
        (info("local", "v", device_path="/dev/null"), InvalidRequest),
        (info("local", "v", device_path="/dev/cowshed-none"), NotFound),
        (info("nbd", "v", host="127.0.0.1", port=servers.free_port(), export="disk"), Exception),
        (info("file", "v", path=str(good), format="raw", encrypted=True), InvalidRequest),
        (info("file", "v", path=str(good), format="raw", logical_block_size=1000), InvalidRequest),
        (info("file", "v", path=str(good), format="raw", access_mode="rx"), InvalidRequest),
    ]
    before = house.driver.rooms.hypervisor.guest(running.uuid).xml()
    for what, kind in cases:
        with pytest.raises(kind) as caught:
            attach(house, running, what)
        assert "Traceback" not in str(caught.value)
        assert isinstance(caught.value, CowshedError), what
    with pytest.raises(InvalidRequest):
        attach(house, running, info("file", "v", path=str(good), format="raw"), "/dev/nonsense0")
    with pytest.raises(UnsupportedOperation):
        house.driver.attach_volume(
            None,
            info("file", "v", path=str(good), format="raw"),
            running,
            "",
            encryption={"provider": "plain", "encryption_key_id": running.uuid},
        )
    assert house.driver.rooms.hypervisor.guest(running.uuid).xml() == before
    assert house.driver.volumes(running) == ()


def test_a_wrong_password_or_lun_is_told_by_its_name(house: Machines, running: Instance, store: Path) -> None:
    file, before = servers.raw_file(store / "chap.img"), house.driver.rooms.hypervisor.secrets.uuids()
    with servers.iscsi(file) as target:
        with pytest.raises(PermissionDenied):
            attach(house, running, info("iscsi", "v-chap", **target.data(password="wrong-password-1")))
        with pytest.raises(NotFound):
            attach(house, running, info("iscsi", "v-lun", **target.data(lun=7)))
        with servers.nbd(file) as port, pytest.raises(NotFound):
            attach(house, running, info("nbd", "v-export", host="127.0.0.1", port=port, export="other"))
    assert house.driver.volumes(running) == ()
    assert house.driver.rooms.hypervisor.secrets.uuids() == before


def test_a_bus_has_an_end_and_so_have_the_slots(house: Machines, running: Instance, store: Path) -> None:
    """Whichever ends first: what was attached stays, what was refused left nothing, and after one has gone there is room."""
    made = []
    with pytest.raises((UnsupportedOperation, InvalidRequest)) as caught:
        for number in range(30):
            what = file_volume(store, f"v-many-{number}", size=MiB * 2)
            attach(house, running, what)
            made.append(what)
    assert len(made) >= 4
    assert "slots" in str(caught.value) or "no room" in str(caught.value)
    assert len(house.driver.volumes(running)) == len(made)
    house.wait(running, f"guest: v-many-{len(made) - 1} written")
    detach(house, running, made.pop())
    again = file_volume(store, "v-again", size=MiB * 2)
    attach(house, running, again)
    for what in [*made, again]:
        house.driver.detach_volume(what, running, "")
        house.wait(running, f"guest: {what['serial']} gone")
    assert house.driver.volumes(running) == ()


# --- encrypted ------------------------------------------------------------------------------------


def test_a_luks_volume_is_opened_in_qemu(house: Machines, running: Instance, store: Path) -> None:
    """The bytes on the storage are not those the guest sees; the key is in libvirt only as long as it is attached."""
    key_id, plain = str(uuid.uuid4()), servers.raw_file(store / "plain.raw", "hello v-luks")
    key = house.driver.rooms.keys.create(key_id)
    secret, path = store / "key", store / "v-luks.img"
    secret.write_bytes(key)
    qemu_img(
        *("convert", "-q", "-f", "raw", "-O", "luks", "--object", f"secret,id=k,file={secret}"),
        *("-o", "key-secret=k,iter-time=10", plain, path),
    )
    secret.unlink()
    path.chmod(0o666)
    header = path.stat().st_size - servers.SIZE
    what = info("file", "v-luks", path=str(path), format="raw", encrypted=True)
    encryption = {"provider": "luks", "encryption_key_id": key_id}
    attach(house, running, what, encryption=encryption)
    house.wait(running, rf"guest: v-luks has {servers.SIZE} bytes, ro 0")
    house.wait(running, r"guest: v-luks reads \[hello v-luks\]")
    house.wait(running, "guest: v-luks written")
    assert house.driver.rooms.hypervisor.secrets.kept(key_id) is False
    house.driver.extend_volume(None, what, running, 2 * servers.SIZE + header)
    house.wait(running, rf"guest: v-luks has {2 * servers.SIZE} bytes, ro 0")
    with pytest.raises(UnsupportedOperation):
        house.driver.swap_volume(what, file_volume(store, "v-plain"), running, "", 0)
    detach(house, running, what, encryption=encryption)
    assert house.driver.rooms.hypervisor.secrets.kept(key_id) is None
    assert b"guest was here" not in path.read_bytes()


# --- guests that do not let go, daemons that go away ----------------------------------------------


def test_a_guest_that_does_not_answer_keeps_its_volume(house: Machines, running: Instance, store: Path) -> None:
    what = file_volume(store, "v-stuck")
    attach(house, running, what)
    house.wait(running, "guest: v-stuck written")
    hasty = house.reopened(volumes=VolumesSection(detach_timeout=1, detach_attempts=2))
    house.driver.pause(running)
    try:
        with pytest.raises(DeadlineExceeded) as caught:
            hasty.detach_volume(what, running, "")
    finally:
        house.driver.unpause(running)
    assert "vd" in str(caught.value)
    assert "it is paused" in str(caught.value.hint)
    assert [one.id for one in house.driver.volumes(running)] == ["v-stuck"]
    hasty.cleanup_host("here")
    detach(house, running, what)  # a retry works
    assert_gone(house, running, what)


def test_libvirt_may_go_away_while_a_guest_is_asked(
    libvirt_uri: str, house: Machines, running: Instance, store: Path
) -> None:
    """The daemon ends between the request and the answer: the event is lost, the volume is not."""
    from cowshed.hypervisor.devices import Devices

    what = file_volume(store, "v-daemon")
    attach(house, running, what)
    house.wait(running, "guest: v-daemon written")
    asked = Devices._request

    def ask_and_kill(self: Devices, device: Any) -> None:
        asked(self, device)
        vm_tests.end(int((session.runtime_directory() / "libvirtd.pid").read_text()), signal.SIGKILL)
        threading.Timer(1.0, vm_tests.start_daemon).start()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Devices, "_request", ask_and_kill)
        detach(house, running, what)
    assert_gone(house, running, what)
    other = file_volume(store, "v-after")
    attach(house, running, other)
    house.wait(running, "guest: v-after written")
    detach(house, running, other)


KILLED = """
import os, signal, sys
from cowshed.config import Config, HostSection
from cowshed.driver import LibvirtDriver
from cowshed.hypervisor.devices import Devices
from cowshed.model.flavor import Flavor
from cowshed.model.instance import Instance

uri, state, uuid, moment, path = sys.argv[1:]
asked = getattr(Devices, "attach" if moment.endswith("attach") else "detach")

def kill(self, *words, **named):
    if moment.startswith("after"):
        asked(self, *words, **named)
    os.kill(os.getpid(), signal.SIGKILL)

setattr(Devices, asked.__name__, kill)
driver = LibvirtDriver(config=Config(host=HostSection(uri=uri, state=state, virt_type="qemu")))
info = {"driver_volume_type": "file", "serial": "v-killed", "data": {"path": path, "format": "raw"}}
instance = Instance(uuid, "killed", Flavor())
if moment.endswith("attach"):
    driver.attach_volume(None, info, instance, "")
else:
    driver.detach_volume(info, instance, "")
"""


@pytest.mark.parametrize(
    ("moment", "there"),
    [("before attach", False), ("after attach", True), ("before detach", True), ("after detach", False)],
)
def test_a_process_killed_in_the_middle_leaves_nothing_unknown(
    libvirt_uri: str, house: Machines, running: Instance, store: Path, moment: str, there: bool
) -> None:
    """The next start of the service finds it attached or not at all; trying again succeeds either way."""
    what = file_volume(store, "v-killed")
    if moment.endswith("detach"):
        attach(house, running, what)
    words = [sys.executable, "-c", KILLED, libvirt_uri, house.state, running.uuid, moment, what["data"]["path"]]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [one.id for one in house.driver.volumes(running)] == ["v-killed"]  # it is not forgotten
    house.driver.init_host("here")
    guest = house.driver.rooms.hypervisor.guest(running.uuid)
    assert ("v-killed" in guest.xml()) is there
    assert [one.state for one in house.driver.volumes(running)] == ([VolumeState.ATTACHED] if there else [])
    house.driver.detach_volume(what, running, "")
    assert_gone(house, running, what)
    attach(house, running, what)
    house.driver.detach_volume(what, running, "")
    assert_gone(house, running, what)


def test_what_a_killed_process_left_is_found_again(house: Machines, running: Instance, store: Path) -> None:
    """Killed before the guest had it: disconnected. Killed after: it is attached."""
    from cowshed.driver.steps import volumes

    attached, lost = file_volume(store, "v-attached"), file_volume(store, "v-lost")
    attach(house, running, attached)
    house.wait(running, "guest: v-attached written")
    place = volumes.directory(house.driver.rooms, running)
    (known,) = house.driver.volumes(running)
    record.save(place, dataclasses.replace(known, state=VolumeState.CONNECTING))
    record.save(place, AttachedVolume("v-lost", lost, "vdz", state=VolumeState.CONNECTING))
    with volumes.held(house.driver.rooms, "v-lost"):
        house.driver.init_host("here")  # somebody is at it
        assert len(house.driver.volumes(running)) == 2
    house.driver.init_host("here")
    assert [(one.id, one.state) for one in house.driver.volumes(running)] == [("v-attached", VolumeState.ATTACHED)]
    record.save(place, AttachedVolume("v-lost", lost, "vdz", state=VolumeState.CONNECTING))
    attach(house, running, lost)  # trying again is enough
    house.wait(running, "guest: v-lost written")
    detach(house, running, lost)
    detach(house, running, attached)
