"""Images of disks: streamed from files, made inside a real Ceph, registered in a real Glance. The guest is pretended."""

from __future__ import annotations

import io
import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cowshed.config import Config, HostSection, ImagesSection, RbdSection
from cowshed.driver import LibvirtDriver
from cowshed.driver.steps import bases, capture, capture_note, layout, locate
from cowshed.errors import (
    CowshedError,
    DeadlineExceeded,
    ImageNotFound,
    ImageServiceFailed,
    InstanceNotFound,
    InvalidRequest,
    InvalidState,
    NameTaken,
    ToolFailed,
    UnsupportedOperation,
)
from cowshed.images.glance import GlanceService
from cowshed.model.disk import DiskFormat
from cowshed.model.flavor import Flavor
from cowshed.model.image import Image, ImageStatus
from cowshed.model.instance import Instance, PowerState
from cowshed.tools.rbd import Pool
from cowshed.units import MiB
from tests.ceph_node import Ceph
from tests.glance_proxy import Fault, Proxy, proxy
from tests.glance_server import POOL, Glance

SIZE = 16 * MiB
CONTENT = bytes(4096) + os.urandom(5 * MiB) + bytes(SIZE - 5 * MiB - 4096)
STATES = [
    {"task_state": "image_pending_upload"},
    {"task_state": "image_uploading", "expected_state": "image_pending_upload"},
]


CHANNEL = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0' state='connected'/></channel>"


