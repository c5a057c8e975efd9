"""What every image service promises (contract/imaging.py)."""

from __future__ import annotations

import hashlib
import io
import uuid
from collections.abc import Callable
from pathlib import Path

from cowshed.contract.imaging import ImageService
from cowshed.errors import ImageNotFound, ImageRejected, InvalidRequest, NameTaken
from cowshed.model.disk import DiskFormat
from cowshed.model.image import Image, ImageStatus
from cowshed.testing.conformance.expect import refuses
from cowshed.units import MiB

DATA = bytes(range(256)) * 4096 + bytes(MiB)


class ImageServiceConformance:
    """Set before each test:

    * ``service``: an image service with no images in it;
    * ``place``: an empty directory.
    """

    service: ImageService
    place: Path

    def test_what_is_uploaded_is_found_by_id_and_by_name(self) -> None:
        image = self._upload("debian")
        assert self.service.show(image.id) == self.service.show("debian") == image
        assert image.status == ImageStatus.ACTIVE

    def test_the_record_tells_size_and_digest(self) -> None:
        image = self._upload("debian")
        assert (image.size, image.virtual_size) == (len(DATA), len(DATA))
        assert image.os_hash_value == hashlib.new(image.os_hash_algo, DATA).hexdigest()

    def test_an_id_may_be_chosen(self) -> None:
        chosen = str(uuid.uuid4())
        assert self._upload("debian", id=chosen).id == chosen

    def test_properties_are_kept(self) -> None:
        image = self._upload("debian", properties={"hw_disk_bus": "scsi"})
        assert self.service.show(image.id).properties == {"hw_disk_bus": "scsi"}

    def test_bytes_are_read_from_any_offset(self) -> None:
        image = self._upload("debian")
        for offset in (0, 1, MiB, len(DATA) - 1, len(DATA)):
            with self.service.open(image, offset=offset) as stream:
                assert stream.read() == DATA[offset:]

    def test_a_download_is_whole(self) -> None:
        target = self.place / "target"
        self.service.download(self._upload("debian"), target)
        assert target.read_bytes() == DATA

    def test_a_local_path_has_the_bytes(self) -> None:
        path = self.service.local_path(self._upload("debian"))
        assert path is None or path.read_bytes() == DATA

    def test_the_oldest_is_listed_first(self) -> None:
        names = ["one", "two", "three"]
        for name in names:
            self._upload(name)
        assert [image.name for image in self.service.list()] == names
        assert [image.name for image in self.service.list(name="two")] == ["two"]
        assert list(self.service.list(name="four")) == []

    def test_a_taken_id_or_name_is_refused(self) -> None:
        image = self._upload("debian")
        with refuses(NameTaken):
            self._upload("other", id=image.id)
        with refuses(NameTaken):
            self._upload("debian")
        assert [one.id for one in self.service.list()] == [image.id]

    def test_bytes_of_another_format_are_refused(self) -> None:
        with refuses(ImageRejected):
            self._upload("debian", disk_format=DiskFormat.QCOW2)
        with refuses(ImageRejected):
            self.service.upload(Image(id="", name="hidden"), io.BytesIO(b"QFI\xfb" + bytes(1020)))
        with refuses(ImageRejected):
            self.service.upload(Image(id="", name="empty"), io.BytesIO(b""))
        assert list(self.service.list()) == []

    def test_a_refused_name_can_be_used_for_a_good_image(self) -> None:
        with refuses(ImageRejected):
            self._upload("debian", disk_format=DiskFormat.QCOW2)
        self._upload("debian")

    def test_name_properties_and_minima_can_be_changed(self) -> None:
        image = self._upload("debian")
        changes = {"name": "debian-12", "properties": {"os_type": "linux"}, "min_disk": MiB, "min_ram": 2 * MiB}
        changed = self.service.update(image.id, changes)
        assert changed == self.service.show("debian-12")
        assert (changed.min_disk, changed.min_ram, changed.properties) == (MiB, 2 * MiB, {"os_type": "linux"})
        with refuses(ImageNotFound):
            self.service.show("debian")

    def test_what_the_bytes_decide_cannot_be_changed(self) -> None:
        image = self._upload("debian")
        for change in ({"size": 1}, {"os_hash_value": "0"}, {"disk_format": "qcow2"}, {"id": "x"}):
            with refuses(InvalidRequest):
                self.service.update(image.id, change)
        assert self.service.show(image.id) == image

    def test_a_deleted_image_is_gone(self) -> None:
        image = self._upload("debian")
        self.service.delete(image.id)
        target = self.place / "target"
        calls: list[Callable[[], object]] = [
            lambda: self.service.show(image.id),
            lambda: self.service.open(image),
            lambda: self.service.download(image, target),
            lambda: self.service.update(image.id, {"name": "x"}),
            lambda: self.service.delete(image.id),
        ]
        for call in calls:
            with refuses(ImageNotFound):
                call()
        assert not target.exists()
        assert list(self.service.list()) == []

    def _upload(
        self,
        name: str,
        *,
        id: str = "",
        disk_format: DiskFormat = DiskFormat.RAW,
        properties: dict[str, str] | None = None,
    ) -> Image:
        image = Image(id=id, name=name, disk_format=disk_format, properties=properties or {})
        return self.service.upload(image, io.BytesIO(DATA))
