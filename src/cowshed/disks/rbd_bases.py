"""Bases in a Ceph pool: imported once for all hosts, cloned ever after.

A base is the image ``cowshed-base_<name>`` with a snapshot. It is filled under another name and
renamed when it is complete; the lock that all hosts see lets one of them do that. What a killed
import leaves has the other name, and the next one removes it.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Any, Final

from cowshed.contract.callbacks import SILENT, Progress
from cowshed.contract.storage import BaseContent, BaseKeeping, FillBase, OpenSink
from cowshed.errors import (
    Busy,
    DataCorrupt,
    DigestMismatch,
    DiskNotFound,
    InvalidRequest,
    NameTaken,
    NoSpace,
    SnapshotNotFound,
)
from cowshed.model.disk import Base, DiskFormat, KeptBase
from cowshed.tools import filesystem
from cowshed.tools.rbd import ImageSpec, Pool, RbdSink
from cowshed.tools.rbd.lock import Held, lock
from cowshed.undo import Undo

BASE: Final = "cowshed-base_"
PART: Final = "cowshed-part_"
SNAPSHOT: Final = "base"
WAIT: Final = 3600.0  # seconds for somebody else's import
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


class RbdBases(BaseKeeping):
    """What the backend does with bases; ``pool`` is where new ones go."""

    @property
    def pool(self) -> Pool:
        raise NotImplementedError

    def find_base(self, name: str) -> Base | None:
        return self._base(_checked(name))

    def _base(self, name: str) -> Base | None:
        try:
            facts = self.pool.facts(BASE + name)
        except DiskNotFound:
            return None
        try:
            return Base(
                Path(),
                DiskFormat.RAW,
                int(facts["virtual_size"]),
                digest=str(facts["digest"]),
                image_id=str(facts["image_id"]),
                location=f"{self.pool.spec(BASE + name)}@{SNAPSHOT}",
                source_digest=str(facts["source_digest"]),
            )
        except (KeyError, ValueError, TypeError) as error:
            raise DataCorrupt(
                path=self.pool.spec(BASE + name),
                reason="it has the name of a base, but nothing says what it is",
                hint="rename it if it is somebody else's, or remove it",
            ) from error

    def add_base(self, name: str, image_id: str, fill: FillBase, *, progress: Progress = SILENT) -> Base:
        if base := self.find_base(name):
            return base
        with filling(self.pool, name, f"base {name}", progress) as held:
            if base := self._base(name):
                return base
            self._remove_parts(name)
            part = new_part(name)
            with Undo() as undo:
                undo.push("remove an unfinished base", self.pool.remove, part)
                content = filled(self.pool, part, fill)
                self.pool.note(
                    part,
                    virtual_size=content.virtual_size,
                    digest=content.digest,
                    image_id=image_id,
                    source_digest=content.source_digest,
                )
                self.pool.take(part, SNAPSHOT)
                progress.check()
                held.check()
                # A host that lost the lock a moment ago may have been quicker; its base is as good.
                with suppress(NameTaken):
                    self.pool.rename(part, BASE + name)
                    undo.drop()
                undo.run()
        base = self._base(name)
        if base is None:
            raise DataCorrupt(path=self.pool.spec(BASE + name), reason="it was removed the moment it was made")
        return base

    def _remove_parts(self, name: str) -> None:
        """Of killed imports: whoever made them would hold the lock. A client is missed for 30 s; never mind."""
        for part in self.pool.images(f"{PART}{name}_"):
            with suppress(Busy):
                self.pool.remove(part, patience=0)

    def bases(self) -> Sequence[KeptBase]:
        found = []
        for image in self.pool.images(BASE):
            name = image.removeprefix(BASE)
            with suppress(DiskNotFound, DataCorrupt):  # removed meanwhile; somebody else's
                if base := self._base(name):
                    users = len(self.pool.children(image, SNAPSHOT))
                    found.append(KeptBase(name, base, self.pool.allocated(image), users))
        return found

    def remove_base(self, name: str) -> None:
        """It loses its name first, so that nobody begins to stand on what is being removed."""
        part = new_part(_checked(name))
        try:
            self.pool.rename(BASE + name, part)
        except DiskNotFound:
            return
        except NoSpace:
            return self._make_room(BASE + name)
        children = self.pool.children(part, SNAPSHOT)
        if children:
            self.pool.rename(part, BASE + name)
            raise Busy(what=f"base {name}", holder=f"disk {children[0]}")
        self.pool.remove(part)

    def _make_room(self, image: str) -> None:
        """Remove a base that keeps its name, since a full pool refuses a new one; nobody can clone into it either."""
        with suppress(DiskNotFound, SnapshotNotFound):  # what an attempt before left has no snapshot any more
            self.pool.remove_snapshot(image, SNAPSHOT)
        self.pool.remove(image)

    # --- a base that is a local file ----------------------------------------------------------------

    def standing_on(self, base: Base, progress: Progress) -> tuple[Pool, str, str] | None:
        """(pool, image, snapshot) to clone for ``base``; imported when it is a file with a known digest."""
        if base.format != DiskFormat.RAW:
            raise InvalidRequest(reason=f"an RBD disk needs a raw base, not {base.format}")
        if not base.location and base.digest:
            name = "file-" + base.digest.replace(":", "-")
            base = self.add_base(name, base.image_id, lambda opened: from_file(base, opened, progress))
        if not base.location:
            return None
        where, _, snapshot = base.location.rpartition("@")
        spec = ImageSpec.parse(where)
        return self.pool_of(spec), spec.image, snapshot

    def pool_of(self, spec: ImageSpec) -> Pool:
        """The pool of an image in the same cluster."""
        return Pool(self.pool.cluster, spec.pool, spec.namespace)


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InvalidRequest(reason=f"{name!r} cannot be the name of a base")
    return name


def new_part(name: str) -> str:
    """A name nobody has had before, for what is not complete."""
    return f"{PART}{name}_{uuid.uuid4().hex[:12]}"


def owner_of(part: str) -> str:
    """What :func:`new_part` was called with."""
    return part.removeprefix(PART).rpartition("_")[0]


def filling(
    pool: Pool, key: str, what: str, progress: Progress = SILENT, *, timeout: float = WAIT
) -> AbstractContextManager[Held]:
    """Whoever makes parts of this key holds the lock, so that nobody takes them for leftovers."""
    return lock(pool, f"part.{key}", timeout=timeout, what=what, progress=progress)


def filled(pool: Pool, image: str, fill: FillBase) -> BaseContent:
    """Make ``image`` with what ``fill`` writes. What there is of it after an error is the caller's.

    :raises NoSpace: before anything is made, where the size is known
    """
    with ExitStack() as stack:
        sinks: list[RbdSink] = []

        def open_sink(size: int, data: int) -> RbdSink:
            pool.check_space(data)
            pool.create(image, size)
            opened: Any = stack.enter_context(pool.open(image, action="write"))
            seconds = pool.cluster.access.operation_timeout
            sinks.append(RbdSink(opened, size, str(pool.spec(image)), seconds=seconds))
            stack.callback(sinks[-1].close)
            return sinks[-1]

        content = fill(open_sink)
        for sink in sinks:
            sink.finish()
    return content


def from_file(base: Base, open_sink: OpenSink, progress: Progress) -> BaseContent:
    """The content of a base that is a raw file. :raises DigestMismatch: it is not what was recorded"""
    content = copied(base.path, base.virtual_size, open_sink, progress)
    if base.digest.startswith("crc32-2m:") and content.digest != base.digest:
        raise DigestMismatch(
            subject=f"base {base.path}",
            algorithm="crc32-2m",
            expected=base.digest.partition(":")[2],
            actual=content.digest.partition(":")[2],
            hint="remove the base; the next run fetches it again",
        )
    return BaseContent(base.virtual_size, base.digest, base.source_digest)


def copied(path: Path, size: int, open_sink: OpenSink, progress: Progress) -> BaseContent:
    """``size`` bytes of a raw file into what ``open_sink`` opens."""
    from cowshed.tools.transfer.layers import RawLayer
    from cowshed.tools.transfer.pump import pump

    with filesystem.errors_of(path, "read"):
        fd = filesystem.open_regular(path)
    try:
        data = min(os.fstat(fd).st_blocks * 512, size)
        progress.phase("import", size)
        sink = open_sink(size, data)
        try:
            pump(RawLayer(fd), sink, progress=progress, size=size)
        finally:
            sink.close()
        return BaseContent(size, sink.digest())
    finally:
        os.close(fd)
