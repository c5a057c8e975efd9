"""The fake driver as a test's tool: what it records, how it fails, and a Host on it."""

from __future__ import annotations

import inspect
import io
from pathlib import Path

import pytest

from cowshed import clock
from cowshed.contract.compute import ComputeDriver
from cowshed.contract.loading import load_compute_driver
from cowshed.driver import LibvirtDriver
from cowshed.errors import (
    DigestMismatch,
    HostUnsuitable,
    InvalidState,
    NameTaken,
    NoSpace,
    PortInUse,
    UnsupportedOperation,
)
from cowshed.model.disk import DiskFormat
from cowshed.model.flavor import Flavor
from cowshed.model.image import Image
from cowshed.model.instance import Instance, InstanceState, PowerState
from cowshed.model.vif import PortForward, Vif
from cowshed.testing import FakeClock, FakeDriver, MemoryBackend, MemoryImages, fake_host
from cowshed.units import MiB

DATA = b"boot" * 256


@pytest.fixture
def driver() -> FakeDriver:
    return FakeDriver()


@pytest.fixture
def image(driver: FakeDriver) -> Image:
    return driver.images.add("debian", DATA)


def instance(name: str = "web", **fields: object) -> Instance:
    return Instance(uuid=f"uuid-of-{name}", name=name, flavor=Flavor(root=MiB), **fields)  # type: ignore[arg-type]


def test_it_is_loaded_by_its_name() -> None:
    driver = load_compute_driver(None, "cowshed.testing.FakeDriver")
    assert isinstance(driver, FakeDriver)
    assert isinstance(driver, ComputeDriver)


def test_calls_are_recorded(driver: FakeDriver, image: Image) -> None:
    web = instance()
    driver.spawn(None, web, image, [], None, network_info=[])
    driver.pause(web)
    assert [call.name for call in driver.calls] == ["spawn", "pause"]
    assert driver.called("spawn")[0].kwargs == {"network_info": []}
    assert driver.called("pause")[0].args == (web,)


def test_a_planned_failure_comes_once_and_changes_nothing(driver: FakeDriver, image: Image) -> None:
    driver.fail("spawn", NoSpace(place="/", needed=1, free=0))
    with pytest.raises(NoSpace):
        driver.spawn(None, instance(), image, [], None)
    assert not driver.guests
    driver.spawn(None, instance(), image, [], None)
    assert driver.guest("web").boots == 1


def test_a_failure_of_no_call_is_refused(driver: FakeDriver) -> None:
    with pytest.raises(ValueError, match="no call"):
        driver.fail("spwan", RuntimeError())


def test_the_root_disk_has_the_image(driver: FakeDriver, image: Image) -> None:
    driver.spawn(None, instance(backend="raw"), image, [], None)
    disk = driver.backends["raw"].disk("uuid-of-web", "disk")
    assert disk.read() == DATA + bytes(MiB - len(DATA))


def test_a_guest_writes_where_it_says_and_the_disk_keeps_its_size() -> None:
    disk = MemoryBackend().disk("web", "disk")
    disk.fill(b"abc", size=1536)
    disk.write(1000, b"here")
    assert disk.read() == b"abc".ljust(1000, b"\0") + b"here".ljust(536, b"\0")


def test_a_qcow2_image_is_unpacked(driver: FakeDriver, tmp_path: Path) -> None:
    from cowshed.tools import qcow2

    path = tmp_path / "blank.qcow2"
    with path.open("w+b") as file:
        qcow2.create_blank(file.fileno(), size=MiB)
    image = driver.pull_image(str(path), name="blank")
    assert (image.disk_format, image.virtual_size) == (DiskFormat.QCOW2, MiB)
    driver.spawn(None, instance(backend="raw"), image, [], None)
    assert driver.backends["raw"].disk("uuid-of-web", "disk").read() == bytes(MiB)


def test_a_corrupt_image_leaves_no_guest(driver: FakeDriver, image: Image) -> None:
    driver.images.corrupt(image)
    with pytest.raises(DigestMismatch):
        driver.spawn(None, instance(), image, [], None)
    assert not driver.guests
    assert not driver.backends["qcow2"].table


def test_two_guests_do_not_share_a_port(driver: FakeDriver, image: Image) -> None:
    vif = Vif("v", "52:54:00:00:00:01", forwards=(PortForward(2222, 22),))
    driver.spawn(None, instance("one"), image, [], None, network_info=[vif])
    with pytest.raises(PortInUse):
        driver.spawn(None, instance("two"), image, [], None, network_info=[vif])
    assert list(driver.list_instances()) == ["one"]


def test_a_disabled_host_takes_no_instance(driver: FakeDriver, image: Image) -> None:
    assert driver.set_host_enabled(enabled=False) == "disabled"
    with pytest.raises(HostUnsuitable):
        driver.spawn(None, instance(), image, [], None)


def test_a_deaf_guest_takes_all_the_time_it_is_given(driver: FakeDriver, image: Image) -> None:
    driver.spawn(None, instance(), image, [], None)
    driver.guest("web").deaf = True
    with clock.using(FakeClock()) as now:
        driver.power_off(instance(), timeout=60)
        assert now.monotonic() == 60
    assert driver.guest("web").state == PowerState.SHUTDOWN


def test_soft_delete_keeps_the_data_and_forbids_the_start(driver: FakeDriver, image: Image) -> None:
    driver.spawn(None, instance(), image, [], None)
    driver.soft_delete(instance())
    with pytest.raises(InvalidState):
        driver.power_on(None, instance(), [])
    assert driver.instance_on_disk(instance())
    driver.restore(instance())
    assert driver.guest("web").running