class PretendAgent:
    """Remembers what it was asked for."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def frozen(self) -> bool:
        return False

    def freeze(self) -> None:
        self.calls.append("freeze")

    def thaw(self) -> None:
        self.calls.append("thaw")


class Host:
    """A driver on a Glance behind a proxy; ``make`` gives it an instance whose disk stands on an image."""

    def __init__(self, state: Path, glance: Glance, between: Proxy, **sections: Any) -> None:
        config = Config(
            host=HostSection(state=str(state)),
            images=ImagesSection(service="glance"),
            glance=glance.section(
                sections.pop("user", "cowshed"), endpoints=(between.url,), store=sections.pop("store", "")
            ),
            **sections,
        )
        self.between = between
        self.driver = LibvirtDriver(config=config)
        self.rooms = self.driver.rooms
        self.power, self.saved = PowerState.SHUTDOWN, False
        self.guests: set[str] = set()
        self.channel, self.agent = "", PretendAgent()
        self.rooms.__dict__["hypervisor"] = SimpleNamespace(find=self._find, guest=self._guest, close=lambda: None)
        self.states: list[dict[str, str]] = []
        self.images: list[str] = []

    def _find(self, uuid: str) -> Any:
        if uuid not in self.guests:
            return None
        return SimpleNamespace(
            name="web",
            state=lambda: self.power,
            has_saved=lambda: self.saved,
            xml=lambda: f"<domain type='qemu'><name>web</name><devices>{self.channel}</devices></domain>",
            agent=self.agent,
        )

    def _guest(self, uuid: str) -> Any:
        if uuid not in self.guests:
            raise InstanceNotFound(name=uuid)
        return self._find(uuid)

    @property
    def service(self) -> GlanceService:
        assert isinstance(self.rooms.images, GlanceService)
        return self.rooms.images

    def upload(self, content: bytes = CONTENT, **fields: Any) -> Image:
        image = self.service.upload(Image(id="", name=f"made-{uuid.uuid4().hex[:8]}", **fields), io.BytesIO(content))
        self.images.append(image.id)
        return image

    def record(self) -> Image:
        image = self.service.create(Image(id="", name=f"snapshot-{uuid.uuid4().hex[:8]}"))
        self.images.append(image.id)
        return image

    def make(self, image: Image, backend: str) -> Instance:
        who = Instance(
            uuid=str(uuid.uuid4()), name="web", flavor=Flavor(root=SIZE), backend=backend, image_ref=image.id
        )
        self.rooms.directory(who.uuid).create()
        locate.remember_image(self.rooms, who, image)
        layout.remember(self.rooms, who, layout.plan(self.rooms, who, image, None))
        place = self.rooms.backend(backend)
        bases.make(self.rooms, place, place.disk(who.uuid, "disk"), image, SIZE)
        self.guests.add(who.uuid)
        return who

    def tell(self, **words: str) -> None:
        self.states.append(words)

    def snapshot(self, who: Instance, image_id: str) -> Image:
        self.driver.snapshot(None, who, image_id, self.tell)
        return self.service.show(image_id)

    def content(self, image: Image, tmp_path: Path) -> bytes:
        self.service.download(image, tmp_path / image.id)
        if image.disk_format == DiskFormat.QCOW2:
            raw = tmp_path / f"{image.id}.raw"
            command = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", tmp_path / image.id, raw]
            subprocess.run(command, check=True, timeout=60)
            return raw.read_bytes()
        return (tmp_path / image.id).read_bytes()

    def files(self, who: Instance) -> set[str]:
        return {path.name for path in self.rooms.directory(who.uuid).path.iterdir()}

    def close(self) -> None:
        for image_id in reversed(self.images):
            try:
                self.service.delete(image_id)
            except ImageNotFound:
                continue
        self.rooms.close()


@pytest.fixture
def host(glance: Glance, tmp_path: Path) -> Iterator[Host]:
    with proxy(glance.url) as between:
        found = Host(tmp_path / "state", glance, between)
        yield found
        found.close()


@pytest.fixture(params=["qcow2", "raw"])
def web(host: Host, request: pytest.FixtureRequest) -> Instance:
    return host.make(host.upload(properties={"hw_disk_bus": "scsi"}), request.param)


# --- copied from files --------------------------------------------------------------------------


def test_a_stopped_instance_becomes_an_image(host: Host, web: Instance, tmp_path: Path) -> None:
    before = host.files(web)
    image = host.snapshot(web, host.record().id)
    assert image.status == ImageStatus.ACTIVE
    assert (image.disk_format, image.virtual_size) == (DiskFormat.QCOW2, SIZE)
    assert image.size < 7 * MiB
    assert host.content(image, tmp_path) == CONTENT
    assert host.states == STATES
    assert host.files(web) == before


def test_a_suspended_one_is_refused(host: Host, web: Instance) -> None:
    host.saved = True
    with pytest.raises(InvalidState):
        host.snapshot(web, host.record().id)
    assert host.states == []


def test_who_is_not_there_has_no_image(host: Host, web: Instance) -> None:
    with pytest.raises(InstanceNotFound):
        host.snapshot(replace(web, uuid=str(uuid.uuid4())), host.record().id)
    with pytest.raises(ImageNotFound):
        host.snapshot(web, str(uuid.uuid4()))
    with pytest.raises(NameTaken):
        host.snapshot(web, web.image_ref)
    assert host.states == []


def test_an_upload_that_breaks_is_sent_again(host: Host, web: Instance, tmp_path: Path) -> None:
    host.between.faults.append(Fault("/file", "PUT", lose=True))
    assert host.content(host.snapshot(web, host.record().id), tmp_path) == CONTENT


def test_an_upload_that_fails_keeps_the_first_error_and_leaves_nothing(host: Host, web: Instance) -> None:
    record, before = host.record(), host.files(web)
    host.between.faults.append(Fault("/file", "PUT", status=413, body=b"quota"))
    with pytest.raises(ImageServiceFailed, match="quota"):
        host.snapshot(web, record.id)
    assert host.files(web) == before
    assert host.service.show(record.id).status == ImageStatus.QUEUED


def test_a_record_deleted_meanwhile_is_not_found(host: Host, web: Instance) -> None:
    record = host.record()
    host.between.faults.append(Fault("/file", "PUT", then=lambda: host.service.delete(record.id)))
    with pytest.raises(ImageNotFound):
        host.snapshot(web, record.id)


def test_an_image_of_our_own_is_there_whole_or_not_at_all(host: Host, web: Instance, tmp_path: Path) -> None:
    name = f"golden-{uuid.uuid4().hex[:8]}"
    host.between.faults.append(Fault("/file", "PUT", status=413))
    with pytest.raises(CowshedError):
        host.driver.create_image(web, name)
    assert name not in {one["name"] for one in host.service._pages({})}
    image = host.driver.create_image(web, name, properties={"os_type": "linux"})
    host.images.append(image.id)
    assert host.service.show(name) == image
    wanted = {"hw_disk_bus": "scsi", "os_type": "linux", "image_type": "snapshot", "base_image_ref": web.image_ref}
    assert dict(image.properties) == {**wanted, "instance_uuid": web.uuid}
    assert image.min_disk == SIZE
    assert host.content(image, tmp_path) == CONTENT
    with pytest.raises(InvalidRequest):
        host.driver.create_image(web, "no/name")


def test_what_a_killed_process_left_goes_at_the_next_start(host: Host, web: Instance) -> None:
    record = host.record()
    place = host.rooms.directory(web.uuid).path
    (place / capture_note.NOTE).write_text(f'{{"version": 1, "image": "{record.id}"}}')
    (place / capture.COPY).write_bytes(b"half")
    host.driver.post_interrupted_snapshot_cleanup(None, web)
    assert not {capture_note.NOTE, capture.COPY} & host.files(web)
    with pytest.raises(ImageNotFound):
        host.service.show(record.id)
    host.driver.post_interrupted_snapshot_cleanup(None, web)


def test_a_glance_that_is_away_does_not_disturb_a_start(host: Host, web: Instance) -> None:
    record = host.record()
    (host.rooms.directory(web.uuid).path / capture_note.NOTE).write_text(f'{{"version": 1, "image": "{record.id}"}}')
    host.between.faults.append(Fault("", times=2, status=503))
    host.driver.post_interrupted_snapshot_cleanup(None, web)
    assert capture_note.NOTE in host.files(web)


# --- inside Ceph --------------------------------------------------------------------------------


@pytest.fixture
def ceph_host(
    glance_ceph: Glance, ceph: Ceph, rbd_pool: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Host]:
    """As a service, which may use Glance's new call for locations; or as the user that a test names."""
    user = getattr(request, "param", "service")
    with proxy(glance_ceph.url) as between:
        rbd = RbdSection(pool=rbd_pool, ceph_conf=str(ceph.conf), keyring=str(ceph.keyring), user=ceph.user)
        found = Host(tmp_path / "state", glance_ceph, between, rbd=rbd, store="ceph", user=user)
        yield found
        for uuid in found.guests:
            found.rooms.backend("rbd").disk(uuid, "disk").delete()
        found.close()


