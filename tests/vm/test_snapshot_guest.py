"""Images of running guests: their content, how long the guest is quiet, and what is left when something goes wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cowshed.driver.steps import capture_live, capture_note, locate
from cowshed.errors import (
    Busy,
    CowshedError,
    DeadlineExceeded,
    HypervisorError,
    ImageNotFound,
    Interrupted,
    InvalidState,
    NoSpace,
    UnsupportedOperation,
)
from cowshed.hypervisor import backup
from cowshed.hypervisor.agent import Agent
from cowshed.hypervisor.backup import Backup
from cowshed.model.disk import DiskFormat
from cowshed.model.flavor import Flavor
from cowshed.model.image import Image
from cowshed.model.instance import Instance, PowerState
from cowshed.tools import filesystem
from cowshed.units import MiB
from tests.vm import slow_backup
from tests.vm.conftest import end, start_daemon
from tests.vm.machines import Machines

ROOT = Path(__file__).parents[2]
FLAVOR = Flavor(memory=192 * MiB, root=160 * MiB, ephemeral=64 * MiB, swap=16 * MiB)


@pytest.fixture(scope="module")
def running(house: Machines, guest_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Instance:
    """With an agent, a root and an ephemeral disk; its boot counter says 1. Copies of it take a while."""
    large = tmp_path_factory.mktemp("large") / "tiny.raw"
    large.write_bytes((guest_dir / "tiny.raw").read_bytes() + b"mark" * ((FLAVOR.root - 64 * MiB) // 4))
    instance = house.spawn(house.image(str(large)), flavor=FLAVOR, metadata={"role": "web"})
    house.wait(instance, "cowshed-guest: up")
    guest_of(house, instance).wait_until_speaks()
    return instance


class Speaking:
    """What the tests ask of a guest through its agent."""

    def __init__(self, house: Machines, instance: Instance) -> None:
        self.guest = house.driver.rooms.hypervisor.guest(instance.uuid)

    def wait_until_speaks(self) -> None:
        deadline = time.monotonic() + 120
        while not self.guest.agent.ping():
            assert time.monotonic() < deadline, "the agent does not answer"
            time.sleep(0.1)

    @property
    def frozen(self) -> bool:
        return self.guest.agent.frozen()


def guest_of(house: Machines, instance: Instance) -> Speaking:
    return Speaking(house, instance)


def nothing_is_left(house: Machines, instance: Instance) -> None:
    """It runs, takes writes, has no job, and no file or record of a snapshot is there."""
    assert house.state_of(instance) == PowerState.RUNNING
    speaking = guest_of(house, instance)
    assert not speaking.frozen
    assert not backup.files(speaking.guest)
    assert house.driver.execute(instance, ["sh", "-c", "echo x >/data/x && sync"]).status == 0
    place = house.driver.rooms.directory(instance.uuid).path
    assert [path.name for path in place.iterdir() if "capture" in path.name] == []
    assert [image.name for image in house.driver.images.list() if image.name.startswith("snap")] == []


@pytest.fixture
def clean(house: Machines, running: Instance) -> Iterator[None]:
    yield
    for image in house.driver.images.list():
        if image.name.startswith("snap"):
            house.driver.images.delete(image.id)
    nothing_is_left(house, running)


def raw(house: Machines, image: Image, tmp_path: Path) -> bytes:
    source, target = tmp_path / f"{image.id}.qcow2", tmp_path / f"{image.id}.raw"
    house.driver.images.download(image, source)
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", source, target], check=True, timeout=60)
    return target.read_bytes()


def file_in(disk: bytes, tmp_path: Path, name: str, *, partition: int = 2) -> bytes:
    """What the ext4 of ``partition`` (0: the whole disk) has under ``name``, read by e2fsprogs' own debugger."""
    start, size = 0, len(disk)
    if partition:
        entry = disk[446 + 16 * (partition - 1) :][:16]
        start, size = (512 * int.from_bytes(entry[at : at + 4], "little") for at in (8, 12))
    path = tmp_path / "ext4"
    path.write_bytes(disk[start : start + size])
    subprocess.run(["/sbin/e2fsck", "-fy", path], check=False, capture_output=True, timeout=60)
    command = ["/sbin/debugfs", "-R", f"cat {name}", str(path)]
    return subprocess.run(command, check=True, capture_output=True, timeout=60).stdout


