"""Is a clone's line of parents still there? Asked without librbd, which waits for good where a pool of it is gone."""

from __future__ import annotations

import struct
from contextlib import ExitStack
from typing import Any

from cowshed.tools.rbd import errors, header
from cowshed.tools.rbd.cluster import Cluster


def lost(cluster: Cluster, ioctx: Any, image: str) -> bool:
    """Has a pool been deleted in which one of ``image``'s parents was? False too for an image that is not there.

    Two questions to OSDs for an image, and one more for each of its parents.
    """
    rados, _ = errors.bindings()
    try:
        name = header.id_of(ioctx, image)
    except rados.ObjectNotFound:
        return False
    return lost_by_id(cluster, ioctx, name)


def lost_by_id(cluster: Cluster, ioctx: Any, image_id: str) -> bool:
    """The same for an image that has an id only, as those in the trash."""
    with ExitStack() as opened:
        while parent := _parent(ioctx, image_id):
            pool, namespace, image_id = parent
            if not cluster.has_pool(pool):
                return True
            ioctx = cluster.rados().open_ioctx2(pool)
            opened.callback(ioctx.close)
            ioctx.set_namespace(namespace)
    return False


def _parent(ioctx: Any, image_id: str) -> tuple[int, str, str] | None:
    """(id of the pool, namespace, id of the image), as the class rbd of the OSDs encodes it."""
    rados, _ = errors.bindings()
    try:
        _, answer = ioctx.execute(f"rbd_header.{image_id}", "rbd", "parent_get", b"")
    except rados.TimedOut:
        raise
    except rados.Error:  # gone, not allowed, or an OSD before 14: opening it will tell
        return None
    (pool,) = struct.unpack_from("<q", answer, 6)  # behind versions and length
    namespace, start = _text(answer, 14)
    return None if pool < 0 else (pool, namespace, _text(answer, start)[0])


def _text(data: bytes, start: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<I", data, start)
    return data[start + 4 : start + 4 + length].decode(), start + 4 + length
