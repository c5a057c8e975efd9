"""A disk comes, is refused, grows, goes, and is used by many at once."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace

from cowshed.errors import CowshedError, DiskNotFound, DiskTooSmall, Interrupted, InvalidRequest, NameTaken, NotFound
from cowshed.model.disk import DiskFormat
from cowshed.testing.conformance.expect import refuses
from cowshed.testing.conformance.storage.suite import SIZE, StorageSuite, at_once, data
from cowshed.units import MiB


class LifePromises(StorageSuite):
    # --- a disk comes into being ----------------------------------------------------------------

    def test_a_handle_makes_nothing(self) -> None:
        disk = self.disk()
        assert not disk.exists()
        assert list(self.backend.disks(disk.instance)) == []

    def test_a_blank_disk_reads_as_zeros(self) -> None:
        disk = self.disk()
        disk.create(4 * MiB)
        assert disk.exists()
        assert disk.info().virtual_size == 4 * MiB
        assert self.content(disk) == bytes(4 * MiB)

    def test_a_disk_from_a_base_has_its_content(self) -> None:
        disk = self.disk()
        disk.create(0, self.base())
        assert disk.info().virtual_size == SIZE
        assert self.content(disk) == self.expected()

    def test_a_disk_larger_than_its_base_goes_on_with_zeros(self) -> None:
        disk = self.disk()
        disk.create(SIZE + 3 * MiB, self.base())
        assert disk.info().virtual_size == SIZE + 3 * MiB
        assert self.content(disk) == self.expected() + bytes(3 * MiB)

    def test_the_base_is_left_as_it_is(self) -> None:
        base, disk = self.base(), self.disk()
        disk.create(SIZE + MiB, base)
        self.write(disk, 0, data(MiB, seed=9))
        self.write(disk, 3 * MiB, data(MiB, seed=9))
        disk.resize(SIZE + 2 * MiB)
        disk.delete()
        disk.create(0, base)
        assert self.content(disk) == self.expected()

    def test_two_disks_of_one_base_do_not_know_each_other(self) -> None:
        first, second = self.disk(), self.disk()
        first.create(0, self.base())
        second.create(SIZE + MiB, self.base())
        self.write(first, 2 * MiB, data(4096, seed=9))
        assert self.content(second) == self.expected() + bytes(MiB)
        first.delete()
        assert self.content(second) == self.expected() + bytes(MiB)

    def test_what_was_made_is_found_through_another_handle(self) -> None:
        disk = self.disk()
        disk.create(2 * MiB)
        again = self.again(disk)
        assert again.exists()
        assert again.info().virtual_size == 2 * MiB

    def test_the_disks_of_an_instance_are_listed(self) -> None:
        instance, other = str(uuid.uuid4()), self.disk()
        other.create(MiB)
        for name in ("disk", "disk.eph0", "disk.swap"):
            self.backend.disk(instance, name).create(MiB)
        assert sorted(disk.name for disk in self.backend.disks(instance)) == ["disk", "disk.eph0", "disk.swap"]
        assert [disk.name for disk in self.backend.disks(other.instance)] == [other.name]

    # --- a disk is refused ----------------------------------------------------------------------

    def test_smaller_than_the_base_is_refused_before_anything_is_made(self) -> None:
        disk = self.disk()
        with refuses(DiskTooSmall):
            disk.create(SIZE - MiB, self.base())
        self.nothing_of(disk)

    def test_no_size_is_refused(self) -> None:
        for size in (0, -1):
            disk = self.disk()
            with refuses(InvalidRequest):
                disk.create(size)
            self.nothing_of(disk)

    def test_a_base_of_a_wrong_format_is_refused(self) -> None:
        base, disk = self.base(), self.disk()
        with refuses(InvalidRequest):
            disk.create(0, replace(base, format=DiskFormat.AKI))
        self.nothing_of(disk)

    def test_a_base_that_is_gone_leaves_nothing_and_a_retry_works(self) -> None:
        disk, base = self.disk(), self.base()
        with refuses(CowshedError):
            disk.create(
                0, replace(base, path=self.place / "nowhere", location=base.location and base.location + "-gone")
            )
        self.nothing_of(disk)
        disk.create(0, self.base())
        assert self.content(disk) == self.expected()

    def test_an_existing_disk_is_never_taken_over(self) -> None:
        disk = self.disk()
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
        disk = self.disk()
        try:
            disk.create(0, self.base(), progress=_Stopped())
        except Interrupted:
            self.nothing_of(disk)
            disk.create(0, self.base())
        assert self.content(disk) == self.expected()  # quicker than it could be stopped, or made by the retry

    # --- a disk grows ---------------------------------------------------------------------------

    def test_growing_keeps_the_content(self) -> None:
        disk = self.disk()
        disk.create(0, self.base())
        disk.resize(SIZE + 5 * MiB)
        assert disk.info().virtual_size == SIZE + 5 * MiB
        assert self.content(disk) == self.expected() + bytes(5 * MiB)

    def test_the_same_size_is_success(self) -> None:
        disk = self.disk()
        disk.create(2 * MiB)
        disk.resize(2 * MiB)
        assert disk.info().virtual_size == 2 * MiB

    def test_a_disk_is_never_cut(self) -> None:
        disk = self.disk()
        disk.create(0, self.base())
        with refuses(DiskTooSmall):
            disk.resize(SIZE - MiB)
        assert disk.info().virtual_size == SIZE
        assert self.content(disk) == self.expected()

    # --- a disk goes ----------------------------------------------------------------------------

    def test_deleting_may_be_repeated(self) -> None:
        disk = self.disk()
        disk.delete()
        disk.create(MiB)
        disk.delete()
        disk.delete()
        self.nothing_of(disk)

    def test_a_deleted_disk_can_be_made_anew(self) -> None:
        disk = self.disk()
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
        disk = self.disk()
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
        disk = self.disk()
        disk.create(SIZE + MiB, self.base())
        expected = self.expected() + bytes(MiB)
        for kind, compress in ((DiskFormat.RAW, False), (DiskFormat.QCOW2, False), (DiskFormat.QCOW2, True)):
            assert self.read(self.extracted(disk, kind, compress=compress), kind) == expected

    def test_extracting_does_not_change_the_disk(self) -> None:
        disk = self.disk()
        disk.create(0, self.base())
        before = disk.info().virtual_size
        self.extracted(disk, DiskFormat.QCOW2)
        assert disk.info().virtual_size == before
        assert self.content(disk) == self.expected()

    def test_a_raw_file_cannot_be_compressed(self) -> None:
        disk = self.disk()
        disk.create(0, self.base())
        target = self.place / "target"
        with refuses(InvalidRequest):
            disk.extract(target, DiskFormat.RAW, compress=True)
        assert not target.exists()

    def test_an_extract_to_nowhere_leaves_nothing(self) -> None:
        disk = self.disk()
        disk.create(0, self.base())
        with refuses(CowshedError, OSError):
            disk.extract(self.place / "missing" / "target", DiskFormat.RAW)
        assert not (self.place / "missing").exists()

    # --- many at once ---------------------------------------------------------------------------

    def test_disks_made_at_once_are_all_there(self) -> None:
        instance, base = str(uuid.uuid4()), self.base()
        errors = at_once(lambda number: self.backend.disk(instance, f"disk.eph{number}").create(0, base), 8)
        assert errors == []
        disks = self.backend.disks(instance)
        assert len(disks) == 8
        assert all(self.content(disk) == self.expected() for disk in disks)

    def test_one_of_many_makes_a_disk(self) -> None:
        disk, base = self.disk(), self.base()
        errors = at_once(lambda _: self.backend.disk(disk.instance, disk.name).create(0, base), 8)
        assert [type(error) for error in errors] == [NameTaken] * 7
        assert self.content(disk) == self.expected()

    def test_one_of_many_deletes_a_disk_and_nobody_fails(self) -> None:
        disk = self.disk()
        disk.create(MiB)
        assert at_once(lambda _: self.backend.disk(disk.instance, disk.name).delete(), 8) == []
        self.nothing_of(disk)


class _Stopped:
    """A user who has said stop already."""

    def phase(self, name: str, total: int | None = None) -> None:
        raise Interrupted(what=name)

    def update(self, done: int) -> None:
        raise Interrupted(what="working")

    def check(self) -> None:
        raise Interrupted(what="working")

    def note(self, text: str) -> None:
        raise Interrupted(what="working")
