"""Instances: intent before act, one lock each, what libvirt says wins, and nothing is left behind."""

from __future__ import annotations

import dataclasses
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest

from cowshed import clock
from cowshed.errors import (
    Busy,
    Conflict,
    DataCorrupt,
    DeadlineExceeded,
    DiskTooSmall,
    HypervisorError,
    HypervisorUnavailable,
    ImageNotFound,
    InstanceNotFound,
    InvalidRequest,
    InvalidState,
    NameTaken,
    NoSpace,
    PermissionDenied,
)
from cowshed.manager import Host, Machine, names
from cowshed.model.image import Image
from cowshed.model.instance import Instance, InstanceState, PowerState
from cowshed.model.vif import PortForward, Vif
from cowshed.testing.clock import FakeClock
from cowshed.undo import Undo
from cowshed.units import MiB
from tests.manager_fakes import PretendDriver, raw_image, settings


@pytest.fixture
def driver(tmp_path: Path) -> PretendDriver:
    return PretendDriver(config=settings(tmp_path / "state"))


@pytest.fixture
def host(tmp_path: Path, driver: PretendDriver) -> Iterator[Host]:
    with Host.connect(config=driver.rooms.config, driver=driver) as opened:
        opened.images.pull(str(raw_image(tmp_path / "disk.raw")), name="tiny")
        yield opened


def again(host: Host) -> Host:
    """Another process on the same state."""
    return Host.connect(config=host.config, driver=host.driver)


# --- run ----------------------------------------------------------------------------------------------------------------


def test_run_records_and_starts(host: Host, driver: PretendDriver):
    machine = host.run("tiny", name="web", cpus=2, memory="512M", disk="20GiB", ssh_key="ssh-ed25519 AAAA me")
    instance, image, _ = driver.spawned
    assert (instance.name, instance.flavor.vcpus, instance.flavor.memory) == ("web", 2, 512 << 20)
    assert instance.flavor.root == 20 << 30
    assert instance.key_data == "ssh-ed25519 AAAA me"
    assert image.name == "tiny"
    assert machine.state == "running"
    assert machine.record.created > 0
    assert [one.name for one in again(host).machines()] == ["web"]


def test_intent_is_recorded_before_the_act(host: Host, driver: PretendDriver):
    driver.gate.clear()
    worker = threading.Thread(target=lambda: host.run("tiny", name="web"))
    worker.start()
    try:
        other = again(host)
        deadline = clock.Deadline(10, "the record")
        clock.poll(lambda: other.instances.records.exists("web"), deadline)
        assert other.machine("web").state == "building"
    finally:
        driver.gate.set()
        worker.join(10)
    assert other.machine("web").state == "running"


def test_name_is_invented_when_none_is_given(host: Host):
    first, second = host.run("tiny"), host.run("tiny")
    assert first.name != second.name
    assert "-" in names.check(first.name)


def test_invented_names_are_free(monkeypatch: pytest.MonkeyPatch):
    taken = {f"{how}-{who}" for how in names._HOW for who in names._WHO}
    assert names.invent(lambda name: name in taken).startswith("cow-")


@pytest.mark.parametrize("name", ["", "-web", "web-", "a b", "a/b", "../x", "a.b", "ü", "a" * 64, "web\n", "a_b"])
def test_bad_names_are_refused(host: Host, driver: PretendDriver, name: str):
    with pytest.raises(InvalidRequest, match="cannot be the name"):
        host.run("tiny", name=name) if name else names.check(name)
    assert "spawn" not in driver.names()


def test_an_empty_name_is_not_taken_for_none(host: Host, driver: PretendDriver):
    with pytest.raises(InvalidRequest):
        host.run("tiny", name="")
    assert "spawn" not in driver.names()


@pytest.mark.parametrize("name", ["bad host", "x\nfoo: bar", "-x", "x-", "a..b", ".", "a" * 64, "ü", "a_b"])
def test_bad_names_of_hosts_are_refused(host: Host, driver: PretendDriver, name: str):
    with pytest.raises(InvalidRequest, match="name of a host"):
        host.run("tiny", name="web", hostname=name)
    assert "spawn" not in driver.names()
    names.check_host("web-1.example.org")


def test_name_that_looks_like_a_uuid_is_refused(host: Host):
    with pytest.raises(InvalidRequest, match="looks like a UUID"):
        host.run("tiny", name="2dd1c88f-fcc9-42a5-996b-fd12a32ba287")


@pytest.mark.parametrize("name", ["a", "A1", "web-2", "a" * 63])
def test_good_names(name: str):
    assert names.check(name) == name


def test_name_taken(host: Host, driver: PretendDriver):
    host.run("tiny", name="web")
    with pytest.raises(NameTaken, match="instance web exists already") as caught:
        host.run("tiny", name="web")
    assert "cowshed rm web" in caught.value.hint
    assert driver.names() == ["spawn"]


