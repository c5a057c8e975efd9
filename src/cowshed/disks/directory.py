"""The directory of an instance: its disks, manifest, console log and config drive."""

from __future__ import annotations

import re
from pathlib import Path

from cowshed.errors import InvalidRequest
from cowshed.tools import filesystem

_UUID = re.compile(r"[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
DELETED = "_del"


class InstanceDirectory:
    """``<instances>/<uuid>``; while it is deleted, ``<uuid>_del``."""

    def __init__(self, instances: Path, uuid: str) -> None:
        if not _UUID.fullmatch(uuid):
            raise InvalidRequest(reason=f"{uuid!r} is not a UUID")
        self.path = instances / uuid

    def exists(self) -> bool:
        return self.path.is_dir()

    def create(self) -> None:
        """Durably; others may enter (QEMU may run as another user) but not list it."""
        filesystem.make_directory(self.path)

    def delete(self) -> None:
        """With everything in it; already gone is success."""
        filesystem.remove_tree(self.path, self.path.with_name(self.path.name + DELETED))
