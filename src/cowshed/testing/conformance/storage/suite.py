"""What every promise of a disk backend is tried with, and what a suite for a special place may replace."""

from __future__ import annotations

import hashlib
import itertools
import os
import tempfile
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cowshed.contract.storage import Backend, BaseKeeping, Disk, FillBase, OpenSink
from cowshed.model.disk import Base, DiskFormat, DiskSource, DiskType
from cowshed.units import MiB

SIZE: Final = 8 * MiB  # of the base: data, a hole, data, a hole
DATA: Final = MiB + MiB // 2  # bytes of it that are data
_PATTERN: Final = bytes(range(1, 256))


class StorageSuite:
    """Set before each test:

    * ``backend``: the backend, with no disks in it (bases of an earlier test do no harm);
    * ``place``: an empty directory for bases and for what is extracted.
    """

    backend: Backend
    place: Path

    # --- what a suite for a special place may replace -------------------------------------------

    def base(self, name: str = "base") -> Base:
        """A base as the backend wants it, made once; its content is :meth:`expected`.

        A backend that keeps bases itself has it under ``conformance-<name>``.
        """
        path = self.base_file(name)
        if isinstance(self.backend, BaseKeeping):
            return self.backend.add_base(f"conformance-{name}", "conformance", self.fill(path))
        return Base(path, DiskFormat.RAW, SIZE, digest=f"sha256:{digest_of(path)}", image_id="conformance")

    def expected(self) -> bytes:
        """The content of a base."""
        return data(MiB) + bytes(4 * MiB) + data(MiB // 2) + bytes(SIZE - 5 * MiB - MiB // 2)

    def content(self, disk: Disk) -> bytes:
        """All bytes of ``disk``."""
        return self.read(self.extracted(disk, DiskFormat.RAW), DiskFormat.RAW)

    def write(self, disk: Disk, offset: int, content: bytes) -> None:
        """What a guest would do: ``disk`` is made ready, written to through its source, and let go."""
        disk.activate()
        try:
            _write_with_qemu_io(disk.source(), offset, content)
        finally:
            disk.deactivate()

    def used(self) -> int:
        """Bytes the storage holds for all disks, bases and snapshots now; what is shared counts once.

        To be replaced where others use the same storage, or where its own figure comes late.
        """
        os.sync()
        return self.backend.capacity().used

    def preallocating(self) -> Backend | None:
        """The same backend, configured to take all the space of a disk when it is made; None: it has no such option."""
        return None

    # --- tools ----------------------------------------------------------------------------------

    def disk(self, name: str = "disk") -> Disk:
        """A handle for a disk of a new instance."""
        return self.backend.disk(str(uuid.uuid4()), name)

    def again(self, disk: Disk) -> Disk:
        """Another handle for the same disk."""
        return self.backend.disk(disk.instance, disk.name)

    def nothing_of(self, disk: Disk) -> None:
        assert not disk.exists()
        assert list(self.backend.disks(disk.instance)) == []

    def base_file(self, name: str = "base") -> Path:
        """A raw file with the content of a base, which nobody writes to."""
        path = self.place / name
        if not path.exists():
            with path.open("wb") as file:
                file.write(data(MiB))
                file.seek(5 * MiB)
                file.write(data(MiB // 2))
                file.truncate(SIZE)
            path.chmod(0o444)
        return path

    def fill(self, path: Path) -> FillBase:
        """Fills a kept base with the raw file ``path``."""
        from cowshed.contract.callbacks import SILENT
        from cowshed.contract.storage import BaseContent
        from cowshed.tools.transfer.layers import RawLayer
        from cowshed.tools.transfer.pump import pump

        def fill(open_sink: OpenSink) -> BaseContent:
            with path.open("rb") as file:
                layer = RawLayer(file.fileno())
                sink = open_sink(layer.size, DATA)
                try:
                    pump(layer, sink, progress=SILENT)
                finally:
                    sink.close()
                return BaseContent(layer.size, sink.digest(), f"sha256:{digest_of(path)}")

        return fill

    def target(self) -> Path:
        """A path in ``place`` where nothing is."""
        numbered = (self.place / f"extracted-{number}" for number in itertools.count())
        return next(path for path in numbered if not path.exists())

    def extracted(self, disk: Disk, format: DiskFormat, *, compress: bool = False) -> Path:
        target = self.target()
        disk.extract(target, format, compress=compress)
        return target

    def read(self, path: Path, format: DiskFormat) -> bytes:
        """The content of a standalone file, which is removed. qcow2 is read by qemu-img, not by us."""
        from cowshed.tools.run import run

        raw = path
        if format == DiskFormat.QCOW2:
            raw = path.with_name(path.name + ".raw")
            run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, raw], timeout=60)
            path.unlink()
        content = raw.read_bytes()
        raw.unlink()
        return content


def _write_with_qemu_io(source: DiskSource, offset: int, content: bytes) -> None:
    from cowshed.tools.qemu_img import DRIVER
    from cowshed.tools.run import run

    assert source.type in (DiskType.FILE, DiskType.BLOCK), f"write() of the suite knows no {source.protocol}"
    assert source.encryption is None, "write() of the suite has no keys"
    with tempfile.NamedTemporaryFile(prefix="cowshed-") as pattern:
        pattern.write(content)
        pattern.flush()
        command = f"write -s {pattern.name} {offset} {len(content)}"
        run(["qemu-io", "-f", DRIVER[source.format], "-c", command, str(source.path)], timeout=60)


def data(size: int, seed: int = 1) -> bytes:
    """``size`` bytes none of whose blocks are zero; another ``seed`` gives others."""
    pattern = _PATTERN[seed:] + _PATTERN[:seed]
    return (pattern * (size // len(pattern) + 1))[:size]


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def at_once(call: Callable[[int], object], count: int) -> list[BaseException]:
    """What ``count`` threads that begin together raise."""
    barrier, errors = threading.Barrier(count), []

    def work(number: int) -> None:
        barrier.wait()
        try:
            call(number)
        except BaseException as error:  # noqa: BLE001 - the suite looks at it
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors
