"""Bring an image into the store: one pass over its bytes, judged before anything may use it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO, Final

from cowshed import log
from cowshed.config import ImagesSection
from cowshed.contract.callbacks import SILENT, Progress
from cowshed.errors import DigestMismatch, FetchFailed, Interrupted, InvalidRequest
from cowshed.images import record, unpack
from cowshed.images.http import HttpSource
from cowshed.images.incoming import Incoming
from cowshed.images.intake import CHUNK, OPAQUE, Intake, Taken, allowed, disk_format
from cowshed.images.partial import Partial, Validator
from cowshed.images.record import default_name
from cowshed.images.sources import LocalSource, open_source
from cowshed.model.disk import DiskFormat
from cowshed.model.image import Image
from cowshed.tools import checksum, filesystem, reflink, sparse
from cowshed.tools import format as formats

if TYPE_CHECKING:
    from cowshed.images.directory import DirectoryService

__all__ = ["default_name", "pull", "store_stream"]

_log = log.logger(__name__)

_NOTHING: Final[Mapping[str, str]] = {}


def pull(
    service: DirectoryService,
    source: str,
    *,
    name: str | None = None,
    format: DiskFormat | None = None,
    digest: str | None = None,
    properties: Mapping[str, str] = _NOTHING,
    min_disk: int = 0,
    progress: Progress = SILENT,
) -> Image:
    """Store what lies at ``source``: a path, a ``file://``, ``http://`` or ``https://`` URL.

    gzip, xz and zstd wrappers are unpacked. What the web sent so far is kept when a download
    breaks, and a later pull of the same URL goes on from there.

    :param name: default: from the file name
    :param format: the declared format; None: the one that is found is recorded
    :param digest: ``sha256:<hex>`` or ``sha512:<hex>`` over the bytes as they are downloaded
    :param min_disk: bytes a disk made from it must have at least
    :raises NameTaken: before anything is read
    :raises ImageRejected: it is unsafe, damaged or not what it claims to be
    :raises DigestMismatch: :raises FetchFailed: :raises NoSpace: :raises NotFound: :raises InvalidRequest:
    :raises Interrupted: the user said stop
    """
    algorithm, expected = checksum.parse(digest) if digest else ("sha256", "")
    if min_disk < 0:
        raise InvalidRequest(reason="min_disk is a number of bytes, 0 or more")
    name = record.check_name(name) if name is not None else default_name(source)
    opened = open_source(source, service.section)
    image = Image(
        id="",
        name=name,
        disk_format=format or DiskFormat.RAW,
        properties={str(key): str(value) for key, value in properties.items()},
        min_disk=min_disk,
        source=opened.url,
    )
    try:
        with service.incoming(image) as place:
            job = _Job(service, place, format, algorithm, expected, progress)
            return job.download(opened) if isinstance(opened, HttpSource) else job.copy(opened)
    finally:
        if isinstance(opened, LocalSource):
            opened.close()


def store_stream(service: DirectoryService, image: Image, source: BinaryIO, *, progress: Progress = SILENT) -> Image:
    """The service's ``upload``: bytes are stored as they come; ``image.disk_format`` is declared."""
    with service.incoming(image) as place:
        job = _Job(service, place, image.disk_format, "sha256", "", progress)
        return job.take(source)