@pytest.fixture
def on_ceph(ceph_host: Host) -> Instance:
    ceph_host.power = PowerState.RUNNING
    return ceph_host.make(ceph_host.upload(), "rbd")


def downloads(host: Host) -> int:
    return host.between.asked("GET", "/file")


def snapshots_of(ceph: Ceph, pool: str, who: Instance) -> list[Any]:
    found: list[Any] = ceph.rbd("snap", "ls", "--format", "json", f"{pool}/{who.uuid}_disk")
    return found


def test_the_round_trip_on_the_ceph_store(ceph_host: Host, ceph: Ceph, tmp_path: Path) -> None:
    image = ceph_host.upload()
    assert image.id in ceph.images(POOL)
    assert ceph_host.service.locations(image)[0].url == f"rbd://{ceph.fsid}/{POOL}/{image.id}/snap"
    assert ceph_host.content(image, tmp_path) == CONTENT
    with ceph_host.service.open(image, offset=4000) as stream:
        assert stream.read() == CONTENT[4000:]


def test_a_disk_is_a_clone_of_the_image_without_a_download(ceph_host: Host, on_ceph: Instance, ceph: Ceph) -> None:
    facts = ceph.rbd("info", "--format", "json", f"{ceph_host.rooms.config.rbd.pool}/{on_ceph.uuid}_disk")
    assert (facts["parent"]["pool"], facts["parent"]["image"]) == (POOL, on_ceph.image_ref)
    assert downloads(ceph_host) == 0


