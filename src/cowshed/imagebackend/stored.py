"""What Lvm and Rbd share: disks that are no files, on bases that their storage may keep itself."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cowshed.contract.callbacks import SILENT
from cowshed.contract.storage import Backend, BaseContent, BaseKeeping, Disk, FillBase, OpenSink
from cowshed.errors import DiskNotFound, InvalidRequest, NotFound
from cowshed.imagebackend.image import Fetch, Image, uuid_of
from cowshed.imagebackend.settings import Settings, current
from cowshed.model.disk import Base, DiskFormat, DiskSource, DiskType, ManifestDisk


class Stored(Image):
    """A disk of another storage; ``path`` is what libvirt, or QEMU, calls it."""

    source_kind: str

    def __init__(
        self,
        instance: Any = None,
        disk_name: str | None = None,
        path: str | None = None,
        disk_info_mapping: Mapping[str, Any] | None = None,
        *,
        settings: Settings | None = None,
    ) -> None:
        self._settings = settings or current()
        if path is not None:
            self._uuid, self.disk_name = self._parse(path)
        elif instance is None or not disk_name:
            raise InvalidRequest(reason="an image needs an instance and a disk name, or a path")
        else:
            self._uuid, self.disk_name = uuid_of(instance), disk_name
        super().__init__(
            path or self._path(),
            self.source_kind,
            "raw",
            is_block_dev=self.source_kind == "block",
            disk_info_mapping=disk_info_mapping,
            settings=self._settings,
        )
        self.disk_info_path = None
        self.preallocate = False
        self.can_fallocate = False

    def _parse(self, path: str) -> tuple[str, str]:
        """(instance, disk) that ``path`` names. :raises InvalidRequest: it names no disk of this storage"""
        raise NotImplementedError

    def _path(self) -> str:
        raise NotImplementedError

    # --- the disk below -------------------------------------------------------------------------

    def _place(self) -> Backend:
        """:raises InvalidRequest: this storage is not configured"""
        try:
            return self._settings.places[self.backend_name]
        except KeyError:
            raise InvalidRequest(
                reason=f"there is no {self.backend_name} storage on this host",
                hint=f"see [{self.backend_name}] in the configuration",
            ) from None

    def _disk(self) -> Disk:
        return self._place().disk(self._uuid, self.disk_name or "")

    def _known_disk(self) -> Disk:
        if not self.exists():
            raise DiskNotFound(name=self.path)
        return self._disk()

    def exists(self) -> bool:
        return self._disk().exists()

    check_image_exists = exists

    def _entry(self) -> ManifestDisk:
        found = self._known_disk().info()
        return ManifestDisk(self.disk_name or "", self.backend_name, found.format, self.path, found.virtual_size)

    def _source(self) -> DiskSource:
        return self._known_disk().source()

    def _get_driver_format(self) -> str:
        return self.driver_format

    def _preallocate(self, size: int) -> None:
        """Space is the storage's own affair."""

    def get_disk_size(self, name: str) -> int:
        return self._entry().virtual_size if name == self.path else super().get_disk_size(name)

    @staticmethod
    def is_file_in_instance_path() -> bool:
        return False

    # --- create ---------------------------------------------------------------------------------

    def create_image(
        self, prepare_template: Fetch, base: str, size: int | None, *args: Any, safe: bool = False, **kwargs: Any
    ) -> None:
        with self._settings.cache.using(os.path.basename(base)):
            if self.exists():
                return
            found = self._kept(base)
            if found is None:
                if not os.path.exists(base):
                    prepare_template(*args, target=base, **kwargs)
                if self.exists():  # the call-back has cloned it
                    return
                self._touch(base)
                self.verify_base_size(base, size)
                found = self._keep(base, str(kwargs.get("image_id") or ""))
            self._create(size, found)

    def _fetch_base(self, fetch_func: Fetch, filename: str, *args: Any, **kwargs: Any) -> None:
        """A call-back that could make the disk itself (a clone) writes no base."""
        try:
            super()._fetch_base(fetch_func, filename, *args, **kwargs)
        except NotFound:
            if not self.exists():
                raise

    def _kept(self, base: str) -> Base | None:
        place = self._place()
        return place.find_base(os.path.basename(base)) if isinstance(place, BaseKeeping) else None

    def _keep(self, base: str, image_id: str) -> Base:
        """The base as the storage wants it: brought in once where it keeps bases itself."""
        found, place = self._base(base), self._place()
        if isinstance(place, BaseKeeping):
            return place.add_base(os.path.basename(base), image_id or os.path.basename(base), _filling(found))
        if found.format != DiskFormat.RAW:
            raise InvalidRequest(reason=f"{self.backend_name} disks need a raw base; {base} is {found.format}")
        return found


def _filling(base: Base) -> FillBase:
    from contextlib import ExitStack

    from cowshed.tools import transfer
    from cowshed.tools.transfer.pump import pump

    def fill(open_sink: OpenSink) -> BaseContent:
        with ExitStack() as stack:
            layer = transfer.open_layer(DiskSource(DiskType.FILE, base.format, base.path), stack)
            data = Path(base.path).stat().st_blocks * 512
            sink = open_sink(base.virtual_size, data)
            try:
                pump(layer, sink, progress=SILENT, size=base.virtual_size)
            finally:
                sink.close()
            return BaseContent(base.virtual_size, sink.digest(), base.source_digest)

    return fill
