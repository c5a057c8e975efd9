"""Lvm: a volume."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from cowshed import log
from cowshed.errors import CowshedError, InvalidRequest
from cowshed.imagebackend.image import Fetch
from cowshed.imagebackend.models import ImageModel, LocalBlockImage
from cowshed.imagebackend.stored import Stored
from cowshed.model.disk import DiskSource

_log = log.logger(__name__)
_CRYPT = "-dmcrypt"


class Lvm(Stored):
    """``/dev/<vg>/<uuid>_<disk_name>``; encrypted, the mapping in clear, ``/dev/mapper/...-dmcrypt``."""

    backend_name = "lvm"
    source_kind = "block"

    @property
    def vg(self) -> str:
        return self._location()[0]

    @property
    def lv(self) -> str:
        return self._location()[1]

    @property
    def lv_path(self) -> str:
        """The volume itself, which is not ``path`` when it is encrypted."""
        return f"/dev/{self.vg}/{self.lv}"

    @property
    def sparse(self) -> bool:
        """Volumes take their space when they are written to."""
        return bool(self._settings.config.lvm.thin_pool)

    @staticmethod
    def escape(filename: str) -> str:
        return filename.replace("_", "__")

    def _location(self) -> tuple[str, str]:
        from cowshed.disks.recorded import RecordedDisk

        disk = self._disk()
        assert isinstance(disk, RecordedDisk)
        group, _, volume = disk.location().partition("/")
        return group, volume

    def _path(self) -> str:
        """The name under the group, as libvirt knows volumes; of an encrypted one, the mapping that is in clear."""
        disk = self._disk()
        if disk.exists() and (path := disk.source().path) and path.name.endswith(_CRYPT):
            return str(path)
        return self.lv_path

    def _source(self) -> DiskSource:
        source = super()._source()
        return source if source.path and source.path.name.endswith(_CRYPT) else replace(source, path=Path(self.lv_path))

    def _parse(self, path: str) -> tuple[str, str]:
        from cowshed.tools import lvm

        place = Path(path)
        volume = place.name.removesuffix(_CRYPT)
        found = lvm.parse(volume)
        if not found and place.parent == Path("/dev/mapper"):  # <group>-<volume>, the hyphens of both doubled
            found = lvm.parse(volume.replace("--", "\0").rpartition("-")[2].replace("\0", "-"))
        if len(place.parts) != 4 or place.parts[1] != "dev" or not found or found[2]:
            raise InvalidRequest(reason=f"{path!r} is no volume of an instance")
        return found[0], found[1]

    def create_image(
        self, prepare_template: Fetch, base: str, size: int | None, *args: Any, safe: bool = False, **kwargs: Any
    ) -> None:
        if not (size and "ephemeral_size" in kwargs):
            super().create_image(prepare_template, base, size, *args, safe=safe, **kwargs)
            return
        if self.exists():
            return
        disk = self._disk()
        disk.create(size)
        with self.remove_volume_on_error(self.path):
            disk.activate()
            try:
                prepare_template(*args, target=self.path, **kwargs)
            finally:
                disk.deactivate()

    def _fetch_disk(self, fetch_func: Fetch, filename: str, *args: Any, **kwargs: Any) -> None:
        """Straight into the device."""
        fetch_func(*args, target=self.path, **kwargs)

    @contextmanager
    def remove_volume_on_error(self, path: str | Sequence[str]) -> Iterator[None]:
        """The disk goes when the block fails; whatever goes wrong then does not hide why."""
        try:
            yield
        except BaseException:
            _log.warning("removing %s, which could not be finished", path)
            with suppress(CowshedError):
                self._disk().delete()
            raise

    def get_model(self, connection: Any) -> ImageModel:
        return LocalBlockImage(self.path)
