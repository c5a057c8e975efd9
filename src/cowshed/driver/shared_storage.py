"""Shared storage: does another host see the directory of an instance? Told by a file that one leaves and the other finds."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cowshed.contract.shared_storage import SharedStorage as SharedStorageContract
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import locate
from cowshed.errors import InvalidRequest
from cowshed.model.instance import Instance

_NAME: Final = re.compile(r"\.shared-[0-9a-f]{32}")


class SharedStorage(SharedStorageContract):
    rooms: Rooms

    def check_instance_shared_storage_local(self, context: Any, instance: Instance) -> dict[str, str] | None:
        """None also where every disk is in a storage that all hosts share: then the directory does not matter."""
        from cowshed.tools import filesystem

        directory = self.rooms.directory(instance.uuid)
        if not directory.exists():
            return None
        disks = locate.disks(self.rooms, instance.uuid)
        if disks and all(self.rooms.backend(backend).traits.shared for backend, _ in disks):
            return None
        path = directory.path / f".shared-{secrets.token_hex(16)}"
        filesystem.write_atomically(path, b"")
        return {"filename": str(path)}

    def check_instance_shared_storage_remote(self, context: Any, data: Any) -> bool:
        return self._path(data).exists()

    def check_instance_shared_storage_cleanup(self, context: Any, data: Any) -> None:
        from cowshed.tools import filesystem

        if data:
            filesystem.remove_file(self._path(data))

    def _path(self, data: Any) -> Path:
        """What another host describes is looked for, and removed, in the directories of instances only.

        :raises InvalidRequest: it is no description of ours
        """
        name = data.get("filename") if isinstance(data, Mapping) else getattr(data, "filename", None)
        path = Path(str(name))
        if not _NAME.fullmatch(path.name) or path.parent.parent != self.rooms.instances:
            raise InvalidRequest(reason=f"{name!r} is not a file that shows whether storage is shared")
        return path
