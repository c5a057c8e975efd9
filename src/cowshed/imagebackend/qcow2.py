"""Qcow2: an overlay of a base in the cache."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from cowshed.disks import manifest
from cowshed.imagebackend.image import Fetch
from cowshed.imagebackend.local import Local
from cowshed.tools import filesystem, reflink, sparse
from cowshed.units import GiB


class Qcow2(Local):
    """``<instances>/<uuid>/<disk_name>``, or ``path``."""

    backend_name = "qcow2"

    def create_image(
        self, prepare_template: Fetch, base: str, size: int | None, *args: Any, safe: bool = False, **kwargs: Any
    ) -> None:
        with self._settings.cache.using(os.path.basename(base)):
            if not os.path.exists(base):
                prepare_template(*args, target=base, **kwargs)
            found = self._base(base)  # inspects what has no record
            self._touch(base)
            self.verify_base_size(base, size)
            self._restore_resized_base(base)
            if not self.exists():
                self._create(size, found)
        self.resolve_driver_format()

    def _get_driver_format(self) -> str:
        return self.driver_format

    def _named_parent(self) -> Path | None:
        """The parent by the record, else by the disk's header (of a qcow2 disk no guest can write that)."""
        path = Path(self.path)
        if entry := manifest.find(path.parent, path.name):
            return Path(entry.base_path) if entry.base_path else None
        header = self._header(path)
        parent = Path(os.fsdecode(header.backing)) if header.backing else None
        return parent if parent and parent.parent == self._settings.cache_directory else None

    def _restore_resized_base(self, base: str) -> None:
        """Disks of old releases stand on ``<base>_<GiB>``; make that again where it is missing."""
        parent = self._named_parent() if self.exists() else None
        match = re.fullmatch(re.escape(os.path.basename(base)) + r"_(\d+)", parent.name) if parent else None
        if not parent or not match or parent.exists():
            return
        source = os.open(base, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with filesystem.publish(parent, mode=0o444) as publication:
                if not reflink.clone(source, publication.fd):
                    sparse.copy(source, publication.fd)
                os.ftruncate(publication.fd, max(int(match[1]) * GiB, os.fstat(source).st_size))
        finally:
            os.close(source)