@pytest.mark.parametrize("ceph_host", ["service", "cowshed"], indirect=True)
def test_a_running_disk_becomes_an_image_inside_the_cluster(
    ceph_host: Host, on_ceph: Instance, ceph: Ceph, rbd_pool: str, tmp_path: Path
) -> None:
    before = ceph_host.files(on_ceph)
    image = ceph_host.snapshot(on_ceph, ceph_host.record().id)
    assert (image.status, image.disk_format, image.size) == (ImageStatus.ACTIVE, DiskFormat.RAW, SIZE)
    assert ceph_host.service.locations(image)[0].url == f"rbd://{ceph.fsid}/{POOL}/{image.id}/snap"
    assert ceph_host.states == STATES
    assert (downloads(ceph_host), ceph_host.between.asked("PUT", "/file")) == (0, 1)  # the upload of the first image
    assert snapshots_of(ceph, rbd_pool, on_ceph) == []
    assert ceph_host.files(on_ceph) == before
    again = ceph_host.make(image, "rbd")
    facts = ceph.rbd("info", "--format", "json", f"{rbd_pool}/{again.uuid}_disk")
    assert facts["parent"]["image"] == image.id
    assert downloads(ceph_host) == 0
    assert ceph_host.content(image, tmp_path) == CONTENT


def no_leftovers(host: Host, ceph: Ceph, who: Instance, image_id: str, before: set[str]) -> None:
    assert image_id not in ceph.images(POOL)
    assert snapshots_of(ceph, host.rooms.config.rbd.pool, who) == []
    assert host.files(who) == before


def lost_record(host: Host, image_id: str) -> Fault:
    return Fault("/locations", "POST", then=lambda: host.service.delete(image_id))


def refused(host: Host, image_id: str) -> Fault:
    return Fault("/locations", "POST", status=409, body=b"not now")


def away(host: Host, image_id: str) -> Fault:
    return Fault("/locations", "POST", times=2, status=503)


@pytest.mark.parametrize(
    ("fault", "error"), [(lost_record, ImageNotFound), (refused, CowshedError), (away, ImageServiceFailed)]
)
def test_a_location_that_is_not_registered_leaves_nothing(
    ceph_host: Host, on_ceph: Instance, ceph: Ceph, fault: Callable[..., Fault], error: type[CowshedError]
) -> None:
    record, before = ceph_host.record(), ceph_host.files(on_ceph)
    ceph_host.between.faults.append(fault(ceph_host, record.id))
    with pytest.raises(error):
        ceph_host.snapshot(on_ceph, record.id)
    no_leftovers(ceph_host, ceph, on_ceph, record.id, before)


def test_a_task_state_that_is_not_expected_stops_it(ceph_host: Host, on_ceph: Instance, ceph: Ceph) -> None:
    """As Nova does when the instance is deleted in the middle."""
    record, before = ceph_host.record(), ceph_host.files(on_ceph)

    def tell(**words: str) -> None:
        if "expected_state" in words:
            raise RuntimeError("deleting")

    with pytest.raises(RuntimeError, match="deleting"):
        ceph_host.driver.snapshot(None, on_ceph, record.id, tell)
    no_leftovers(ceph_host, ceph, on_ceph, record.id, before)


def forbidden() -> list[Fault]:
    """Neither by the new call nor by the old one."""
    return [Fault("/locations", "POST", status=403), Fault("", "PATCH", status=403)]


def test_where_locations_are_forbidden_a_stopped_disk_is_copied(
    ceph_host: Host, on_ceph: Instance, ceph: Ceph, tmp_path: Path
) -> None:
    ceph_host.power = PowerState.SHUTDOWN
    record = ceph_host.record()
    ceph_host.between.faults += forbidden()
    image = ceph_host.snapshot(on_ceph, record.id)
    assert ceph_host.content(image, tmp_path) == CONTENT
    back = {"task_state": "image_pending_upload", "expected_state": "image_uploading"}
    assert ceph_host.states == [*STATES, back, STATES[1]]


