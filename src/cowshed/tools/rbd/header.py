"""What librbd keeps of an image, asked and changed as librbd does it: through the class ``rbd`` of the OSDs.

For what librbd itself can only do with an image that it has opened, which takes 25 questions to OSDs, a watch and a lock.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from cowshed.tools.rbd import errors

_HEAD: Final = struct.pack("<Q", (1 << 64) - 2)  # the image as it is now, and no snapshot of it
_OBJECT_MAP: Final = 1 << 3
# Layering, exclusive lock, map of objects, fast diff, deep flatten, data pool, and what says that it is a clone.
# Striping, journals and migrations take more.
_SIMPLE: Final = 1 | 1 << 2 | _OBJECT_MAP | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8
_MAPPED: Final = 256_000_000  # objects; librbd keeps no map of more
_ABSENT: Final = 0  # the state of an object in the map


def id_of(ioctx: Any, image: str) -> str:
    """The name in the names of its objects. :raises rados.ObjectNotFound:"""
    return str(ioctx.read(f"rbd_id.{image}")[4:].decode())  # behind the length


def grow(ioctx: Any, image: str, size: int) -> bool:
    """Make an image larger that nobody has opened: a new one. Interrupted, it has its old size, and a longer map of objects.

    :return: False, and nothing done: it has features whose growth takes more than this
    :raises rados.Error:
    """
    name = id_of(ioctx, image)
    order, features = _order(ioctx, name), _features(ioctx, name)
    objects = -(-size >> order)
    if features & ~_SIMPLE or objects > _MAPPED:
        return False
    if features & _OBJECT_MAP:
        _call(ioctx, f"rbd_object_map.{name}", "object_map_resize", struct.pack("<QB", objects, _ABSENT))
    set_size(ioctx, name, size)
    return True


def set_size(ioctx: Any, name: str, size: int) -> None:
    """In the header of the image with this id, and nowhere else."""
    _call(ioctx, f"rbd_header.{name}", "set_size", struct.pack("<Q", size))


def _order(ioctx: Any, name: str) -> int:
    """An object has two to the power of this many bytes."""
    _, answer = ioctx.execute(f"rbd_header.{name}", "rbd", "get_size", _HEAD)
    return int(answer[0])


def _features(ioctx: Any, name: str) -> int:
    _, answer = ioctx.execute(f"rbd_header.{name}", "rbd", "get_features", _HEAD + b"\0")
    return int(struct.unpack_from("<Q", answer)[0])


def _call(ioctx: Any, target: str, method: str, data: bytes) -> None:
    rados, _ = errors.bindings()
    with rados.WriteOpCtx() as operation:
        operation.execute("rbd", method, data)
        ioctx.operate_write_op(operation, target)