class _Job:
    """One image on its way into ``place``."""

    def __init__(
        self,
        service: DirectoryService,
        place: Incoming,
        declared: DiskFormat | None,
        algorithm: str,
        expected: str,
        progress: Progress,
    ) -> None:
        self._service = service
        self._place = place
        self._declared = declared
        self._algorithm = algorithm
        self._expected = expected
        self._progress = progress
        self._subject = place.image.name or place.image.id

    @property
    def _section(self) -> ImagesSection:
        return self._service.section

    def _intake(self, *, spool: int | None = None, wrapped: bool = True) -> Intake:
        return Intake(
            self._place.fd,
            image=self._subject,
            declared=self._declared,
            section=self._section,
            algorithm=self._algorithm,
            spool=spool,
            wrapped=wrapped,
        )

    # --- from the web -------------------------------------------------------------------------

    def download(self, source: HttpSource) -> Image:
        partial = Partial(self._service.partials, source.key)
        resumed = partial.size > 0
        try:
            with filesystem.errors_of(partial.path, "write"):
                return self._through(partial, source)
        except DigestMismatch:
            if not resumed:
                raise
            _log.warning("the resumed download of %s has the wrong digest; starting anew", source.url)
        finally:
            partial.close()
        return self.download(source)

    def _through(self, partial: Partial, source: HttpSource) -> Image:
        intake = self._intake(spool=partial.fd)

        def begin(start: int, validator: Validator) -> None:
            if start == 0:
                partial.restart(validator)
            if validator.size is not None:
                filesystem.check_space(self._service.root, validator.size - start)
            intake.begin(start)

        try:
            for data in source.chunks(partial.size, partial.validator, begin, self._progress):
                self._progress.check()
                intake.feed(data)
                self._progress.update(len(data))
            taken = intake.finish()
            image = self._judge(taken)
            self._take_over(partial, taken)
        except (FetchFailed, Interrupted, KeyboardInterrupt) as error:
            raise _stopped(error, source.url, kept=_kept(intake, partial)) from error
        except BaseException:
            partial.discard()
            raise
        finally:
            intake.close()
        return self._service.publish(self._place, image)

    def _take_over(self, partial: Partial, taken: Taken) -> None:
        """The partial file has done its work: it becomes the data, or was unpacked."""
        if taken.wrapper:
            partial.discard()
            return
        partial.forget()
        self._place.adopt(partial.path, partial.fd)

    # --- from this host -----------------------------------------------------------------------

    def copy(self, source: LocalSource) -> Image:
        with filesystem.errors_of(self._place.data, "write"):
            if self._declared not in OPAQUE and unpack.wrapper(os.pread(source.fd, unpack.MAGIC_LENGTH, 0)):
                taken = self._unpack(source)
            else:
                self._inspect(source.fd)  # a refusal costs no copy
                taken = self._clone(source)
            source.check_unchanged()
            image = self._judge(taken)
        return self._service.publish(self._place, image)

    def _unpack(self, source: LocalSource) -> Taken:
        self._progress.phase("unpack", source.size)
        intake = self._intake()
        try:
            self._feed(intake, source.fd, 0, source.size)
            return intake.finish()
        finally:
            intake.close()

    def _clone(self, source: LocalSource) -> Taken:
        """Share the blocks where the file system can; else copy data and keep holes. Hashed in the same pass."""
        self._progress.phase("copy", source.size)
        shared = reflink.clone(source.fd, self._place.fd)
        if not shared:
            filesystem.check_space(self._service.root, source.allocated)
        intake = self._intake(wrapped=False, spool=self._place.fd if shared else None)
        try:
            if shared:
                source.check_unchanged()
                intake.begin(source.size)  # reads what is there now: the very bytes that are stored
                self._progress.update(source.size)
            else:
                self._feed(intake, source.fd, 0, source.size, holes=True)
            return intake.finish()
        finally:
            intake.close()

    def _feed(self, intake: Intake, fd: int, offset: int, end: int, *, holes: bool = False) -> None:
        for start, length in sparse.extents(fd, end) if holes else [(offset, end - offset)]:
            if start > offset:
                intake.hole(start - offset)
                self._progress.update(start - offset)
            offset, stop = start, start + length
            while offset < stop:
                self._progress.check()
                data = os.pread(fd, min(CHUNK, stop - offset), offset)
                if not data:
                    return  # it became shorter: check_unchanged() says so
                intake.feed(data)
                offset += len(data)
                self._progress.update(len(data))
        if offset < end:
            intake.hole(end - offset)
            self._progress.update(end - offset)

    # --- from a stream ------------------------------------------------------------------------

    def take(self, source: BinaryIO) -> Image:
        self._progress.phase("upload", self._place.image.size or None)
        intake = self._intake(wrapped=False)
        try:
            with filesystem.errors_of(self._place.data, "write"):
                while data := source.read(CHUNK):
                    self._progress.check()
                    intake.feed(data)
                    self._progress.update(len(data))
                image = self._judge(intake.finish())
        finally:
            intake.close()
        return self._service.publish(self._place, image)

    # --- judge --------------------------------------------------------------------------------

    def _judge(self, taken: Taken) -> Image:
        """The record of what came in. :raises DigestMismatch: :raises ImageRejected:"""
        if self._expected:
            checksum.check(f"image {self._subject}", self._algorithm, self._expected, taken.source_digest)
        self._progress.phase("inspect")
        found = self._inspect(taken.fd)
        properties = dict(self._place.image.properties)
        if taken.wrapper or taken.algorithm != taken.stored_algorithm:
            properties[record.SOURCE_DIGEST] = f"{taken.algorithm}:{taken.source_digest}"
        return replace(
            self._place.image,
            disk_format=self._declared if self._declared in (*OPAQUE, DiskFormat.AMI) else found.format,
            virtual_size=found.virtual_size,
            os_hash_algo=taken.stored_algorithm,
            os_hash_value=taken.stored_digest,
            properties=properties,
        )

    def _inspect(self, fd: int) -> formats.Inspection:
        if self._declared in OPAQUE:
            assert self._declared is not None
            size = os.fstat(fd).st_size
            return formats.Inspection(self._declared, size, size)
        return formats.inspect(
            fd,
            image=self._subject,
            declared=disk_format(self._declared),
            allowed=allowed(self._section),
            max_virtual_size=self._section.max_virtual_size,
        )


def _kept(intake: Intake, partial: Partial) -> bool:
    """Keep what came for the next pull, if it is of use."""
    try:
        intake.flush()
        return partial.keep()
    except OSError as error:
        _log.warning("the partial download is not kept: %s", error)
        partial.discard()
        return False


def _stopped(error: BaseException, url: str, *, kept: bool) -> BaseException:
    """The same error, with what became of the bytes so far."""
    hint = "what came is kept: the same command goes on from there" if kept else None
    if isinstance(error, FetchFailed):
        return FetchFailed(url=error.url, reason=error.reason, hint=hint or error.hint)
    return Interrupted(what=f"downloading {url}", hint=hint)
