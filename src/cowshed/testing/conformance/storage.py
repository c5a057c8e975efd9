"""What every disk backend promises (contract/storage.py)."""

from __future__ import annotations

import hashlib
import itertools
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

from cowshed.contract.storage import Backend, Disk, Importing, Snapshotting
from cowshed.errors import CowshedError, DiskNotFound, DiskTooSmall, Interrupted, InvalidRequest, NameTaken, NotFound
from cowshed.model.disk import Base, DiskFormat, DiskSource, DiskType
from cowshed.testing.conformance.expect import refuses
from cowshed.units import MiB

SIZE = 8 * MiB  # of the base: data, a hole, data, a hole
_PATTERN = bytes(range(1, 256))


class BackendConformance:
    """Set before each test:

    * ``backend``: the backend, with no disks in it;
    * ``place``: an empty directory for bases and for what is extracted.
    """

    backend: Backend
    place: Path

    # --- what a suite for a special place may replace -------------------------------------------

    def base(self, name: str = "base") -> Base:
        """A base in the format the backend wants; its content is :meth:`expected`."""
        path = self.place / name
        if not path.exists():
            self._write_base(path)
            path.chmod(0o444)
        return Base(path, DiskFormat.RAW, SIZE, digest=f"sha256:{_digest(path)}", image_id="conformance")

    def _write_base(self, path: Path) -> None:
        with path.open("wb") as file:
            file.write(_data(MiB))
            file.seek(5 * MiB)
            file.write(_data(MiB // 2))
            file.truncate(SIZE)

    def expected(self) -> bytes:
        return _data(MiB) + bytes(4 * MiB) + _data(MiB // 2) + bytes(SIZE - 5 * MiB - MiB // 2)

    def content(self, disk: Disk) -> bytes:
        """All bytes of ``disk``."""
        return self._read(self._extracted(disk, DiskFormat.RAW), DiskFormat.RAW)

    # --- a disk comes into being ----------------------------------------------------------------

    def test_a_handle_makes_nothing(self) -> None:
        disk = self._disk()
        assert not disk.exists()
        assert list(self.backend.disks(disk.instance)) == []

    def test_a_blank_disk_reads_as_zeros(self) -> None:
        disk = self._disk()
        disk.create(4 * MiB)
        assert disk.exists()
        assert disk.info().virtual_size == 4 * MiB
        assert self.content(disk) == bytes(4 * MiB)

    def test_a_disk_from_a_base_has_its_content(self) -> None:
        disk = self._disk()
        disk.create(0, self.base())
        assert disk.info().virtual_size == SIZE
        assert self.content(disk) == self.expected()

    def test_a_disk_larger_than_its_base_goes_on_with_zeros(self) -> None:
        disk = self._disk()
        disk.create(SIZE + 3 * MiB, self.base())
        assert disk.info().virtual_size == SIZE + 3 * MiB
        assert self.content(disk) == self.expected() + bytes(3 * MiB)

    def test_the_base_is_left_as_it_is(self) -> None:
        base = self.base()
        before = (_digest(base.path), base.path.stat().st_mtime_ns)
        disk = self._disk()
        disk.create(SIZE + MiB, base)
        disk.resize(SIZE + 2 * MiB)
        disk.delete()
        assert (_digest(base.path), base.path.stat().st_mtime_ns) == before

    def test_two_disks_of_one_base_do_not_know_each_other(self) -> None:
        first, second = self._disk(), self._disk()
        first.create(0, self.base())
        second.create(SIZE + MiB, self.base())
        first.delete()
        assert self.content(second) == self.expected() + bytes(MiB)

    def test_what_was_made_is_found_through_another_handle(self) -> None:
        disk = self._disk()
        disk.create(2 * MiB)
        again = self.backend.disk(disk.instance, disk.name)
        assert again.exists()
        assert again.info().virtual_size == 2 * MiB

    def test_the_disks_of_an_instance_are_listed(self) -> None:
        instance, other = str(uuid.uuid4()), self._disk()
        other.create(MiB)
        for name in ("disk", "disk.eph0", "disk.swap"):
            self.backend.disk(instance, name).create(MiB)
        assert sorted(disk.name for disk in self.backend.disks(instance)) == ["disk", "disk.eph0", "disk.swap"]
        assert [disk.name for disk in self.backend.disks(other.instance)] == [other.name]

    # --- a disk is refused ----------------------------------------------------------------------

    def test_smaller_than_the_base_is_refused_before_anything_is_made(self) -> None:
        disk = self._disk()
        with refuses(DiskTooSmall):
            disk.create(SIZE - MiB, self.base())
        self._nothing_of(disk)

    def test_no_size_is_refused(self) -> None:
        for size in (0, -1):
            disk = self._disk()
            with refuses(InvalidRequest):
                disk.create(size)
            self._nothing_of(disk)

    def test_a_base_of_a_wrong_format_is_refused(self) -> None:
        base, disk = self.base(), self._disk()
        with refuses(InvalidRequest):
            disk.create(0, Base(base.path, DiskFormat.PLOOP, base.virtual_size))
        self._nothing_of(disk)

    def test_a_base_that_is_gone_leaves_nothing_and_a_retry_works(self) -> None:
        disk = self._disk()
        with refuses(CowshedError):
            disk.create(0, Base(self.place / "nowhere", DiskFormat.RAW, SIZE))
        self._nothing_of(disk)
        disk.create(0, self.base())
        assert self.content(disk) == self.expected()

    def test_an_existing_disk_is_never_taken_over(self) -> None:
        disk = self._disk()
        disk.create(0, self.base())
        with refuses(NameTaken):
            disk.create(16 * MiB)
        with refuses(NameTaken):
            disk.create(0, self.base())
        assert self.content(disk) == self.expected()

    def test_names_that_lead_elsewhere_are_refused(self) -> None:
        instance = str(uuid.uuid4())
        for name in ("", ".", "..", "../disk", "a/b", "/etc/passwd", "disk\n", "-disk"):
            with refuses(InvalidRequest):
                self.backend.disk(instance, name).create(MiB)
        for wrong in ("", "..", "../" + instance, "a/b"):
            with refuses(InvalidRequest):
                self.backend.disk(wrong, "disk").create(MiB)

    def test_an_interrupted_create_leaves_nothing(self) -> None:
        disk = self._disk()
        try:
            disk.create(0, self.base(), progress=_Stopped())
        except Interrupted:
            self._nothing_of(disk)
            disk.create(0, self.base())
        assert self.content(disk) == self.expected()  # quicker than it could be stopped, or made by the retry

    # --- a disk grows ---------------------------------------------------------------------------

    def test_growing_keeps_the_content(self) -> None:
        disk = self._disk()
        disk.create(0, self.base())
        disk.resize(SIZE + 5 * MiB)
        assert disk.info().virtual_size == SIZE + 5 * MiB
        assert self.content(disk) == self.expected() + bytes(5 * MiB)

    def test_the_same_size_is_success(self) -> None:
        disk = self._disk()
        disk.create(2 * MiB)
        disk.resize(2 * MiB)
        assert disk.info().virtual_size == 2 * MiB

    def test_a_disk_is_never_cut(self) -> None:
        disk = self._disk()
        disk.create(0, self.base())
        with refuses(DiskTooSmall):
            disk.resize(SIZE - MiB)
        assert disk.info().virtual_size == SIZE
        assert self.content(disk) == self.expected()

    # --- a disk goes ----------------------------------------------------------------------------

    def test_deleting_may_be_repeated(self) -> None:
        disk = self._disk()
        disk.delete()
        disk.create(MiB)
        disk.delete()
        disk.delete()
        self._nothing_of(disk)

    def test_a_deleted_disk_can_be_made_anew(self) -> None:
        disk = self._disk()
        disk.create(0, self.base())
        disk.delete()
        disk.create(2 * MiB)
        assert self.content(disk) == bytes(2 * MiB)

    def test_one_disk_of_an_instance_goes_alone(self) -> None:
        instance = str(uuid.uuid4())
        root, swap = self.backend.disk(instance, "disk"), self.backend.disk(instance, "disk.swap")
        root.create(0, self.base())
        swap.create(MiB)
        swap.delete()
        assert self.content(root) == self.expected()
        assert [disk.name for disk in self.backend.disks(instance)] == ["disk"]

    def test_what_is_not_there_is_said_to_be_missing(self) -> None:
        disk = self._disk()
        target = self.place / "target"
        calls: list[Callable[[], object]] = [
            lambda: disk.resize(MiB),
            disk.info,
            disk.source,
            lambda: disk.extract(target, DiskFormat.RAW),
        ]
        for call in calls:
            with refuses(DiskNotFound) as caught:
                call()
            assert isinstance(caught.error, NotFound)
        assert not target.exists()

    # --- a disk is taken out --------------------------------------------------------------------

    def test_extracting_to_every_format_gives_the_same_content(self) -> None:
        disk = self._disk()
        disk.create(SIZE + MiB, self.base())
        expected = self.expected() + bytes(MiB)
        for kind, compress in ((DiskFormat.RAW, False), (DiskFormat.QCOW2, False), (DiskFormat.QCOW2, True)):
            assert self._read(self._extracted(disk, kind, compress=compress), kind) == expected

    def test_extracting_does_not_change_the_disk(self) -> None:
        disk = self._disk()
        disk.create(0, self.base())
        before = disk.info().virtual_size
        self._extracted(disk, DiskFormat.QCOW2)
        assert disk.info().virtual_size == before
        assert self.content(disk) == self.expected()

    def test_a_raw_file_cannot_be_compressed(self) -> None:
        disk = self._disk()
        disk.create(0, self.base())
        target = self.place / "target"
        with refuses(InvalidRequest):
            disk.extract(target, DiskFormat.RAW, compress=True)
        assert not target.exists()

    def test_an_extract_to_nowhere_leaves_nothing(self) -> None:
        disk = self._disk()
        disk.create(0, self.base())
        with refuses(CowshedError, OSError):
            disk.extract(self.place / "missing" / "target", DiskFormat.RAW)
        assert not (self.place / "missing").exists()

    # --- many at once ---------------------------------------------------------------------------

    def test_disks_made_at_once_are_all_there(self) -> None:
        instance, base = str(uuid.uuid4()), self.base()
        errors = _at_once(lambda number: self.backend.disk(instance, f"disk.eph{number}").create(0, base), 8)
        assert errors == []
        disks = self.backend.disks(instance)
        assert len(disks) == 8
        assert all(self.content(disk) == self.expected() for disk in disks)

    def test_one_of_many_makes_a_disk(self) -> None:
        disk, base = self._disk(), self.base()
        errors = _at_once(lambda _: self.backend.disk(disk.instance, disk.name).create(0, base), 8)
        assert [type(error) for error in errors] == [NameTaken] * 7
        assert self.content(disk) == self.expected()

    def test_one_of_many_deletes_a_disk_and_nobody_fails(self) -> None:
        disk = self._disk()
        disk.create(MiB)
        assert _at_once(lambda _: self.backend.disk(disk.instance, disk.name).delete(), 8) == []
        self._nothing_of(disk)

    # --- what it says of itself -----------------------------------------------------------------

    def test_capacity_adds_up(self) -> None:
        capacity = self.backend.capacity()
        assert 0 <= capacity.free <= capacity.total
        assert 0 <= capacity.used <= capacity.total

    def test_the_source_names_its_format(self) -> None:
        disk = self._disk()
        disk.create(0, self.base())
        source = disk.source()
        assert source.format == disk.format == self.backend.traits.disk_format
        assert source.path if source.type in (DiskType.FILE, DiskType.BLOCK) else source.protocol
        parent: DiskSource | None = source.backing
        if disk.info().backing_path:
            assert parent is not None, "a parent without a format would be probed"
            assert parent.format == disk.info().backing_format

    def test_it_does_what_its_traits_announce(self) -> None:
        traits, disk = self.backend.traits, self._disk()
        assert traits.name
        assert isinstance(disk, Snapshotting) == traits.snapshots
        assert isinstance(disk, Importing) == traits.importing

    def test_a_file_is_taken_over(self) -> None:
        disk = self._disk()
        if not isinstance(disk, Importing):
            return
        path = self.place / "ready"
        path.write_bytes(self.expected())
        disk.import_file(path)
        assert not path.exists()
        assert self.content(disk) == self.expected()
        path.write_bytes(bytes(MiB))
        with refuses(NameTaken):
            disk.import_file(path)
        assert path.exists()
        assert self.content(disk) == self.expected()

    # --- tools ----------------------------------------------------------------------------------

    def _disk(self, name: str = "disk") -> Disk:
        return self.backend.disk(str(uuid.uuid4()), name)

    def _nothing_of(self, disk: Disk) -> None:
        assert not disk.exists()
        assert list(self.backend.disks(disk.instance)) == []

    def _extracted(self, disk: Disk, format: DiskFormat, *, compress: bool = False) -> Path:
        numbered = (self.place / f"extracted-{number}" for number in itertools.count())
        target = next(path for path in numbered if not path.exists())
        disk.extract(target, format, compress=compress)
        return target

    def _read(self, path: Path, format: DiskFormat) -> bytes:
        """The content of a standalone file, which is removed. qcow2 is read by qemu-img, not by us."""
        from cowshed.tools.run import run

        raw = path
        if format == DiskFormat.QCOW2:
            raw = path.with_name(path.name + ".raw")
            run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, raw], timeout=60)
            path.unlink()
        data = raw.read_bytes()
        raw.unlink()
        return data


class _Stopped:
    """A user who has said stop already."""

    def phase(self, name: str, total: int | None = None) -> None:
        raise Interrupted(what=name)

    def update(self, done: int) -> None:
        raise Interrupted(what="working")

    def check(self) -> None:
        raise Interrupted(what="working")


def _data(size: int) -> bytes:
    """Bytes none of whose blocks are zero."""
    return (_PATTERN * (size // len(_PATTERN) + 1))[:size]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _at_once(call: Callable[[int], object], count: int) -> list[BaseException]:
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
