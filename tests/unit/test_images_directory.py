"""The directory image service: names, records, and that an image is there whole or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import threading
import uuid
from pathlib import Path

import pytest

from cowshed.config import ImagesSection
from cowshed.contract.imaging import ImageService
from cowshed.errors import (
    Conflict,
    DataCorrupt,
    DigestMismatch,
    ImageNotFound,
    ImageRejected,
    InternalError,
    InvalidRequest,
    NameTaken,
    NoSpace,
    OperatorError,
)
from cowshed.images import incoming, record
from cowshed.images.directory import DirectoryService
from cowshed.model.disk import DiskFormat
from cowshed.model.image import Image, ImageStatus

DATA = b"\x5a" * 100_000 + bytes(200_000)


@pytest.fixture
def service(tmp_path: Path) -> DirectoryService:
    return DirectoryService(tmp_path / "deep" / "images", ImagesSection())


def add(service: DirectoryService, name: str = "debian", data: bytes = DATA, **fields: object) -> Image:
    image = Image(id=str(fields.pop("id", "")), name=name, **fields)  # type: ignore[arg-type]
    return service.upload(image, io.BytesIO(data))


def test_it_is_an_image_service(service: DirectoryService) -> None:
    assert isinstance(service, ImageService)
    assert service.list() == []
    assert not service.root.exists()


def test_an_upload_is_shown_listed_and_read(service: DirectoryService, tmp_path: Path) -> None:
    image = add(service, properties={"hw_disk_bus": "scsi"}, min_disk=5, min_ram=7)
    assert uuid.UUID(image.id).version == 4
    assert (image.status, image.size, image.virtual_size) == (ImageStatus.ACTIVE, 300_000, 300_032)
    assert (image.os_hash_algo, image.os_hash_value) == ("sha256", hashlib.sha256(DATA).hexdigest())
    assert service.show("debian") == service.show(image.id) == service.show(image.id[:8]) == image
    assert service.list() == service.list(name="debian") == [image]
    assert service.list(name="other") == []
    with service.open(image, offset=99_999) as stream:
        assert stream.read(2) == b"\x5a\0"
    service.download(image, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == DATA
    assert service.locations(image)[0].url == service.local_path(image).as_uri()
    service.verify(image)


def test_the_bytes_are_private_and_read_only(service: DirectoryService) -> None:
    path = service.local_path(add(service))
    assert path.stat().st_mode & 0o777 == 0o400
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert (path.parent / "image.json").stat().st_mode & 0o777 == 0o600


def test_the_list_is_in_order_of_age(service: DirectoryService) -> None:
    names = [f"image-{number}" for number in range(5)]
    for name in names:
        add(service, name)
    assert [image.name for image in service.list()] == names


@pytest.mark.parametrize("ref", ["nothing", "../../etc", "", "0" * 36, "11111111-1111-4111-8111-111111111111"])
def test_what_is_not_there_is_not_found(service: DirectoryService, ref: str) -> None:
    add(service)
    with pytest.raises(ImageNotFound):
        service.show(ref)
    with pytest.raises(ImageNotFound):
        service.delete(ref)


def test_a_beginning_that_two_ids_have_is_a_conflict(service: DirectoryService) -> None:
    for digit in "12":
        add(service, f"image-{digit}", id=f"aaaaaaaa-0000-4000-8000-00000000000{digit}")
    with pytest.raises(Conflict, match="several images"):
        service.show("aaaaaaaa")
    with pytest.raises(ImageNotFound):
        service.show("aaaaaaa")


@pytest.mark.parametrize("name", ["debian:12", "a", "A.b_c-9", "x" * 128])
def test_good_names(service: DirectoryService, name: str) -> None:
    assert service.show(add(service, name).name).name == name


@pytest.mark.parametrize("name", ["-a", ".a", "a b", "a/b", "a\n", "a\0", "é", "x" * 129, "..", "json:{}"])
def test_bad_names(service: DirectoryService, name: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot be the name"):
        add(service, name)


@pytest.mark.parametrize("image_id", ["x", "../x", "AAAAAAAA-0000-4000-8000-000000000000"])
def test_bad_ids(service: DirectoryService, image_id: str) -> None:
    with pytest.raises(InvalidRequest, match="not an image id"):
        add(service, id=image_id)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("./debian.qcow2", "debian"),
        ("/a/b/debian-12.1.raw.xz", "debian-12.1"),
        ("https://h/p/d%20e.img.gz?x=y#z", "d-e"),
        ("file:///a/Tiny.ISO", "Tiny"),
        ("https://h/noble/", "noble"),
        ("x.tar", "x.tar"),
    ],
)
def test_the_name_comes_from_the_file(source: str, name: str) -> None:
    assert record.default_name(source) == name


@pytest.mark.parametrize("source", ["https://example.org/", "/a/.qcow2", "///"])
def test_some_sources_give_no_name(source: str) -> None:
    with pytest.raises(InvalidRequest, match="no name"):
        record.default_name(source)


def test_a_taken_name_or_id_stays_with_its_owner(service: DirectoryService) -> None:
    first = add(service)
    with pytest.raises(NameTaken) as caught:
        add(service, data=b"other" * 1000)
    assert "cowshed image rm debian" in str(caught.value.hint)
    with pytest.raises(NameTaken):
        add(service, "other", id=first.id)
    assert service.list() == [first]


def test_a_name_on_its_way_is_taken_too(service: DirectoryService) -> None:
    with service.incoming(Image(id="", name="debian")):
        with pytest.raises(NameTaken):
            add(service)
        assert service.list() == []
        other = add(service, "other")
        with pytest.raises(NameTaken):
            service.update(other.id, {"name": "debian"})
    add(service)


def test_one_of_many_callers_gets_the_name(service: DirectoryService) -> None:
    results: list[object] = []

    def call(number: int) -> None:
        try:
            results.append(add(service, data=b"%d" % number * 10_000).id)
        except NameTaken:
            results.append(None)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [result for result in results if result]
    assert len(results) == 8
    assert [image.id for image in service.list()] == winners
    assert sorted(os.listdir(service.root)) == sorted([".lock", *winners])  # type: ignore[type-var]


def test_a_declared_format_must_be_the_real_one(service: DirectoryService) -> None:
    with pytest.raises(ImageRejected):
        add(service, disk_format=DiskFormat.QCOW2)
    with pytest.raises(ImageRejected):
        add(service, data=b"QFI\xfb\0\0\0\3" + bytes(1000))
    with pytest.raises(ImageRejected, match="empty"):
        add(service, data=b"")
    assert os.listdir(service.root) == [".lock"]


def test_kernels_and_ramdisks_are_stored_as_they_are(service: DirectoryService) -> None:
    packed = b"\x1f\x8b\x08 a ramdisk is a gzip file"
    image = add(service, "initrd", packed, disk_format=DiskFormat.ARI)
    assert (image.disk_format, image.size) == (DiskFormat.ARI, len(packed))
    assert add(service, "root", DATA, disk_format=DiskFormat.AMI).disk_format == DiskFormat.AMI


def test_only_listed_formats_enter(tmp_path: Path) -> None:
    service = DirectoryService(tmp_path, ImagesSection(formats=("qcow2",)))
    with pytest.raises(ImageRejected, match="not accepted here"):
        add(service)


def test_update_changes_what_may_change(service: DirectoryService) -> None:
    image = add(service, properties={"a": "1"})
    changed = service.update("debian", {"name": "trixie", "properties": {"b": "2"}, "min_disk": 9})
    assert (changed.id, changed.name, changed.properties, changed.min_disk) == (image.id, "trixie", {"b": "2"}, 9)
    assert service.list() == [changed]
    for bad in ({"size": 1}, {"os_hash_value": "x"}, {"min_disk": -1}, {"min_ram": "much"}, {"name": "a b"}):
        with pytest.raises(InvalidRequest):
            service.update(image.id, bad)
    add(service, "other")
    with pytest.raises(NameTaken):
        service.update(image.id, {"name": "other"})
    with pytest.raises(ImageNotFound):
        service.update("nothing", {})


def test_delete_removes_all(service: DirectoryService) -> None:
    image = add(service)
    service.delete("debian")
    assert os.listdir(service.root) == [".lock"]
    with pytest.raises(ImageNotFound):
        service.delete(image.id)
    for call in (service.open, service.local_path, service.verify):
        with pytest.raises(ImageNotFound):
            call(image)


def test_changed_bytes_are_found(service: DirectoryService, tmp_path: Path) -> None:
    image = add(service)
    path = service.local_path(image)
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.write(b"!")
    with pytest.raises(DigestMismatch):
        service.verify(image)
    with pytest.raises(DigestMismatch):
        service.download(image, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    os.truncate(path, 5)
    with pytest.raises(DataCorrupt, match="5 bytes instead of 300000"):
        service.verify(image)


# --- damaged records --------------------------------------------------------------------------


def spoil(data: bytes, how: str) -> bytes:
    body = json.loads(data)
    if how == "newer version":
        body["version"] = 99
    elif how == "changed":
        body["image"]["size"] += 1
    elif how == "another image's":
        other = dict(body["image"], id="aaaaaaaa-0000-4000-8000-000000000001")
        return record.encode(dataclasses.replace(record._image(other)))
    else:
        return {"empty": b"", "cut": data[:-9], "not a record": b"[]", "not text": b"\xff\xfe" * 9}[how]
    return json.dumps(body).encode()


@pytest.mark.parametrize(
    "how", ["empty", "cut", "not a record", "not text", "newer version", "changed", "another image's"]
)
def test_a_damaged_record_hides_only_itself(service: DirectoryService, how: str) -> None:
    bad, good = add(service, "bad"), add(service, "good")
    path = service.root / bad.id / "image.json"
    path.write_bytes(spoil(path.read_bytes(), how))
    assert service.list() == [good]
    with pytest.raises(DataCorrupt):
        service.show(bad.id)
    assert service.show("good") == good
    service.delete(bad.id)  # the way out
    assert sorted(os.listdir(service.root)) == sorted([".lock", good.id])


def test_a_record_survives_a_field_it_does_not_know(service: DirectoryService) -> None:
    image = add(service)
    path = service.root / image.id / "image.json"
    body = json.loads(path.read_bytes())["image"] | {"colour": "blue"}
    path.write_text(json.dumps({"version": 1, "checksum": record._checksum(body), "image": body}))
    assert service.show(image.id) == image


def test_properties_have_a_bound(service: DirectoryService) -> None:
    with pytest.raises(InvalidRequest, match="longer than 1 MiB"):
        add(service, properties={"x": "y" * (1 << 20)})
    assert os.listdir(service.root) == [".lock"]


# --- crashes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["created", "written", "settled", "deleting"])
def test_leftovers_of_a_killed_process_are_invisible_and_cleaned(service: DirectoryService, step: str) -> None:
    """A child is killed at each step; what it leaves is what a crash leaves."""
    if step == "deleting":
        image = add(service, "other")
        os.rename(service.root / image.id, service.root / f".gone-{image.id}")
    else:
        child = os.fork()
        if child == 0:
            try:
                _die_at(service, step)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert service.list() == []
    assert len(os.listdir(service.root)) == 2
    image = add(service)  # the name is free again
    assert sorted(os.listdir(service.root)) == sorted([".lock", image.id])


def _die_at(service: DirectoryService, step: str) -> None:
    with service.incoming(Image(id="", name="debian")) as place:
        if step != "created":
            os.pwrite(place.fd, DATA, 0)
        if step == "settled":
            place.settle(dataclasses.replace(place.image, os_hash_value="x"))
        os._exit(9)


def test_a_live_filler_is_not_cleaned_away(service: DirectoryService) -> None:
    with service.incoming(Image(id="", name="slow")) as place:
        assert service.clean() == 0
        assert place.data.exists()


def test_what_fails_on_the_way_leaves_nothing(service: DirectoryService) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 0:
                raise OSError(28, "No space left on device")
            return super().read(1000)

    with pytest.raises(NoSpace):
        service.upload(Image(id="", name="debian"), Broken(DATA))
    assert os.listdir(service.root) == [".lock"]


@pytest.mark.parametrize("call", ["fsync", "fchmod", "rename"])
def test_a_disk_that_fails_is_never_a_success(
    service: DirectoryService, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    add(service, "first")  # directories are there

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(OperatorError, match="Input/output error"):
            add(service)
    assert [image.name for image in service.list()] == ["first"]
    assert len(os.listdir(service.root)) == 2
    add(service)


def test_publishing_without_a_digest_is_a_bug(service: DirectoryService) -> None:
    with service.incoming(Image(id="", name="debian")) as place, pytest.raises(InternalError):
        service.publish(place, place.image)
    assert os.listdir(service.root) == [".lock"]


def test_clean_of_nothing(service: DirectoryService) -> None:
    assert service.clean() == 0
    assert incoming.names(service.root) == set()