def test_a_running_guest_is_quiet_while_the_storage_takes_its_snapshot(
    ceph_host: Host, on_ceph: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And only then; thawed also when the snapshot fails."""
    calls, take, clone = ceph_host.agent.calls, Pool.take, Pool.clone

    def taken(self: Pool, image: str, name: str) -> None:
        calls.append("take")
        take(self, image, name)

    def cloned(self: Pool, *words: Any) -> None:
        calls.append("clone")
        clone(self, *words)

    monkeypatch.setattr(Pool, "take", taken)
    monkeypatch.setattr(Pool, "clone", cloned)
    ceph_host.channel = CHANNEL
    ceph_host.snapshot(on_ceph, ceph_host.record().id)
    assert calls == ["freeze", "take", "thaw", "clone", "take"]
    calls.clear()

    def broken(self: Pool, image: str, name: str) -> None:
        raise ToolFailed(command="rbd", status=1, output="broken for the test")

    monkeypatch.setattr(Pool, "take", broken)
    with pytest.raises(ToolFailed):
        ceph_host.snapshot(on_ceph, ceph_host.record().id)
    assert calls == ["freeze", "thaw"]


def test_what_must_be_quiesced_and_cannot_is_refused(ceph_host: Host, on_ceph: Instance) -> None:
    image = locate.remembered_image(ceph_host.rooms, on_ceph)
    demanding = replace(image, properties={**image.properties, "os_require_quiesce": "yes"})
    locate.remember_image(ceph_host.rooms, on_ceph, demanding)
    record = ceph_host.record()
    with pytest.raises(UnsupportedOperation, match="agent"):
        ceph_host.snapshot(on_ceph, record.id)
    assert ceph_host.states == []
    assert ceph_host.service.show(record.id).status == ImageStatus.QUEUED


def test_a_location_that_was_registered_although_the_answer_was_lost_stays(
    ceph_host: Host, on_ceph: Instance, ceph: Ceph
) -> None:
    record = ceph_host.record()
    ceph_host.between.faults += [Fault("/locations", "POST", times=1, lose=True)]
    try:
        image = ceph_host.snapshot(on_ceph, record.id)
    except CowshedError:
        image = ceph_host.service.show(record.id)
    assert image.id in ceph.images(POOL)
    assert len(ceph_host.service.locations(image)) == 1


def test_a_service_that_never_finishes_has_a_deadline(
    ceph_host: Host, on_ceph: Instance, ceph: Ceph, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = ceph_host.record()
    ceph_host.service.client.section = replace(ceph_host.service.client.section, task_timeout=0.5)
    stuck = Fault(f"/images/{record.id}", times=99, alter=lambda found: found.update(status="importing"))
    ceph_host.between.faults += [
        Fault(f"/images/{record.id}", times=2),
        Fault("/tasks", times=99),
        stuck,
        Fault("/locations", "POST", status=202),
    ]
    before = ceph_host.files(on_ceph)
    with pytest.raises(DeadlineExceeded):
        ceph_host.snapshot(on_ceph, record.id)
    ceph_host.between.faults.clear()
    no_leftovers(ceph_host, ceph, on_ceph, record.id, before)


def test_a_killed_snapshot_is_cleaned_at_the_next_start(ceph_host: Host, on_ceph: Instance, ceph: Ceph) -> None:
    record, before = ceph_host.record(), ceph_host.files(on_ceph)
    disk = ceph_host.rooms.backend("rbd").disk(on_ceph.uuid, "disk")
    near = ceph_host.service.locations(ceph_host.service.show(on_ceph.image_ref))
    disk.upload(record.id, near=near)  # type: ignore[attr-defined]
    pool = ceph_host.rooms.config.rbd.pool
    ceph.rbd("snap", "create", "--no-progress", f"{pool}/{on_ceph.uuid}_disk@cowshed-upload-{uuid.uuid4()}")
    note = ceph_host.rooms.directory(on_ceph.uuid).path / capture_note.NOTE
    note.write_text(f'{{"version": 1, "image": "{record.id}"}}')
    ceph_host.driver.post_interrupted_snapshot_cleanup(None, on_ceph)
    no_leftovers(ceph_host, ceph, on_ceph, record.id, before)


def test_a_snapshot_killed_after_it_was_registered_is_kept(ceph_host: Host, on_ceph: Instance, ceph: Ceph) -> None:
    image = ceph_host.snapshot(on_ceph, ceph_host.record().id)
    note = ceph_host.rooms.directory(on_ceph.uuid).path / capture_note.NOTE
    note.write_text(f'{{"version": 1, "image": "{image.id}"}}')
    ceph_host.driver.post_interrupted_snapshot_cleanup(None, on_ceph)
    assert image.id in ceph.images(POOL)
    assert ceph_host.service.show(image.id).status == ImageStatus.ACTIVE
    assert not note.exists()
