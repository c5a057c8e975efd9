"""The cache: verified bases of images, made once per image and format.

    cache/
      <sha1 of the image id>           a raw base (the classic name)
      <sha1 of the image id>.qcow2     a base kept in its own format
      <name>.json                      its record: without it the base does not exist
      locks/<name>                     held while it is fetched or removed
      locks/<name>.use                 shared by those who are about to build on it

A base is published whole (record first, then the file), so a hit needs no lock: two small reads,
or none when this process has seen the same two inodes before. Its modification time is when it was
last used.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cowshed import clock, log
from cowshed.config import CacheSection
from cowshed.contract.callbacks import SILENT, Progress
from cowshed.contract.imaging import ImageService
from cowshed.errors import DataCorrupt, DigestMismatch, InvalidRequest, NotFound
from cowshed.images import origin
from cowshed.model.disk import Base, DiskFormat
from cowshed.model.image import Image
from cowshed.tools import filesystem, locks
from cowshed.tools import format as formats

_log = log.logger(__name__)

LOCKS, RECORD, FETCHING = "locks", ".json", ".fetch-"


def name_of(image_id: str, format: DiskFormat = DiskFormat.RAW) -> str:
    """The file name of the base of an image; the raw one is the classic API's."""
    name = hashlib.sha1(image_id.encode(), usedforsecurity=False).hexdigest()
    return name if format == DiskFormat.RAW else f"{name}.{format}"


@dataclass(frozen=True, slots=True)
class CachedBase:
    """``size`` of the file and ``allocated`` of the disk in bytes; ``used`` in seconds since the epoch."""

    name: str
    base: Base
    size: int
    allocated: int
    used: float


@dataclass(frozen=True, slots=True)
class _Known:
    """``source``: the digest of the stored image it was made from; ``size``: bytes of the file, 0: not recorded."""

    base: Base
    source: str
    size: int


class Cache:
    """Bases in ``root``; any number of threads and processes may share it."""

    def __init__(self, root: Path, section: CacheSection) -> None:
        self.root = root
        self.section = section
        self._seen: dict[str, tuple[tuple[int, ...], _Known]] = {}

    # --- get ----------------------------------------------------------------------------------

    def find(self, image_id: str, format: DiskFormat = DiskFormat.RAW) -> Base | None:
        """The base, if it is there; never fetches."""
        return self.lookup(name_of(image_id, format))

    def lookup(self, name: str) -> Base | None:
        """By file name.

        :raises DataCorrupt: its record cannot be read, or it has lost or won bytes
        """
        known = self._lookup(name)
        return known.base if known else None

    def _lookup(self, name: str) -> _Known | None:
        path = self.root / name
        try:
            facts, record = path.stat(), path.with_name(name + RECORD).stat()
        except FileNotFoundError:
            return None
        # Inodes are given again at once. The record's time tells a base that was made anew; the file's own is that of its use.
        identity = (facts.st_dev, facts.st_ino, facts.st_size, record.st_ino, record.st_mtime_ns)
        if (seen := self._seen.get(name)) and seen[0] == identity:
            return seen[1]
        if known := self._record(path):
            _check_length(path, facts.st_size, known.size)
            self._seen[name] = (identity, known)
        return known

    def _record(self, path: Path) -> _Known | None:
        record = path.with_name(path.name + RECORD)
        try:
            data: dict[str, Any] = json.loads(record.read_text())
            base = Base(path, DiskFormat(data["format"]), data["virtual_size"], data["digest"], data["image_id"])
            return _Known(base, str(data.get("source_digest", "")), int(data.get("size", 0)))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataCorrupt(
                path=record, reason=f"the record cannot be read: {error}", hint=f"remove it and {path}"
            ) from error

    def get(
        self,
        image: Image,
        service: ImageService,
        *,
        format: DiskFormat = DiskFormat.RAW,
        digest: str = "",
        progress: Progress = SILENT,
    ) -> Base:
        """The base of ``image``, fetched if it is not there; however many ask, one fetches.

        :param format: raw, or the image's own format to keep it as it is
        :param digest: what the base must have, because disks stand on it already; another one is not kept
        :raises Busy: another's fetch of the same image takes longer than the section allows
        :raises ImageRejected: :raises NoSpace:
        :raises DigestMismatch: what was fetched, now or when the base was made, is not what the image's record says
        """
        keep = format != DiskFormat.RAW
        if keep and format != image.disk_format:
            raise InvalidRequest(reason=f"image {image.name or image.id} is {image.disk_format}, not {format}")
        name = name_of(image.id, format)

        def fetch(fd: int) -> dict[str, Any]:
            from cowshed.images.fetch import fill
            from cowshed.tools.transfer import into_file

            target = into_file(fd, self.root)
            found, copied = fill(image, service, target, self.root, keep_format=keep, progress=progress)
            _check_digest(name, digest, copied.digest)
            return {
                "format": str(format),
                "virtual_size": found.virtual_size,
                "digest": copied.digest,
                "image_id": image.id,
                "source_digest": origin.source_digest(image, copied.source_digest),
                "source_verified": bool(image.os_hash_value),
            }

        base = self._get(name, fetch, f"the base of image {image.name or image.id}")
        _check_digest(name, digest, base.digest)
        known = self._lookup(name)
        origin.check(f"the cached base {name}", image, known.source if known else "")
        return base

    def adopt(self, base: Base, write: Callable[[int], object]) -> Base:
        """A base of another host's cache, as it is there; ``write`` puts its bytes into the empty file it is given.

        :param base: what the other host knows of it; its ``path`` names it. ``virtual_size`` 0: the size of the file
        """
        name = base.path.name

        def fill(fd: int) -> dict[str, Any]:
            write(fd)
            return {
                "format": str(base.format),
                "virtual_size": base.virtual_size or os.fstat(fd).st_size,
                "digest": base.digest,
                "image_id": base.image_id,
                "source_digest": base.source_digest,
                "source_verified": False,
            }

        return self._get(name, fill, f"the base {name}")

    def make(
        self,
        name: str,
        fetch: Callable[[Path], object],
        *,
        format: DiskFormat | None = None,
        image_id: str = "",
        what: str = "",
    ) -> Base:
        """The base called ``name``, made by ``fetch`` if it is not there (the classic way).

        ``fetch`` writes to the path it is given: a file of this name in a folder of its own. What
        it wrote is inspected like any image.

        :param format: what it will be; None: detected
        """
        if "/" in name or name.startswith(".") or name == LOCKS:
            raise InvalidRequest(reason=f"{name!r} cannot be the name of a base")

        def run(fd: int) -> dict[str, Any]:
            return self._made(name, fetch, format, image_id, fd)

        return self._get(name, run, what or f"base {name}")

    def _made(
        self, name: str, fetch: Callable[[Path], object], format: DiskFormat | None, image_id: str, target: int
    ) -> dict[str, Any]:
        from cowshed.tools import transfer

        folder = self.root / f"{FETCHING}{name}"
        folder.mkdir(mode=0o700)
        try:
            fetch(folder / name)
            source = filesystem.open_regular(folder / name)
            try:
                found = formats.inspect(source, image=name, declared=format, allowed=tuple(DiskFormat))
                copied = transfer.fetch(source, transfer.into_file(target, self.root), found, keep_format=True)
            finally:
                os.close(source)
        except FileNotFoundError:
            raise NotFound(kind="fetched file", name=folder / name) from None
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        kept = found.format if found.format in (DiskFormat.QCOW2, DiskFormat.PLOOP) else DiskFormat.RAW
        return {
            "format": str(kept),
            "virtual_size": found.virtual_size,
            "digest": copied.digest,
            "image_id": image_id,
            "source_digest": f"sha256:{copied.source_digest}",
            "source_verified": False,
        }

    def _get(self, name: str, fill: Callable[[int], dict[str, Any]], what: str) -> Base:
        if base := self.lookup(name):
            self.touch(name)
            return base
        filesystem.make_directory(self.root / LOCKS)
        with locks.lock(self.root / LOCKS / name, timeout=self.section.lock_timeout, what=what):
            if base := self.lookup(name):
                return base
            self._remove_leftovers(name)
            path = self.root / name
            with filesystem.publish(path, mode=0o444) as publication:
                record = {**fill(publication.fd), "version": 1, "made": clock.current().time()}
                record["size"] = os.fstat(publication.fd).st_size
                filesystem.remove_file(path)  # one without a record; disks may stand on it, so it goes no sooner
                filesystem.write_atomically(path.with_name(name + RECORD), json.dumps(record).encode(), mode=0o444)
        base = self.lookup(name)
        if base is None:
            raise DataCorrupt(path=path, reason="it was removed the moment it was made")
        return base

    def _remove_leftovers(self, name: str) -> None:
        """Of a killed fetch of this base; whoever made them would hold the lock."""
        for path in self.root.glob(f".{name}.*{filesystem.PART}"):
            filesystem.remove_file(path)
        shutil.rmtree(self.root / f"{FETCHING}{name}", ignore_errors=True)

    # --- use ----------------------------------------------------------------------------------

    @contextmanager
    def using(self, name: str) -> Iterator[None]:
        """The base ``name`` is not removed during the block; hold it until a manifest names the base."""
        with locks.lock(self.root / LOCKS / f"{name}.use", shared=True, timeout=60, what=f"base {name}"):
            yield

    def touch(self, name: str) -> None:
        """It was used now. Somebody else's read-only cache is used all the same."""
        with suppress(OSError):
            os.utime(self.root / name)

    # --- look after ---------------------------------------------------------------------------

    def bases(self) -> list[CachedBase]:
        """All complete bases, least recently used first; one whose record is damaged is left out (and logged)."""
        found = []
        for record in sorted(self.root.glob(f"[!.]*{RECORD}")):
            path = record.with_name(record.name.removesuffix(RECORD))
            with suppress(FileNotFoundError):
                facts = path.stat()
                if known := self._known(path):
                    found.append(
                        CachedBase(path.name, known.base, facts.st_size, facts.st_blocks * 512, facts.st_mtime)
                    )
        return sorted(found, key=lambda cached: cached.used)

    def _known(self, path: Path) -> _Known | None:
        """One damaged record hides no other base."""
        try:
            return self._record(path)
        except DataCorrupt as error:
            _log.warning("%s", error)
            return None

    def verify(self, base: Base, *, progress: Progress = SILENT) -> None:
        """Read the whole base again. :raises DigestMismatch: its bytes have changed"""
        from cowshed.tools.transfer import digest_of

        progress.phase("verify", base.path.stat().st_size)
        actual = digest_of(base.path, progress=progress)
        if actual != base.digest:
            algorithm, _, expected = base.digest.partition(":")
            raise DigestMismatch(
                subject=f"base {base.path.name}",
                algorithm=algorithm,
                expected=expected,
                actual=actual.partition(":")[2],
                hint="disks on it are damaged too; remove it, and the next run fetches it again",
            )

    @contextmanager
    def removing(self, name: str) -> Iterator[None]:
        """Nobody fetches or begins to use the base ``name`` during the block.

        :raises Busy: somebody does just now
        """
        with (
            locks.lock(self.root / LOCKS / name, timeout=0, what=f"base {name}"),
            locks.lock(self.root / LOCKS / f"{name}.use", timeout=0, what=f"base {name}"),
        ):
            yield

    def remove(self, name: str) -> None:
        """Remove a base that no disk uses (the caller knows); call it inside :meth:`removing`."""
        self._seen.pop(name, None)
        filesystem.remove_file(self.root / name)
        filesystem.remove_file(self.root / f"{name}{RECORD}")


def _check_digest(name: str, wanted: str, actual: str) -> None:
    if wanted and actual != wanted:
        algorithm, _, expected = wanted.partition(":")
        raise DigestMismatch(
            subject=f"base {name}", algorithm=algorithm, expected=expected, actual=actual.partition(":")[2]
        )


def _check_length(path: Path, size: int, recorded: int) -> None:
    if recorded and size != recorded:
        raise DataCorrupt(
            path=path,
            reason=f"it has {size} bytes instead of {recorded}",
            hint=f"disks on it are damaged too; remove it and {path.name}{RECORD}, and the next run fetches it again",
        )