def is_clean(disk: bytes, tmp_path: Path) -> bool:
    """Needs the journal of its data partition no replay? Only of a file system that was frozen."""
    entry = disk[446 + 16 : 446 + 32]
    start = 512 * int.from_bytes(entry[8:12], "little")
    incompatible = int.from_bytes(disk[start + 1024 + 0x60 : start + 1024 + 0x64], "little")
    return not incompatible & 0x4  # EXT4_FEATURE_INCOMPAT_RECOVER


@contextmanager
def slow(monkeypatch: pytest.MonkeyPatch, then: Callable[[Backup], object] = lambda backup: None) -> Iterator[None]:
    """Copies of the disks take long; ``then`` is called when one has begun."""
    with monkeypatch.context() as patch:
        patch.setattr(Backup, "begin", slow_backup.then(then))
        yield


# --- what comes out -------------------------------------------------------------------------------


@pytest.mark.usefixtures("clean")
def test_an_image_of_a_running_guest_boots_where_it_was(
    house: Machines, running: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the guest had not written out itself is in it too, because it was quiesced; and it was so for a moment only."""
    words = ["sh", "-c", "echo kept >/data/kept; echo $(cat /data/boots) >/data/seen"]
    assert house.driver.execute(running, words).status == 0
    times: list[float] = []
    for name in ("freeze", "thaw"):
        call = getattr(Agent, name)

        def timed(self: Agent, call: Callable[[Agent], None] = call, name: str = name) -> None:
            if name == "freeze":
                times.append(time.monotonic())
            call(self)
            if name == "thaw":
                times.append(time.monotonic())

        monkeypatch.setattr(Agent, name, timed)
    began = time.monotonic()
    image = house.driver.create_image(running, "snap")
    print(f"snapshot {time.monotonic() - began:.2f} s, guest quiet {times[1] - times[0]:.2f} s")
    assert house.state_of(running) == PowerState.RUNNING
    assert len(times) == 2
    assert times[1] - times[0] < 10
    disk = raw(house, image, tmp_path)
    assert len(disk) == FLAVOR.root
    assert is_clean(disk, tmp_path)
    assert file_in(disk, tmp_path, "/kept") == b"kept\n"
    second = house.spawn(image)
    assert house.wait(second, r"cowshed-guest: boot \d+") == "cowshed-guest: boot 2"
    house.driver.destroy(None, second, [])


@pytest.mark.usefixtures("clean")
def test_the_contract_s_snapshot_tells_its_states_and_fills_the_record(house: Machines, running: Instance) -> None:
    told: list[dict[str, str]] = []
    identity = "11111111-2222-4333-8444-555555555555"
    house.driver.snapshot(None, running, identity, lambda **words: told.append(words))
    assert house.driver.images.show(identity).size > 0
    assert told == [
        {"task_state": "image_pending_upload"},
        {"task_state": "image_uploading", "expected_state": "image_pending_upload"},
    ]
    house.driver.images.delete(identity)


@pytest.mark.usefixtures("clean")
def test_all_disks_are_of_one_point_in_time_while_the_guest_writes(
    house: Machines, running: Instance, tmp_path: Path
) -> None:
    """Numbers go to both disks in turn: the second one never knows more than the first, nor two less."""
    script = """
        mkdir -p /eph; mount /dev/vdb /eph || exit 1
        (i=0; while [ -e /eph ] && [ ! -e /run/stop ]; do
            i=$((i+1)); echo $i >/data/n.new; mv /data/n.new /data/n; sync
            echo $i >/eph/n.new; mv /eph/n.new /eph/n; sync
        done; umount /eph) >/dev/null 2>&1 &
    """
    assert house.driver.execute(running, ["sh", "-c", script]).status == 0
    deadline = time.monotonic() + 60
    while house.driver.execute(running, ["sh", "-c", "[ $(cat /eph/n) -gt 3 ]"]).status:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    images = house.driver.create_images(running, "snap", properties={"who": "me"})
    house.driver.execute(running, ["touch", "/run/stop"])
    assert [image.name for image in images] == ["snap", "snap-local"]
    assert [image.properties["snapshot_disk"] for image in images] == ["disk", "disk.local"]
    assert len({image.properties["snapshot_set"] for image in images}) == 1
    assert {image.properties["who"] for image in images} == {"me"}
    first, second = (raw(house, image, tmp_path) for image in images)
    one = int(file_in(first, tmp_path, "/n"))
    other = int(file_in(second, tmp_path, "/n", partition=0))
    assert one - 1 <= other <= one
    assert one > 3


@pytest.mark.usefixtures("clean")
def test_a_paused_guest_stays_paused(house: Machines, running: Instance, tmp_path: Path) -> None:
    house.driver.pause(running)
    try:
        image = house.driver.create_image(running, "snap")
        assert house.state_of(running) == PowerState.PAUSED
        assert int(file_in(raw(house, image, tmp_path), tmp_path, "/boots")) == 1
        with demanding(house, running), pytest.raises(InvalidState, match="paused"):
            house.driver.create_image(running, "snap-2")
    finally:
        house.driver.unpause(running)


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("backend", ["raw", "ploop"])
def test_other_disks_than_qcow2(house: Machines, tiny: Image, running: Instance, backend: str, tmp_path: Path) -> None:
    """Byte by byte what the backend itself says afterwards."""
    instance = house.spawn(tiny, backend=backend)
    house.driver.pause(instance)
    image = house.driver.create_image(instance, "snap")
    house.driver.power_off(instance)
    target = tmp_path / "disk"
    house.driver.rooms.backend(backend).disk(instance.uuid, "disk").extract(target, DiskFormat.RAW)
    assert raw(house, image, tmp_path) == target.read_bytes()
    house.driver.destroy(None, instance, [])


# --- quiet file systems ---------------------------------------------------------------------------


@contextmanager
def demanding(house: Machines, instance: Instance) -> Iterator[None]:
    """``os_require_quiesce`` is on its image."""
    rooms = house.driver.rooms
    image = locate.remembered_image(rooms, instance)
    locate.remember_image(rooms, instance, replace(image, properties={**image.properties, "os_require_quiesce": "yes"}))
    yield
    locate.remember_image(rooms, instance, image)


@pytest.mark.usefixtures("clean")
def test_quiesce_and_unquiesce(house: Machines, tiny: Image, running: Instance) -> None:
    speaking = guest_of(house, running)
    house.driver.unquiesce(None, running, tiny)
    house.driver.quiesce(None, running, tiny)
    assert speaking.frozen
    with pytest.raises(InvalidState, match="frozen already"):
        house.driver.quiesce(None, running, tiny)
    house.driver.create_image(running, "snap")
    assert speaking.frozen, "somebody else's freeze was ended"
    house.driver.unquiesce(None, running, tiny)
    assert not speaking.frozen


def test_without_an_agent_there_is_no_quiesce(house: Machines, running: Instance) -> None:
    image = house.image(properties={"hw_qemu_guest_agent": "no", "os_require_quiesce": "yes"})
    instance = house.spawn(image)
    for call in (house.driver.quiesce, house.driver.unquiesce):
        with pytest.raises(UnsupportedOperation, match="agent"):
            call(None, instance, image)
    with pytest.raises(UnsupportedOperation, match="agent"):
        house.driver.create_image(instance, "snap")
    house.driver.destroy(None, instance, [])


@pytest.mark.usefixtures("clean")
def test_a_silent_agent_is_waited_for_a_few_seconds(house: Machines, tiny: Image, running: Instance) -> None:
    speaking = guest_of(house, running)
    with silent(house, running):
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded, match="agent"):
            house.driver.quiesce(None, running, tiny)
        assert time.monotonic() - began < 20
        house.driver.create_image(running, "snap")  # nobody demands that it be quiesced
    speaking.wait_until_speaks()


@contextmanager
def silent(house: Machines, instance: Instance) -> Iterator[None]:
    """The agent is stopped until its swap disk grows, which the guest sees without the agent."""
    script = """
        size=/sys/block/vdc/size before=$(cat /sys/block/vdc/size) agent=$(cat /run/qemu-ga.pid)
        (usleep 500000; kill -STOP $agent
         while [ $(cat $size) = $before ]; do usleep 100000; done; kill -CONT $agent) >/dev/null 2>&1 &
    """
    assert house.driver.execute(instance, ["sh", "-c", script]).status == 0
    speaking = guest_of(house, instance)
    deadline = time.monotonic() + 60
    while speaking.guest.agent.ping():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    try:
        yield
    finally:
        jobs = speaking.guest.block_jobs
        jobs.resize("vdc", jobs.capacity("vdc") + MiB)


# --- when something goes wrong --------------------------------------------------------------------


def broken(*_: object, **__: object) -> None:
    raise HypervisorError(action="do that", reason="broken for the test", number=1)


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize(("whose", "call"), [(Agent, "freeze"), (Backup, "begin"), (Backup, "finish")])
def test_it_is_thawed_after_every_failure(
    house: Machines, running: Instance, monkeypatch: pytest.MonkeyPatch, whose: type, call: str
) -> None:
    """The real call is done, and fails all the same. (What is left is looked at by the fixture.)"""
    real = getattr(whose, call)

    def done(self: Any, *args: Any) -> None:
        real(self, *args)
        broken()

    monkeypatch.setattr(whose, call, done)
    with demanding(house, running), pytest.raises(HypervisorError, match="broken for the test"):
        house.driver.create_image(running, "snap")


@pytest.mark.usefixtures("clean")
def test_stopping_it_leaves_the_guest_as_it_was_and_nothing_else(
    house: Machines, running: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """^C, a progress that says stop, and somebody else who ends the job."""
    with slow(monkeypatch, lambda backup: os.kill(os.getpid(), signal.SIGINT)), pytest.raises(KeyboardInterrupt):
        house.driver.create_image(running, "snap")
    nothing_is_left(house, running)
    monkeypatch.setattr(house.driver.rooms, "progress", Stopping())
    with slow(monkeypatch), pytest.raises(Interrupted):
        house.driver.create_images(running, "snap")
    nothing_is_left(house, running)
    monkeypatch.undo()
    with slow(monkeypatch, backup_ended), pytest.raises(HypervisorError, match="cancel"):
        house.driver.create_image(running, "snap")
    nothing_is_left(house, running)
    house.driver.create_image(running, "snap")


def backup_ended(running: Backup) -> None:
    running._guest.call("end the job of", lambda d: d.abortJob())


class Stopping:
    """A progress that stops as soon as the copy is seen."""

    seen = False

    def phase(self, name: str, total: int | None = None) -> None:
        self.seen = self.seen or name == "snapshot"

    def update(self, done: int) -> None:
        pass

    def check(self) -> None:
        if self.seen:
            raise Interrupted(what="the snapshot")


@pytest.mark.usefixtures("clean")
def test_what_can_be_foreseen_is_refused_before_anything(
    house: Machines, running: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(filesystem, "free_space", lambda path: MiB)
    with pytest.raises(NoSpace):
        house.driver.snapshot(None, running, "11111111-2222-4333-8444-555555555555", told.append)
    monkeypatch.undo()
    with capture_note.alone(house.driver.rooms, running), pytest.raises(Busy):
        house.driver.create_image(running, "snap")
    assert told == []


@pytest.mark.usefixtures("clean")
def test_an_image_deleted_meanwhile_is_not_found_and_nothing_is_left(
    house: Machines, running: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(image: Image, source: object, **_: object) -> Image:
        raise ImageNotFound(name=image.id)

    with monkeypatch.context() as patch:
        patch.setattr(house.driver.rooms.images, "upload", gone)
        with pytest.raises(ImageNotFound):
            house.driver.snapshot(None, running, "11111111-2222-4333-8444-555555555555", lambda **_: None)
        nothing_is_left(house, running)
    upload, sent = house.driver.rooms.images.upload, []

    def second_fails(image: Image, source: Any, **words: Any) -> Image:
        if sent:
            raise ImageNotFound(name=image.id)
        sent.append(image.id)
        return upload(image, source, **words)

    monkeypatch.setattr(house.driver.rooms.images, "upload", second_fails)
    with pytest.raises(ImageNotFound):
        house.driver.create_images(running, "snap")
    assert len(sent) == 1


@pytest.mark.usefixtures("clean")
def test_libvirt_restarts_in_the_middle(
    house: Machines, running: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy goes on in QEMU, and is waited for."""

    def restart(backup: Backup) -> None:
        end(daemon_pid(), signal.SIGKILL)
        start_daemon()
        with suppress(CowshedError):  # it is over already
            backup._guest.call("go faster in", lambda d: d.blockJobSetSpeed("vda", 0, 0), repeat=True)

    with slow(monkeypatch, restart):
        image = house.driver.create_image(running, "snap")
    disk = raw(house, image, tmp_path)
    assert disk.endswith(b"mark" * (MiB // 4))
    assert int(file_in(disk, tmp_path, "/boots")) == 1


def daemon_pid() -> int:
    from cowshed.hypervisor import session

    return int((session.runtime_directory() / "libvirtd.pid").read_text())


KILLED = """
import os, signal, sys
from cowshed.config import Config, GuestSection, HostSection
from cowshed.driver import LibvirtDriver
from cowshed.hypervisor.agent import Agent
from cowshed.hypervisor.backup import Backup
from cowshed.model.flavor import Flavor
from cowshed.model.instance import Instance

uri, state, identity, where = sys.argv[1:]
driver = LibvirtDriver(config=Config(host=HostSection(uri=uri, state=state, virt_type="qemu")))

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

from tests.vm import slow_backup
if where == "frozen":
    Backup.begin = die
if where == "begun":
    Backup.begin = slow_backup.then(die)
if where == "copying":
    finish = Backup.finish
    slow = slow_backup.begin
    def begun(backup):
        Backup.finish = finish
        slow(backup)
        Backup.finish = die
    Backup.begin = begun
if where == "uploading":
    driver.rooms.images.upload = die
driver.create_images(Instance(uuid=identity, name="web", flavor=Flavor()), "snap")
"""


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("where", ["frozen", "begun", "copying", "uploading"])
def test_what_a_killed_driver_leaves_goes_when_the_next_one_starts(
    house: Machines, running: Instance, where: str
) -> None:
    rooms = house.driver.rooms
    words = [sys.executable, "-c", KILLED, house.config.host.uri, str(house.state), running.uuid, where]
    done = subprocess.run(words, check=False, timeout=60, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == -signal.SIGKILL, done.stderr
    guest, place = rooms.hypervisor.guest(running.uuid), rooms.directory(running.uuid).path
    assert guest.agent.frozen() == (where in ("frozen", "begun"))
    assert bool(backup.files(guest)) == (where in ("begun", "copying"))
    assert (place / capture_note.NOTE).exists()
    assert list(place.glob(f"{capture_live.SCRATCH}*"))
    with capture_note.alone(rooms, running):  # somebody works at it: nothing of it is touched
        house.reopened().init_host("here")
        assert (place / capture_note.NOTE).exists()
    house.reopened().init_host("here")
    nothing_is_left(house, running)


def test_a_guest_that_dies_in_the_middle_is_told_and_the_next_try_works(
    house: Machines, running: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last test: the guest boots again."""

    def kill(backup: Backup) -> None:
        pid = next(
            int(path.name)
            for path in Path("/proc").iterdir()
            if path.name.isdigit() and running.uuid.encode() in command_of(path) and b"qemu-system" in command_of(path)
        )
        os.kill(pid, signal.SIGKILL)

    with slow(monkeypatch, kill), pytest.raises((InvalidState, HypervisorError)):
        house.driver.create_image(running, "snap")
    assert house.state_of(running) == PowerState.SHUTDOWN
    place = house.driver.rooms.directory(running.uuid).path
    assert [path.name for path in place.iterdir() if "capture" in path.name] == []
    house.driver.create_image(running, "snap-stopped")
    house.driver.power_on(None, running, [])
    house.driver.create_image(running, "snap-started")


def command_of(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""
