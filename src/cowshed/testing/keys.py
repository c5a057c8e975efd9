"""Keys that a test can look at."""

from __future__ import annotations

import threading

from cowshed.disks.keys import check_id, missing, new_key
from cowshed.errors import NameTaken


class MemoryKeys:
    """A key source; ``held`` maps each id to its key."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def create(self, key_id: str) -> bytes:
        key = new_key()
        self.keep(key_id, key)
        return key

    def keep(self, key_id: str, key: bytes) -> None:
        with self._lock:
            if check_id(key_id) in self.held:
                raise NameTaken(kind="key", name=key_id)
            self.held[key_id] = key

    def get(self, key_id: str) -> bytes:
        try:
            return self.held[key_id]
        except KeyError:
            raise missing(key_id) from None

    def delete(self, key_id: str) -> None:
        self.held.pop(key_id, None)
