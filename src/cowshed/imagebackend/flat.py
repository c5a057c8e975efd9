"""Flat (once called Raw): a file that holds everything."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cowshed.imagebackend.image import Fetch
from cowshed.imagebackend.local import Local
from cowshed.model.disk import DiskFormat


class Flat(Local):
    """``<instances>/<uuid>/<disk_name>``, or ``path``."""

    backend_name = "raw"

    def _complete(self) -> None:
        self.correct_format()

    def correct_format(self) -> None:
        """``driver_format`` as it is recorded for an existing disk."""
        if os.path.exists(self.path):
            self.driver_format = self._recorded_format() or self.driver_format

    def _recorded_format(self) -> str | None:
        """Without writing anything: making an object has no side effects."""
        from cowshed.imagebackend import info

        if self.disk_info_path and (found := info.read(Path(self.disk_info_path)).get(self.path)):
            return found
        return self._get_driver_format()

    def create_image(
        self, prepare_template: Fetch, base: str, size: int | None, *args: Any, safe: bool = False, **kwargs: Any
    ) -> None:
        if "image_id" in kwargs:
            self._from_image(prepare_template, base, size, *args, **kwargs)
        elif not self.exists():
            prepare_template(*args, target=self.path, **kwargs)
        elif size:
            self.resize_image(size)
        self.driver_format = self.resolve_driver_format()

    def _from_image(self, prepare_template: Fetch, base: str, size: int | None, *args: Any, **kwargs: Any) -> None:
        with self._settings.cache.using(os.path.basename(base)):
            if not os.path.exists(base):
                prepare_template(*args, target=base, **kwargs)
            self._touch(base)
            self.verify_base_size(base, size)
            if self.exists():
                return
            found = self._base(base)
            if found.format != DiskFormat.RAW:
                self._convert(base, size)
            else:
                self._create(size, found)

    def _convert(self, base: str, size: int | None) -> None:
        """A base in another format becomes a raw disk: a raw disk that is not raw is nobody's friend."""
        from cowshed.model.disk import DiskSource, DiskType
        from cowshed.tools import filesystem, locks, transfer

        found = self._base(base)
        path = Path(self.path)
        filesystem.make_directory(path.parent)
        part = path.with_name(f".{path.name}.converted")
        with locks.lock(path.with_name(f".{path.name}.lock"), timeout=3600, what=self.path):
            if self.exists():
                return
            filesystem.remove_file(part)
            try:
                transfer.export(DiskSource(DiskType.FILE, found.format, found.path), part, DiskFormat.RAW)
                if size and size > found.virtual_size:
                    os.truncate(part, size)
                self._adopt(part)
            finally:
                filesystem.remove_file(part)


Raw = Flat
