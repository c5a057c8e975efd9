"""What a pool holds: the names of its images, and bytes of them and of all."""

from __future__ import annotations

from typing import Any, Final

from cowshed import clock
from cowshed.model.disk import Capacity
from cowshed.tools.rbd import errors
from cowshed.tools.rbd.cluster import Cluster

_PAGE: Final = 512  # names per question
_UNCOUNTED: Final = 10.0  # seconds: the manager tells the monitors what it has heard every 5


def names(ioctx: Any, prefix: str) -> tuple[str, ...]:
    """Of the images that begin with ``prefix``, in order; none is opened."""
    rados, _ = errors.bindings()
    key, found, after = f"name_{prefix}", [], ""
    while True:
        with rados.ReadOpCtx() as operation:
            answer, _ = ioctx.get_omap_vals(operation, after, key, _PAGE)
            try:
                ioctx.operate_read_op(operation, "rbd_directory")
            except rados.ObjectNotFound:  # a pool that never had an image
                return ()
            page = [name for name, _ in answer]
        found += [name.removeprefix("name_") for name in page]
        if len(page) < _PAGE:
            return tuple(found)
        after = page[-1]


def counted(cluster: Cluster) -> Any:
    """What the cluster counts. A new one knows of no room at all until its manager has heard of an OSD."""
    deadline = clock.Deadline(_UNCOUNTED, "statistics of the Ceph cluster")
    while True:
        answer = cluster.ask("df", detail="detail")
        if answer["stats"]["total_bytes"] or deadline.passed:
            return answer
        clock.current().sleep(0.1)


def capacity(answer: Any, pool: str) -> Capacity | None:
    """What ``pool`` may hold in all, with its quota; None: it is not counted in ``answer`` (:func:`counted`)."""
    for one in answer["pools"]:
        if one["name"] == pool:
            stats = one["stats"]
            stored, free = int(stats["stored"]), int(stats["max_avail"])
            if quota := int(stats.get("quota_bytes", 0)):
                free = min(free, max(0, quota - stored))
            return Capacity(total=stored + free, free=free, used=stored)
    return None


def unused(answer: Any) -> Capacity:
    """Of a pool with nothing in it that has been counted: all that is free in the cluster."""
    free = int(answer["stats"]["total_avail_bytes"])
    return Capacity(total=free, free=free, used=0)


def allocated(opened: Any) -> int:
    """Bytes of objects that the image has of its own."""
    total = 0

    def add(_offset: int, length: int, exists: bool) -> None:
        nonlocal total
        total += length if exists else 0

    opened.diff_iterate(0, opened.size(), None, add, False, True)
    return total