def test_name_taken_by_another_process_a_moment_later(
    host: Host, driver: PretendDriver, monkeypatch: pytest.MonkeyPatch
):
    """The check and the record are two steps: the second decides."""
    host.run("tiny", name="web")
    monkeypatch.setattr(host.instances, "check_free", lambda name: None)
    with pytest.raises(NameTaken):
        host.run("tiny", name="web")
    assert driver.names() == ["spawn"]
    assert host.machine("web").state == "running"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cpus": 0}, "0 CPUs"),
        ({"memory": "64"}, "64 of memory"),
        ({"memory": "much"}, "is not a size"),
        ({"disk": "-1G"}, "is not a size"),
        ({"publish": ["22"]}, "is not a port forward"),
        ({"publish": ["2222:22"], "networks": ["none"]}, "need a user network"),
        ({"networks": ["what:ever"]}, "is not a network"),
        ({"networks": ["user,model=ne1"]}, "not a network card"),
        ({"backend": "tape"}, "no disk backend 'tape'"),
        ({"ssh_key": "/nowhere/id.pub"}, "does not exist"),
        ({"user_data": "/nowhere/cloud.yaml"}, "does not exist"),
        ({"initrd": "tiny"}, "needs a kernel"),
        ({"cmdline": "quiet"}, "needs a kernel"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_made(
    host: Host, driver: PretendDriver, options: dict[str, object], words: str
):
    with pytest.raises(InvalidRequest, match=words):
        host.run("tiny", name="web", **options)
    assert driver.calls == []
    assert host.instances.records.all() == []


def test_private_key_is_refused(host: Host, tmp_path: Path):
    key = tmp_path / "id_ed25519"
    key.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nsecret\n")
    with pytest.raises(InvalidRequest, match="is a private key") as caught:
        host.run("tiny", ssh_key=key)
    assert "secret" not in str(caught.value)


def test_keys_from_files_and_text_together(host: Host, driver: PretendDriver, tmp_path: Path):
    file = tmp_path / "id.pub"
    file.write_text("ssh-rsa BBBB file\n")
    host.run("tiny", ssh_key=[file, "ecdsa-sha2-nistp256 CCCC text"])
    assert driver.spawned[0].key_data == "ssh-rsa BBBB file\necdsa-sha2-nistp256 CCCC text"


def test_user_data_as_text_or_file(host: Host, driver: PretendDriver, tmp_path: Path):
    host.run("tiny", user_data="#cloud-config\n{}")
    assert driver.spawned[0].user_data == "#cloud-config\n{}"
    (tmp_path / "cloud.yaml").write_text("#cloud-config\npackages: []\n")
    host.run("tiny", user_data=str(tmp_path / "cloud.yaml"))
    assert driver.spawned[0].user_data == "#cloud-config\npackages: []\n"


def test_binary_user_data_is_refused(host: Host, tmp_path: Path):
    (tmp_path / "data").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidRequest, match="cannot be read as text"):
        host.run("tiny", user_data=tmp_path / "data")


def test_a_path_is_a_file_and_never_the_name_of_an_image(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    raw_image(tmp_path / "tiny", size=2 << 20)
    monkeypatch.chdir(tmp_path)
    host.run(Path("tiny"), name="web")
    used = host.instances.records.find("web").instance.image_ref
    assert host.images.show(used).virtual_size == 2 << 20
    assert host.images.pull(tmp_path / "tiny", name="again").name == "again"
    with pytest.raises(ImageNotFound, match="no-such-image"):
        host.run(Path("no-such-image"))


@pytest.mark.parametrize("option", ["user_data", "vendor_data", "ssh_key"])
def test_what_may_have_no_end_is_refused(host: Host, tmp_path: Path, option: str):
    """All of /dev/zero was read, until there was no memory left."""
    long = tmp_path / "long"
    long.touch()
    os.truncate(long, 16 * MiB + 1)
    with pytest.raises(InvalidRequest, match=r"long, is larger than 16 MiB"):
        host.run("tiny", **{option: long})


def test_disk_smaller_than_the_image(host: Host):
    with pytest.raises(DiskTooSmall) as caught:
        host.run("tiny", name="web", disk="512K")
    assert "1 MiB" in caught.value.hint
    assert host.instances.records.all() == []


@pytest.mark.parametrize(
    "error",
    [
        HypervisorUnavailable(uri="x", reason="no daemon"),
        NoSpace(place="/", needed=5, free=1),
        KeyboardInterrupt(),
        RuntimeError("a bug"),
    ],
)
def test_failed_run_leaves_nothing_behind(host: Host, driver: PretendDriver, error: BaseException):
    driver.fail["spawn"] = error
    with pytest.raises(type(error)):
        host.run("tiny", name="web")
    assert host.instances.records.all() == []
    assert host.events() == []
    del driver.fail["spawn"]
    assert host.run("tiny", name="web").state == "running"


def test_interrupted_run_asks_the_driver_to_look_everywhere(host: Host, driver: PretendDriver):
    """^C may come between a step of spawn and the note how to take it back."""
    driver.fail["spawn"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        host.run("tiny", name="web")
    assert driver.names() == ["spawn", "destroy"]


def test_what_could_not_be_taken_back_stays_recorded_until_it_is(host: Host, driver: PretendDriver):
    error = NoSpace(place="/", needed=1, free=0)

    def fail() -> None:
        raise Busy(what="a disk", holder="somebody")

    with pytest.raises(NoSpace), Undo() as undo:
        undo.push("delete disk", fail)
        raise error
    driver.fail = {"spawn": error, "destroy": Busy(what="a disk", holder="somebody")}
    with pytest.raises(NoSpace):
        host.run("tiny", name="web")
    assert [record.state for record in host.instances.records.all()] == [InstanceState.BUILDING]
    driver.fail.clear()
    host.instances.recover()
    assert driver.calls[-2:] == [("destroy", "web"), ("clear_leftovers",)]
    assert not host.instances.records.all()


def test_interruption_right_after_the_end(host: Host, driver: PretendDriver, monkeypatch: pytest.MonkeyPatch):
    create = host.instances.create

    def late(*args: object, **options: object) -> None:
        create(*args, **options)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(host.instances, "create", late)
    with pytest.raises(KeyboardInterrupt):
        host.run("tiny", name="web")
    assert driver.power == {}
    assert host.instances.records.all() == []


def test_refused_run_does_not_need_libvirt_to_clean_up(host: Host, driver: PretendDriver):
    driver.fail["spawn"] = driver.fail["destroy"] = HypervisorUnavailable(uri="x", reason="no daemon")
    with pytest.raises(HypervisorUnavailable):
        host.run("tiny", name="web")
    assert host.instances.records.all() == []


def test_run_that_cannot_be_recorded_is_taken_back(host: Host, driver: PretendDriver, monkeypatch: pytest.MonkeyPatch):
    def full(*args: object) -> None:
        raise NoSpace(place="/", needed="more", free=0)

    monkeypatch.setattr(host.instances.records, "update", full)
    with pytest.raises(NoSpace):
        host.run("tiny", name="web")
    assert driver.power == {}
    assert host.instances.records.all() == []


def test_interruption_that_cannot_be_cleaned_up_is_finished_later(host: Host, driver: PretendDriver):
    driver.fail.update(spawn=KeyboardInterrupt(), destroy=HypervisorUnavailable(uri="x", reason="gone"))
    with pytest.raises(KeyboardInterrupt):
        host.run("tiny", name="web")
    assert [record.state for record in host.instances.records.all()] == ["deleting"]
    driver.fail.clear()
    assert host.run("tiny", name="web").state == "running"
    assert [record.name for record in host.instances.records.all()] == ["web"]


@pytest.mark.parametrize("state", [InstanceState.BUILDING, InstanceState.DELETING])
def test_what_a_killed_process_left_is_cleared_away(host: Host, driver: PretendDriver, state: InstanceState):
    record = host.run("tiny", name="web").record
    host.instances.records.update(dataclasses.replace(record, state=state))
    other = host.run("tiny", name="other")
    assert driver.names().count("destroy") == 1
    assert driver.names().count("clear_leftovers") == 1  # what it may have left in storage too
    assert [one.name for one in host.machines()] == ["other"]
    assert other.state == "running"


def test_what_cannot_be_cleared_away_is_tried_once(host: Host, driver: PretendDriver):
    """A storage that does not answer takes its time for each try."""
    record = host.run("tiny", name="web").record
    host.instances.records.update(dataclasses.replace(record, state=InstanceState.DELETING))
    driver.fail["destroy"] = HypervisorUnavailable(uri="x", reason="gone")
    host.run("tiny", name="other")
    assert driver.names().count("destroy") == 1
    assert sorted(one.name for one in host.machines()) == ["other", "web"]


def test_half_done_instance_can_be_removed_by_its_name(host: Host):
    record = host.run("tiny", name="web").record
    host.instances.records.update(dataclasses.replace(record, state=InstanceState.DELETING))
    host.machine("web").remove()
    assert host.machines() == []


def test_somebody_else_s_work_is_not_cleared_away(host: Host, driver: PretendDriver):
    driver.gate.clear()
    worker = threading.Thread(target=lambda: host.run("tiny", name="web"))
    worker.start()
    try:
        other = again(host)
        clock.poll(lambda: other.instances.records.exists("web"), clock.Deadline(10, "the record"))
        other.instances.recover()
        assert driver.names() == []
    finally:
        driver.gate.set()
        worker.join(10)
    assert host.machine("web").state == "running"


# --- images by use ------------------------------------------------------------------------------------------------------


def test_run_from_a_file_brings_it_in_once(host: Host, tmp_path: Path):
    path = raw_image(tmp_path / "appliance.raw")
    host.run(str(path))
    host.run(path.as_uri())
    assert sorted(image.name for image in host.images.list()) == ["appliance", "tiny"]


def test_changed_file_is_another_image(host: Host, tmp_path: Path):
    path = raw_image(tmp_path / "appliance.raw")
    host.run(str(path), name="one")
    raw_image(path, size=2 << 20)
    host.run(str(path), name="two")
    assert sorted(image.name for image in host.images.list()) == ["appliance", "appliance-2", "tiny"]


def test_image_of_a_failed_run_goes_again(host: Host, driver: PretendDriver, tmp_path: Path):
    path = raw_image(tmp_path / "appliance.raw")
    driver.fail["spawn"] = HypervisorError(action="start", reason="no")
    with pytest.raises(HypervisorError):
        host.run(str(path))
    assert [image.name for image in host.images.list()] == ["tiny"]


@pytest.mark.parametrize("error", [HypervisorError(action="start", reason="no"), KeyboardInterrupt()])
def test_the_base_of_a_failed_run_goes_with_its_image(
    host: Host, driver: PretendDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
):
    """Nobody could ever use it: the same file is brought in as another image."""
    driver.cache_image(None, host.images.show("tiny").id)

    def spawn(
        self: PretendDriver, context: object, instance: Instance, image: Image, *_: object, **more: object
    ) -> None:
        assert self.cache_image(None, image.id)
        raise error

    monkeypatch.setattr(PretendDriver, "spawn", spawn)
    with pytest.raises(type(error)):
        host.run(str(raw_image(tmp_path / "appliance.raw")))
    assert [base.image for base in host.images.bases()] == ["tiny"]


def test_a_base_that_cannot_be_removed_does_not_hide_why_the_run_failed(
    host: Host, driver: PretendDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def broken(self: PretendDriver, image_id: str) -> None:
        raise DataCorrupt(path="manifest.json", reason="no JSON")

    monkeypatch.setattr(PretendDriver, "forget_bases", broken)
    driver.fail["spawn"] = HypervisorError(action="start", reason="no")
    with pytest.raises(HypervisorError):
        host.run(str(raw_image(tmp_path / "appliance.raw")))
    assert [image.name for image in host.images.list()] == ["tiny"]


def test_image_of_a_failed_run_stays_while_somebody_else_begins_with_it(host: Host, tmp_path: Path):
    """Who has just found it has no record yet that says so; a kernel stands in no record as what it was made from."""
    path, other = str(raw_image(tmp_path / "disk.raw")), again(host)
    with ExitStack() as stack:
        with pytest.raises(NoSpace), host.images.at_hand(path):
            found = stack.enter_context(other.images.at_hand(path))
            raise NoSpace(place="/", needed=1, free=0)
        assert other.images.show(found.id) == found


def test_image_that_was_there_before_a_failed_run_stays(host: Host, driver: PretendDriver, tmp_path: Path):
    path = raw_image(tmp_path / "appliance.raw")
    host.run(str(path), name="one")
    driver.fail["spawn"] = HypervisorError(action="start", reason="no")
    with pytest.raises(HypervisorError):
        host.run(str(path), name="two")
    assert sorted(image.name for image in host.images.list()) == ["appliance", "tiny"]


def test_kernel_and_initrd_of_a_failed_run_go_too(host: Host, driver: PretendDriver, tmp_path: Path):
    kernel, initrd = raw_image(tmp_path / "vmlinuz"), raw_image(tmp_path / "initrd")
    host.run("tiny", name="one", kernel=str(kernel), initrd=str(initrd), cmdline="quiet")
    properties = driver.spawned[1].properties
    assert host.images.show(properties["kernel_id"]).name == "vmlinuz"
    assert properties["os_command_line"] == "quiet"
    raw_image(initrd, size=2 << 20)
    driver.fail["spawn"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        host.run("tiny", name="two", kernel=str(kernel), initrd=str(initrd))
    assert sorted(image.name for image in host.images.list()) == ["initrd", "tiny", "vmlinuz"]


def test_two_callers_bring_a_file_in_once(host: Host, tmp_path: Path):
    path = raw_image(tmp_path / "appliance.raw", size=8 << 20)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            again(host).run(str(path))
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=run) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert failures == []
    assert len(host.machines()) == 4
    assert sorted(image.name for image in host.images.list()) == ["appliance", "tiny"]


def test_a_name_that_two_callers_drew_at_once_is_drawn_again(host: Host, monkeypatch: pytest.MonkeyPatch):
    """Neither sees the other's when it draws: both have yet to bring their image in."""
    drawn = iter(["calm-ox", "calm-yak"])
    monkeypatch.setattr("cowshed.manager.names.invent", lambda taken: next(drawn))
    bring_in = host._at_hand

    def meanwhile(*parts: str | None) -> AbstractContextManager[tuple[Image, dict[str, str]]]:
        again(host).run("tiny", name="calm-ox")
        return bring_in(*parts)

    monkeypatch.setattr(host, "_at_hand", meanwhile)
    assert host.run("tiny").name == "calm-yak"
    instance = host.instances.records.find("calm-yak").instance
    assert (instance.hostname, instance.display_name) == ("calm-yak", "calm-yak")
    assert sorted(machine.name for machine in host.machines()) == ["calm-ox", "calm-yak"]


@pytest.mark.parametrize(
    ("ref", "kind", "words"),
    [
        ("nothing", ImageNotFound, "image nothing does not exist"),
        ("./nothing.raw", ImageNotFound, "no such file"),
        ("file:///nothing.raw", ImageNotFound, "no such file"),
        ("/", InvalidRequest, "is not a file"),
    ],
)
def test_unknown_image(host: Host, driver: PretendDriver, ref: str, kind: type[Exception], words: str):
    with pytest.raises(kind) as caught:
        host.run(ref, name="web")
    assert words in f"{caught.value} {caught.value.hint}"
    assert driver.calls == []
    assert host.instances.records.all() == []


def test_image_in_use_is_not_removed(host: Host):
    host.run("tiny", name="web")
    with pytest.raises(Conflict, match="image tiny is used by web"):
        host.images.remove("tiny")
    host.images.remove("tiny", force=True)
    assert list(host.images.list()) == []


# --- power --------------------------------------------------------------------------------------------------------------


def test_power_walk(host: Host, driver: PretendDriver):
    machine = host.run("tiny", name="web")
    machine.pause()
    assert machine.record.state == "paused"
    machine.resume()
    machine.suspend()
    assert machine.state == "suspended"
    machine.resume()
    machine.stop(timeout=5)
    assert machine.state == "stopped"
    machine.start()
    machine.restart()
    machine.restart(hard=True)
    assert machine.state == "running"
    calls = [call for call in driver.calls if call[0] in ("reboot", "switch_off")]
    assert calls == [("switch_off", "web", "5"), ("reboot", "web", "SOFT"), ("reboot", "web", "HARD")]
    assert [entry.event for entry in host.events()] == [
        "created", "paused", "resumed", "suspended", "resumed", "stopped", "started", "restarted", "restarted",
    ]  # fmt: skip


def test_what_changes_nothing_is_no_event(host: Host, driver: PretendDriver):
    machine = host.run("tiny", name="web")
    machine.start()
    machine.pause()
    machine.pause()
    machine.resume()
    machine.stop(timeout=5)
    machine.stop(timeout=5)
    assert [entry.event for entry in host.events()] == ["created", "paused", "resumed", "stopped"]


def test_stop_gives_the_guest_the_configured_time(host: Host, driver: PretendDriver):
    host.run("tiny", name="web").stop()
    assert driver.calls[-1] == ("switch_off", "web", "60.0")
    host.machine("web").stop(force=True)
    assert driver.calls[-1] == ("switch_off", "web", "0")


@pytest.mark.parametrize(
    ("before", "how", "ended", "detail"),
    [
        (lambda one: None, {}, "shut down", "the guest shut down"),
        (lambda one: None, {"force": True}, "cut off", "cut off"),
        (lambda one: one.pause(), {}, "cut off", "cut off"),
        (lambda one: one._host.driver.deaf.add("web"), {"timeout": 90}, "cut off",
         "cut off: the guest did not shut down within 1 min 30 s"),
        (lambda one: one.suspend(), {"force": True}, None, "its saved memory is dropped"),
    ],
    ids=["hears", "force", "paused", "deaf", "suspended"],
)  # fmt: skip
def test_stop_says_how_the_guest_ended(
    host: Host, before: Callable[[Machine], None], how: dict[str, Any], ended: str | None, detail: str
):
    machine = host.run("tiny", name="web")
    before(machine)
    machine.stop(**how)
    assert machine.record.ended == ended
    assert (host.events()[-1].event, host.events()[-1].detail) == ("stopped", detail)
    machine.stop(**how)
    assert machine.record.ended is None, "it was off"


def test_restart_gives_the_guest_the_time_that_is_said_or_configured(host: Host, driver: PretendDriver):
    machine = host.run("tiny", name="web")
    for given, called in (({}, ("reboot", "web", "SOFT")), ({"timeout": 5}, ("restart", "web", "5"))):
        machine.restart(**given)
        assert driver.calls[-1] == called
    assert machine.state == "running"
    assert [entry.event for entry in host.events()] == ["created", "restarted", "restarted"]


@pytest.mark.parametrize("verb", ["resume", "start"])
def test_memory_that_is_saved_is_seen_whoever_saved_it(host: Host, driver: PretendDriver, verb: str):
    """Somebody by hand, or a suspend that was killed or interrupted before it could be recorded."""
    machine = host.run("tiny", name="web")
    driver.suspend(None, machine.record.instance)
    assert [machine.state, *(one.record.state for one in host.machines())] == ["suspended", "suspended"]
    with pytest.raises(InvalidState, match="is suspended"):
        machine.stop()
    getattr(machine, verb)()
    assert machine.state == "running"


def test_memory_that_is_not_saved_any_more_is_not_resumed(host: Host, driver: PretendDriver):
    """Somebody has dropped it by hand, or started it and shut it down."""
    machine = host.run("tiny", name="web")
    machine.suspend()
    driver.saved.clear()
    assert machine.state == "stopped"
    with pytest.raises(InvalidState, match="is stopped") as caught:
        machine.resume()
    assert caught.value.hint == "use cowshed start"


def test_saved_memory_is_asked_for_once_and_where_something_is_stopped(
    host: Host, driver: PretendDriver, monkeypatch: pytest.MonkeyPatch
):
    asked: list[int] = []
    monkeypatch.setattr(driver, "with_saved_memory", lambda: asked.append(1) or set())
    machines = [host.run("tiny", name=name) for name in ("web", "db")]
    host.machines()
    assert asked == []
    for machine in machines:
        driver.power[machine.uuid] = PowerState.SHUTDOWN
    host.machines()
    assert asked == [1]


@pytest.mark.parametrize("verb", ["stop", "restart"])
def test_saved_memory_is_not_dropped_by_accident(host: Host, driver: PretendDriver, verb: str):
    machine = host.run("tiny", name="web")
    machine.suspend()
    with pytest.raises(InvalidState, match="is suspended") as caught:
        getattr(machine, verb)()
    assert "cowshed resume" in caught.value.hint
    assert driver.names()[-1] == "suspend"
    machine.stop(force=True) if verb == "stop" else machine.restart(hard=True)
    assert machine.state == ("stopped" if verb == "stop" else "running")


def test_start_of_a_paused_one_is_refused(host: Host):
    machine = host.run("tiny", name="web")
    machine.pause()
    with pytest.raises(InvalidState, match="is paused") as caught:
        machine.start()
    assert caught.value.hint == "use cowshed resume"


def test_resume_of_a_stopped_one_is_refused(host: Host):
    machine = host.run("tiny", name="web")
    machine.stop()
    with pytest.raises(InvalidState) as caught:
        machine.resume()
    assert caught.value.hint == "use cowshed start"


def test_failed_verb_changes_no_record(host: Host, driver: PretendDriver):
    machine = host.run("tiny", name="web")
    driver.fail["switch_off"] = HypervisorError(action="stop", reason="no")
    with pytest.raises(HypervisorError):
        machine.stop()
    assert machine.state == "running"
    assert [entry.event for entry in host.events()] == ["created"]


def test_half_built_instance_takes_no_verbs(host: Host):
    record = host.run("tiny", name="web").record
    host.instances.records.update(dataclasses.replace(record, state=InstanceState.BUILDING))
    with pytest.raises(InvalidState, match="is building"):
        host.machine("web").stop()


# --- what libvirt says --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("power", "state"),
    [
        (PowerState.RUNNING, "running"),
        (PowerState.PAUSED, "paused"),
        (PowerState.SHUTDOWN, "stopped"),
        (PowerState.CRASHED, "crashed"),
        (PowerState.NOSTATE, "stopped"),
        (PowerState.SUSPENDED, "suspended"),
    ],
)
def test_state_is_what_libvirt_says(host: Host, driver: PretendDriver, power: PowerState, state: str):
    machine = host.run("tiny", name="web")
    driver.power[machine.uuid] = power
    assert machine.state == state
    assert [one.record.state for one in host.machines()] == [state]


def test_lost_domain_is_an_error_that_start_mends(host: Host, driver: PretendDriver):
    machine = host.run("tiny", name="web")
    driver.power.clear()
    assert machine.state == "error"
    assert "cowshed start" in machine.record.error
    machine.start()
    assert machine.state == "running"
    assert machine.record.error == ""


def test_listing_nothing_asks_nobody(tmp_path: Path):
    driver = PretendDriver(config=settings(tmp_path))
    driver.fail["power_states"] = AssertionError("asked")
    assert Host.connect(config=driver.rooms.config, driver=driver).machines() == []
    assert not (tmp_path / "cowshed.db").exists()


def test_another_libvirt_does_not_touch_it(host: Host, tmp_path: Path):
    """Its guest may be running there: removing its disks here would destroy it."""
    host.run("tiny", name="web")
    config = settings(tmp_path / "state", host={"uri": "fake:///two"})
    elsewhere = PretendDriver(config=config)
    with Host.connect(config=config, driver=elsewhere) as other:
        assert other.machine("web").state == "error"
        assert "fake:///one" in other.machine("web").record.error
        for act in (other.machine("web").remove, other.machine("web").stop, other.machine("web").start):
            with pytest.raises(Conflict, match="belongs to libvirt at fake:///one") as caught:
                act()
            assert caught.value.hint == "use cowshed --connect fake:///one"
    assert elsewhere.calls == []
    assert host.machine("web").state == "running"


def test_the_same_libvirt_under_another_name_is_the_same(host: Host, driver: PretendDriver, tmp_path: Path):
    host.run("tiny", name="web")
    config = settings(tmp_path / "state", host={"uri": "fake+unix:///one"})
    alias = PretendDriver(config=config)
    alias.power = driver.power
    with Host.connect(config=config, driver=alias) as other:
        other.machine("web").remove()
    assert driver.power == {}


# --- locks --------------------------------------------------------------------------------------------------------------


def test_one_verb_at_a_time(host: Host, driver: PretendDriver, monkeypatch: pytest.MonkeyPatch):
    machine = host.run("tiny", name="web")
    monkeypatch.setattr("cowshed.manager.states._LOCK_TIMEOUT", 0.05)
    with host.instances.locked("web"), pytest.raises(Busy, match="instance web is locked"):
        again(host).machine("web").stop()
    assert driver.names() == ["spawn"]
    machine.stop()


@pytest.mark.parametrize("moved", [True, False])
def test_a_remove_that_has_waited_looks_again(
    host: Host, driver: PretendDriver, monkeypatch: pytest.MonkeyPatch, moved: bool
):
    """Moved to another host meanwhile, it may have its disks where both see them; or it has got another interface."""
    record = host.run("tiny", name="web").record
    find, found, vifs = host.instances.records.find, [], []
    monkeypatch.setattr(host.instances.records, "find", lambda ref: found.append(ref) or find(ref))
    monkeypatch.setattr(driver, "destroy", lambda context, instance, network_info: vifs.extend(network_info))
    with ThreadPoolExecutor() as pool:
        with host.instances.locked("web"):
            removal = pool.submit(host.instances.remove, record.uuid)
            clock.poll(lambda: bool(found), clock.Deadline(10, "the first look"))
            if moved:
                host.instances.records.remove(record, "migrated")
            else:
                host.instances.records.update(dataclasses.replace(record, vifs=(Vif("user", "52:54:00:00:00:09"),)))
        if moved:
            with pytest.raises(InstanceNotFound):
                removal.result(20)
        else:
            removal.result(20)
    assert [vif.address for vif in vifs] == ([] if moved else ["52:54:00:00:00:09"])


# --- remove -------------------------------------------------------------------------------------------------------------


def test_remove(host: Host, driver: PretendDriver):
    machine = host.run("tiny", name="web")
    lock = driver.rooms.state / "locks" / "instance-web"
    assert lock.exists()
    machine.remove()
    assert driver.power == {}
    assert not lock.exists()
    with pytest.raises(InstanceNotFound, match="instance web does not exist"):
        host.machine("web")
    assert [entry.event for entry in host.events()] == ["created", "removed"]


def test_many_who_remove_it_at_once(host: Host, driver: PretendDriver):
    """One does, and the event stands there once."""
    host.run("tiny", name="web")

    def remove() -> str:
        try:
            again(host).instances.remove("web")
        except InstanceNotFound:
            return "gone"
        return "removed"

    with ThreadPoolExecutor(6) as pool:
        with host.instances.locked("web"):
            removals = [pool.submit(remove) for _ in range(6)]
        assert sorted(removal.result(20) for removal in removals) == ["gone"] * 5 + ["removed"]
    assert not (driver.rooms.state / "locks" / "instance-web").exists()
    assert driver.names().count("destroy") == 1
    assert [entry.event for entry in host.events()] == ["created", "removed"]


def test_failed_remove_can_be_repeated(host: Host, driver: PretendDriver):
    machine = host.run("tiny", name="web")
    driver.fail["destroy"] = HypervisorError(action="destroy", reason="busy")
    with pytest.raises(HypervisorError):
        machine.remove()
    assert host.machine("web").state == "deleting"
    driver.fail.clear()
    machine.remove()
    assert host.machines() == []


def test_ephemeral_goes_at_the_end_of_the_block(host: Host):
    with host.run("tiny", name="web", ephemeral=True) as machine:
        assert machine.state == "running"
    assert host.machines() == []
    with pytest.raises(RuntimeError), host.run("tiny", name="web", ephemeral=True):
        raise RuntimeError
    assert host.machines() == []
    with host.run("tiny", name="web") as machine:
        pass
    assert machine.state == "running"


def test_ephemeral_may_be_removed_in_the_block(host: Host):
    with host.run("tiny", ephemeral=True) as machine:
        machine.remove()
    assert host.machines() == []


# --- find ---------------------------------------------------------------------------------------------------------------


def test_find_by_name_uuid_and_its_beginning(host: Host):
    machine = host.run("tiny", name="web")
    for ref in ("web", machine.uuid, machine.uuid[:8], machine.uuid[:20]):
        assert host.machine(ref).name == "web"
    for ref in (machine.uuid[:7], "we", "%", "________", "web%"):
        with pytest.raises(InstanceNotFound):
            host.machine(ref)


# --- wait ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("condition", ["nothing", "log:", "log", "", "Running", "state:running"])
def test_unknown_condition(host: Host, condition: str):
    with pytest.raises(InvalidRequest, match="cannot wait for"):
        host.run("tiny").wait(condition)


def test_wait_for_states(host: Host, driver: PretendDriver):
    machine = host.run("tiny", name="web")
    assert machine.wait("running") == "running"
    with clock.using(FakeClock()) as fake, pytest.raises(DeadlineExceeded, match="web: stopped did not happen"):
        machine.wait("stopped", timeout=30)
    assert 30 <= fake.monotonic() < 31
    driver.power[machine.uuid] = PowerState.SHUTDOWN
    assert machine.wait("stopped") == "stopped"


def test_wait_for_the_agent(host: Host, driver: PretendDriver, monkeypatch: pytest.MonkeyPatch):
    """Paused for a moment, silent, then there; and never, once the instance is off."""
    machine = host.run("tiny", name="web")
    paused = InvalidState(name="web", state="paused", action="reached through its agent")
    answers: list[bool | InvalidState] = [paused, False, True]

    def agent_answers(instance: Instance) -> bool:
        answer = answers.pop(0)
        if isinstance(answer, InvalidState):
            raise answer
        return answer

    monkeypatch.setattr(driver, "agent_answers", agent_answers, raising=False)
    assert machine.wait("agent", timeout=5) == "agent"
    assert answers == []
    answers += [False]
    driver.power[machine.uuid] = PowerState.SHUTDOWN
    with pytest.raises(InvalidState, match="waited for"):
        machine.wait("agent", timeout=5)


def test_wait_for_text(host: Host, driver: PretendDriver):
    machine = host.run("tiny", name="web")
    driver.console_log_path(machine.record.instance).write_bytes(b"booting\nlogin: ")
    assert machine.wait("log:login:", timeout=5) == "login:"
    with pytest.raises(DeadlineExceeded):
        machine.wait("log:password", timeout=0.05)


def test_wait_for_text_of_this_boot(host: Host, driver: PretendDriver):
    """What an earlier boot said does not count; what was said before a suspend does."""
    machine = host.run("tiny", name="web")
    log = driver.console_log_path(machine.record.instance)
    log.write_bytes(b"login: ")
    machine.suspend()
    machine.start()
    assert machine.wait("log:login:", timeout=5)
    for boot in (lambda: machine.restart(hard=True), lambda: (machine.stop(), machine.start())):
        boot()
        with pytest.raises(DeadlineExceeded):
            machine.wait("log:login:", timeout=0.05)
        with log.open("ab") as file:
            file.write(b"again login: ")
        assert machine.wait("log:login:", timeout=5)
    assert b"".join(machine.follow(until="login:", timeout=5)) == b"again login: "


def test_wait_for_an_address(host: Host, driver: PretendDriver):
    machine = host.run("tiny", name="web")
    driver.addresses = ["192.168.122.7", "fd00::7"]
    assert machine.wait("address", timeout=5) == "192.168.122.7 fd00::7"


def test_no_address_comes_without_a_network(host: Host):
    """Nor ever will: it is said at once, and not when the time is up."""
    machine = host.run("tiny", name="web", networks=["none"])
    with pytest.raises(InvalidState, match="on no network") as caught:
        machine.wait("address", timeout=5)
    assert "cowshed nic attach web" in caught.value.hint


def test_wait_ends_when_the_guest_does(host: Host, driver: PretendDriver):
    machine = host.run("tiny", name="web", publish=["0:22"])
    driver.power[machine.uuid] = PowerState.SHUTDOWN
    with pytest.raises(InvalidState, match="is stopped"):
        machine.wait("ssh", timeout=5)


def test_the_ssh_server_s_greeting_is_one_line(host: Host):
    """Key exchange comes right behind it, in bytes that nobody wants on a terminal."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def greet() -> None:
            with server.accept()[0] as connection:
                connection.sendall(b"SSH-2.0-dropbear_2022.83\r\n\x00\x00\x01\xa4\x1b[6n\xff")

        machine = host.run("tiny", name="web")
        vif = dataclasses.replace(machine.record.vifs[0], forwards=(PortForward(port, 22),))
        host.instances.records.update(dataclasses.replace(machine.record, vifs=(vif,)))
        greeter = threading.Thread(target=greet)
        greeter.start()
        assert host.machine("web").wait("ssh", timeout=5) == "SSH-2.0-dropbear_2022.83"
        greeter.join()


def test_ssh_goes_through_the_forward(host: Host):
    machine = host.run("tiny", name="web", publish=["127.0.0.2:2222:22", "8080:80"])
    assert machine.ssh_endpoint() == ("127.0.0.2", 2222)
    words = machine.ssh_command("ls", "-la", user="root")
    assert words[:3] == ["ssh", "-p", "2222"]
    assert words[-6:] == ["-l", "root", "--", "127.0.0.2", "ls", "-la"]


def test_ssh_where_nothing_leads(host: Host, driver: PretendDriver):
    driver.addresses = ["10.0.2.15", "fec0::15"]
    machine = host.run("tiny", name="web", publish=["5353:53/udp"])
    for act in (machine.ssh_endpoint, lambda: machine.wait("ssh", timeout=5)):
        with pytest.raises(InvalidState, match="no network that the host reaches") as caught:
            act()
        assert "-p 2222:22" in caught.value.hint


def test_ssh_at_the_guest_s_address(host: Host, driver: PretendDriver):
    machine = host.run("tiny", name="web", networks=["user", "network:default"])
    with pytest.raises(InvalidState, match="without a known address"):
        machine.ssh_endpoint()
    driver.addresses = ["10.0.2.15", "192.168.122.9"]
    assert machine.ssh_endpoint() == ("192.168.122.9", 22)


# --- records ------------------------------------------------------------------------------------------------------------


def test_records_are_private(host: Host):
    host.run("tiny", user_data="#cloud-config\npassword: secret")
    path = host.config.state / "cowshed.db"
    for file in path.parent.glob("cowshed.db*"):
        assert file.stat().st_mode & 0o077 == 0, file


def test_unreadable_key_file(host: Host, monkeypatch: pytest.MonkeyPatch):
    def denied(self: Path, *args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(PermissionDenied, match=r"read /some/key\.pub"):
        host.run("tiny", ssh_key="/some/key.pub")
