"""Points in time of a disk: taken, listed, rolled back to, removed. A backend without them says so and is left alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

from cowshed.contract.storage import Disk, Snapshotting
from cowshed.errors import Busy, DiskNotFound, InvalidRequest, NameTaken, NotFound, SnapshotNotFound
from cowshed.testing.conformance.expect import refuses
from cowshed.testing.conformance.storage.suite import SIZE, StorageSuite, at_once, data
from cowshed.units import MiB

_PIECE = 64 * 1024
_AT = 2 * MiB  # in the hole of the base
_SLACK = 2.0  # seconds two clocks may differ


class SnapshotPromises(StorageSuite):
    def test_rolling_back_brings_the_content_back(self) -> None:
        if (made := self._made()) is None:
            return
        disk, snapshots = made
        self._put(disk, 2)
        snapshots.take("before")
        self._put(disk, 3)
        self.write(disk, 0, bytes(MiB))
        assert self._piece(disk) == data(_PIECE, seed=3)
        snapshots.roll_back("before")
        content = self.content(disk)
        assert content[_AT : _AT + _PIECE] == data(_PIECE, seed=2)
        assert content[:_AT] == self.expected()[:_AT]
        assert content[_AT + _PIECE :] == self.expected()[_AT + _PIECE :]

    def test_a_snapshot_is_rolled_back_to_again_and_again(self) -> None:
        if (made := self._made()) is None:
            return
        disk, snapshots = made
        snapshots.take("start")
        for seed in (4, 5, 6):
            self._put(disk, seed)
            snapshots.roll_back("start")
            assert self.content(disk) == self.expected()
        assert [snapshot.name for snapshot in snapshots.snapshots()] == ["start"]

    def test_taking_one_does_not_change_the_disk(self) -> None:
        if (made := self._made()) is None:
            return
        disk, snapshots = made
        snapshots.take("one")
        assert disk.info().virtual_size == SIZE
        assert self.content(disk) == self.expected()
        disk.source()

    def test_they_are_listed_oldest_first_with_what_they_are(self) -> None:
        if (made := self._made()) is None:
            return
        disk, snapshots = made
        assert list(snapshots.snapshots()) == []
        begin = time.time()
        for name in ("zebra", "1", "a.b_c-D"):
            snapshots.take(name)
        disk.resize(SIZE + MiB)
        snapshots.take("x" * 64)
        found = list(self._snapshotting(self.again(disk)).snapshots())
        assert [snapshot.name for snapshot in found] == ["zebra", "1", "a.b_c-D", "x" * 64]
        assert [snapshot.virtual_size for snapshot in found] == [SIZE, SIZE, SIZE, SIZE + MiB]
        times = [snapshot.created for snapshot in found]
        assert times == sorted(times)
        assert begin - _SLACK <= times[0]
        assert times[-1] <= time.time() + _SLACK

    def test_snapshots_make_a_tree(self) -> None:
        """Take a, write, take b, roll back to a, take c: b and c both come from a. Then b goes."""
        if (made := self._made()) is None:
            return
        disk, snapshots = made
        snapshots.take("a")
        self._put(disk, 2)
        snapshots.take("b")
        snapshots.roll_back("a")
        self._put(disk, 3)
        snapshots.take("c")
        assert {snapshot.name: snapshot.parent for snapshot in snapshots.snapshots()} == {"a": None, "b": "a", "c": "a"}
        snapshots.roll_back("b")
        assert self._piece(disk) == data(_PIECE, seed=2)
        snapshots.remove("b")
        assert self._piece(disk) == data(_PIECE, seed=2)
        snapshots.roll_back("c")
        assert self._piece(disk) == data(_PIECE, seed=3)
        snapshots.roll_back("a")
        assert self.content(disk) == self.expected()
        assert [snapshot.name for snapshot in snapshots.snapshots()] == ["a", "c"]

    def test_what_others_came_from_can_be_removed(self) -> None:
        if (made := self._made()) is None:
            return
        disk, snapshots = made
        snapshots.take("a")
        self._put(disk, 2)
        snapshots.take("b")
        self._put(disk, 3)
        snapshots.remove("a")
        assert self._piece(disk) == data(_PIECE, seed=3)
        (left,) = snapshots.snapshots()
        assert (left.name, left.parent) == ("b", None)
        snapshots.roll_back("b")
        assert self._piece(disk) == data(_PIECE, seed=2)

    def test_rolling_back_restores_the_size(self) -> None:
        if (made := self._made()) is None:
            return
        disk, snapshots = made
        snapshots.take("small")
        disk.resize(SIZE + 3 * MiB)
        self.write(disk, SIZE, data(MiB, seed=2))
        snapshots.take("large")
        snapshots.roll_back("small")
        assert disk.info().virtual_size == self.again(disk).info().virtual_size == SIZE
        assert self.content(disk) == self.expected()
        disk.resize(SIZE + MiB)
        assert self.content(disk) == self.expected() + bytes(MiB)
        snapshots.roll_back("large")
        assert disk.info().virtual_size == SIZE + 3 * MiB
        assert self.content(disk) == self.expected() + data(MiB, seed=2) + bytes(2 * MiB)

    def test_a_name_is_taken_once(self) -> None:
        if (made := self._made()) is None:
            return
        disk, snapshots = made
        snapshots.take("one")
        self._put(disk, 2)
        with refuses(NameTaken):
            snapshots.take("one")
        snapshots.roll_back("one")
        assert self.content(disk) == self.expected()
        snapshots.remove("one")
        snapshots.take("one")
        assert [snapshot.name for snapshot in snapshots.snapshots()] == ["one"]

    def test_names_that_cannot_be_are_refused(self) -> None:
        if (made := self._made()) is None:
            return
        _, snapshots = made
        for name in ("", "..", ".", "a/b", "a b", "a@b", "a:b", "a\n", "ä", "x" * 65):
            with refuses(InvalidRequest):
                snapshots.take(name)
        assert list(snapshots.snapshots()) == []

    def test_a_snapshot_that_is_not_there_is_said_to_be_missing(self) -> None:
        if (made := self._made()) is None:
            return
        disk, snapshots = made
        snapshots.take("one")
        for call in (snapshots.roll_back, snapshots.remove):
            with refuses(SnapshotNotFound) as caught:
                call("other")
            assert isinstance(caught.error, NotFound)
        assert self.content(disk) == self.expected()

    def test_a_disk_that_is_not_there_has_none(self) -> None:
        disk = self.disk()
        if not isinstance(disk, Snapshotting):
            return
        calls: list[Callable[[], object]] = [
            lambda: disk.take("one"),
            disk.snapshots,
            lambda: disk.roll_back("one"),
            lambda: disk.remove("one"),
        ]
        for call in calls:
            with refuses(DiskNotFound):
                call()
        self.nothing_of(disk)

    def test_a_deleted_disk_takes_its_snapshots_along(self) -> None:
        if (made := self._made()) is None:
            return
        disk, snapshots = made
        snapshots.take("one")
        self._put(disk, 2)
        snapshots.take("two")
        disk.delete()
        self.nothing_of(disk)
        disk.create(MiB)
        assert list(snapshots.snapshots()) == []
        snapshots.take("one")
        snapshots.roll_back("one")
        assert self.content(disk) == bytes(MiB)

    def test_the_snapshots_of_one_disk_are_not_those_of_another(self) -> None:
        if (made := self._made()) is None:
            return
        disk, snapshots = made
        other = self.backend.disk(disk.instance, "disk.eph0")
        other.create(MiB)
        snapshots.take("one")
        assert list(self._snapshotting(other).snapshots()) == []
        self._snapshotting(other).take("one")
        snapshots.remove("one")
        self._snapshotting(other).roll_back("one")
        assert self.content(other) == bytes(MiB)

    def test_one_of_many_takes_a_snapshot(self) -> None:
        if (made := self._made()) is None:
            return
        disk, snapshots = made
        errors = at_once(lambda _: self._snapshotting(self.again(disk)).take("one"), 4)
        assert all(isinstance(error, NameTaken | Busy) for error in errors), errors
        assert len(errors) == 3, f"{4 - len(errors)} of 4 took it"
        assert [snapshot.name for snapshot in snapshots.snapshots()] == ["one"]
        assert self.content(disk) == self.expected()

    # --- tools ----------------------------------------------------------------------------------

    def _made(self) -> _Made | None:
        """A disk of the base and its snapshots; None where the backend announces that it has none."""
        disk = self.disk()
        if not self.backend.traits.snapshots:
            assert not isinstance(disk, Snapshotting)
            return None
        disk.create(0, self.base())
        return disk, self._snapshotting(disk)

    @staticmethod
    def _snapshotting(disk: Disk) -> Snapshotting:
        assert isinstance(disk, Snapshotting)
        return disk

    def _put(self, disk: Disk, seed: int) -> None:
        self.write(disk, _AT, data(_PIECE, seed=seed))

    def _piece(self, disk: Disk) -> bytes:
        return self.content(disk)[_AT : _AT + _PIECE]


_Made: TypeAlias = tuple[Disk, Snapshotting]
