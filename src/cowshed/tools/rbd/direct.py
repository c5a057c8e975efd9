"""A snapshot that becomes an image of its own inside the cluster: no data passes through this host."""

from __future__ import annotations

import uuid
from contextlib import AbstractContextManager, nullcontext

from cowshed import log
from cowshed.contract.callbacks import SILENT, Progress
from cowshed.errors import CowshedError, DeadlineExceeded, PermissionDenied, ToolFailed
from cowshed.tools.rbd.pool import Pool
from cowshed.tools.rbd.url import Url
from cowshed.undo import Undo

_log = log.logger(__name__)

SNAPSHOT = "snap"  # the name that image services look for
TEMPORARY = "cowshed-upload-"


def upload(
    source: Pool,
    image: str,
    target: Pool,
    name: str,
    *,
    still: AbstractContextManager[object] | None = None,
    progress: Progress = SILENT,
) -> Url:
    """``target``'s new image ``name`` has the content of ``image`` now, and a protected snapshot.

    The clone is left to the cluster's manager to be flattened; until then the cluster keeps the
    snapshot of the source, which is out of sight already. With the old format of clones, or
    without a manager that listens to this user, it is flattened before this returns.

    Nothing is left behind after an error, which is the first one.

    :param still: held while the snapshot is taken
    """
    snapshot = f"{TEMPORARY}{uuid.uuid4()}"
    with Undo() as undo:
        progress.phase("snapshot")
        with still or nullcontext():
            source.take(image, snapshot)
            undo.push("remove the snapshot", source.remove_snapshot, image, snapshot, force=True)
        target.clone(source, image, snapshot, name)
        undo.push("remove the new image", target.remove, name)
        old_format = _old_format(source, image, snapshot)
        if old_format:
            target.flatten(name)
        target.take(name, SNAPSHOT)
        target.protect(name, SNAPSHOT)
        progress.check()
        if not old_format:
            _part(target, name)
        source.remove_snapshot(image, snapshot, force=True)
        undo.drop()
    return Url(target.cluster.fsid, target.spec(name), SNAPSHOT)


def _old_format(source: Pool, image: str, snapshot: str) -> bool:
    """Clones of the old format need a protected parent, and hold it."""
    with source.open(image, read_only=True) as opened:
        return bool(opened.is_protected_snap(snapshot))


def _part(target: Pool, name: str) -> None:
    """The new image shall not stand on the disk for ever."""
    try:
        target.flatten_later(name)
    except (DeadlineExceeded, PermissionDenied, ToolFailed) as error:
        _log.info("image %s is flattened now, since the manager does not do it: %s", target.spec(name), error)
        target.flatten(name)


def clean(source: Pool, image: str, target: Pool, name: str) -> None:
    """Remove what an :func:`upload` has left whose process died."""
    discard(target, name)
    for found in source.snapshots(image):
        if found.name.startswith(TEMPORARY):
            source.remove_snapshot(image, found.name, force=True)


def discard(target: Pool, name: str) -> None:
    """Take :func:`upload` back; already gone is success."""
    try:
        target.remove(name)
    except CowshedError:
        if target.exists(name):
            raise