def test_a_snapshot_is_an_image(driver: FakeDriver, image: Image) -> None:
    states: list[dict[str, str]] = []
    driver.spawn(None, instance(), image, [], None)
    driver.snapshot(None, instance(), "snap", lambda **state: states.append(state))
    assert driver.images.content(driver.images.show("snap"))[: len(DATA)] == DATA
    assert [state["task_state"] for state in states] == ["image_pending_upload", "image_uploading"]


def test_images_are_made_of_all_disks_wherever_they_are(driver: FakeDriver, image: Image) -> None:
    flavor, backends = Flavor(root=MiB, ephemeral=MiB), {"root": "memory", "ephemeral": "raw"}
    made = Instance(uuid="u", name="web", flavor=flavor, disk_backends=backends)
    driver.spawn(None, made, image, [], None)
    assert driver.images.content(driver.create_image(made, "alone"))[: len(DATA)] == DATA
    assert [one.name for one in driver.create_images(made, "all")] == ["all", "all-local"]


def test_volumes_and_interfaces_come_and_go(driver: FakeDriver, image: Image) -> None:
    driver.spawn(None, instance(), image, [], None)
    driver.attach_volume(None, {"serial": "v"}, instance(), "/dev/vdb")
    with pytest.raises(NameTaken):
        driver.attach_volume(None, {"serial": "w"}, instance(), "/dev/vdb")
    vif = Vif("v", "52:54:00:00:00:01")
    driver.attach_interface(instance(), image, vif)
    assert (list(driver.guest("web").volumes), driver.guest("web").vifs) == (["/dev/vdb"], [vif])
    for _ in range(2):
        driver.detach_volume({"serial": "v"}, instance(), "/dev/vdb")
        driver.detach_interface(instance(), vif)
    assert not driver.guest("web").volumes
    assert not driver.guest("web").vifs


def test_the_web_is_not_faked(driver: FakeDriver) -> None:
    with pytest.raises(UnsupportedOperation):
        driver.pull_image("https://example.org/debian.qcow2")


def test_it_has_what_the_manager_asks_of_the_real_one() -> None:
    """Beside the contract: the same names, the same parameters."""
    extras = {name for name in set(dir(LibvirtDriver)) - set(dir(ComputeDriver)) if not name.startswith("_")}
    assert extras
    fake = FakeDriver()
    for name in extras:
        real = inspect.getattr_static(LibvirtDriver, name)
        if isinstance(real, property):
            assert hasattr(fake, name), name
        else:
            wanted = inspect.signature(getattr(LibvirtDriver, name)).parameters.values()
            found = inspect.signature(getattr(FakeDriver, name)).parameters.values()
            assert [(one.name, one.kind, one.default) for one in found] == [
                (one.name, one.kind, one.default) for one in wanted
            ], name


# --- a Host on it ---------------------------------------------------------------------------------


def test_a_host_runs_stops_and_removes(tmp_path: Path) -> None:
    driver = FakeDriver()
    driver.images.add("debian", DATA)
    with fake_host(tmp_path, driver) as host:
        vm = host.run("debian", name="web", disk="1M", memory="64M", publish=["2222:22"])
        assert vm.state == InstanceState.RUNNING
        assert b"web login:" in vm.log()
        assert vm.wait("log:login", timeout=5) == "login"
        vm.stop(timeout=0)
        assert vm.state == InstanceState.STOPPED
        driver.crash("web")
        assert vm.state == InstanceState.CRASHED
        vm.remove()
        assert host.machines() == []
    assert not driver.guests


def test_all_who_watch_hear_of_what_happens_from_then_on(tmp_path: Path) -> None:
    with fake_host(tmp_path) as host:
        host.driver.images.add("debian", DATA)  # type: ignore[attr-defined]
        vm = host.run("debian", name="web", disk="1M", memory="64M")
        first, second = host.watch(), host.watch()
        vm.stop(timeout=0)  # before anybody asks what came
        assert (next(first).event, next(second).event) == ("stopped", "stopped")


def test_a_failed_run_leaves_no_record(tmp_path: Path) -> None:
    driver = FakeDriver()
    driver.images.add("debian", DATA)
    driver.fail("spawn", NoSpace(place="/", needed=1, free=0))
    with fake_host(tmp_path, driver) as host:
        with pytest.raises(NoSpace):
            host.run("debian", name="web")
        assert host.machines() == []


def test_records_outlive_a_host(tmp_path: Path) -> None:
    driver = FakeDriver()
    driver.images.add("debian", DATA)
    with fake_host(tmp_path, driver) as host:
        host.run("debian", name="web")
    with fake_host(tmp_path, driver) as host:
        assert [vm.name for vm in host.machines()] == ["web"]


# --- the other fakes ------------------------------------------------------------------------------


def test_the_clock_is_turned_by_hand() -> None:
    with clock.using(FakeClock(now=100)) as now:
        deadline = clock.Deadline(60, "it")
        now.turn(59)
        assert not deadline.passed
        clock.current().sleep(1)
        assert deadline.passed
        assert clock.current().time() == 160
        assert now.slept == [1]
        with pytest.raises(ValueError, match="backwards"):
            now.turn(-1)


def test_waiting_for_nothing_passes_the_time() -> None:
    import threading

    condition = threading.Condition()
    with clock.using(FakeClock()) as now, condition:
        now.wait(condition, 30)
        assert now.monotonic() == 30


def test_ambiguous_names_are_said_to_be() -> None:
    images = MemoryImages()
    images.add("debian")
    with pytest.raises(NameTaken):
        images.upload(Image(id="", name="debian"), io.BytesIO(bytes(512)))
