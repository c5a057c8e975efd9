"""Ploop: a directory with a data file and a descriptor."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cowshed.disks.file import FileBackend
from cowshed.errors import DataCorrupt
from cowshed.imagebackend.image import Fetch
from cowshed.imagebackend.local import Local
from cowshed.imagebackend.models import FORMAT_PLOOP, ImageModel, LocalFileImage
from cowshed.model.disk import DiskFormat, DiskSource, ManifestDisk
from cowshed.tools import filesystem, ploop

_LARGEST = 1 << 20  # bytes of a descriptor


class Ploop(Local):
    """``<instances>/<uuid>/<disk_name>/``, or ``path``. ``pcs_format``: ``raw`` or ``expanded``, what new ones are."""

    backend_name = "ploop"

    def _complete(self) -> None:
        self.disk_info_path = None
        self.preallocate = False
        self.pcs_format = self._settings.config.disks.ploop_format

    def create_image(
        self, prepare_template: Fetch, base: str, size: int | None, *args: Any, safe: bool = False, **kwargs: Any
    ) -> None:
        if "image_id" not in kwargs:
            if not self.exists():
                prepare_template(*args, target=self.path, **kwargs)
            if size:
                self.resize_image(size)
            return
        with self._settings.cache.using(os.path.basename(base)):
            if not os.path.exists(base):
                prepare_template(*args, target=base, **kwargs)
            self._touch(base)
            self.verify_base_size(base, size)
            if not self.exists():
                self._create(size, self._base(base))

    def _preallocate(self, size: int) -> None:
        """There is nothing to do: a new disk has it from the beginning."""

    def get_model(self, connection: Any) -> ImageModel:
        return LocalFileImage(self.path, FORMAT_PLOOP)

    def _source(self) -> DiskSource:
        return self._known_disk().source() if self.exists() else super()._source()

    def _backend(self) -> FileBackend:
        return self._settings.backends[self.backend_name]

    def _described(self) -> ManifestDisk:
        """Of a directory that something else has made: what its descriptor says."""
        path = Path(self.path)
        try:
            fd = filesystem.open_regular(path / ploop.FILE)
            try:
                found = ploop.parse(os.read(fd, _LARGEST + 1))
            finally:
                os.close(fd)
            expanded = found.present.kind == ploop.Kind.EXPANDED
        except ploop.PloopError as error:
            raise DataCorrupt(path=path / ploop.FILE, reason=str(error)) from error
        kind = DiskFormat.PLOOP if expanded else DiskFormat.RAW
        return ManifestDisk(
            name=path.name, backend=self.backend_name, format=kind, location=path.name, virtual_size=found.size
        )

    @staticmethod
    def is_file_in_instance_path() -> bool:
        """It is a directory."""
        return False
