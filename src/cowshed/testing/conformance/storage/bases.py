"""Bases in a backend's own storage (BaseKeeping): filled once, complete or not there. Others are left alone."""

from __future__ import annotations

import itertools
import threading
import uuid

from cowshed.contract.storage import BaseContent, BaseKeeping, OpenSink
from cowshed.errors import Busy, CowshedError, NoSpace
from cowshed.model.disk import Base
from cowshed.testing.conformance.expect import refuses
from cowshed.testing.conformance.storage.suite import SIZE, StorageSuite, at_once
from cowshed.units import MiB


class BasePromises(StorageSuite):
    def test_a_base_is_added_and_found(self) -> None:
        if (keeping := self._keeping()) is None:
            return
        name = _new_name()
        assert keeping.find_base(name) is None
        base = keeping.add_base(name, "an-image", self.fill(self.base_file()))
        assert (base.virtual_size, base.image_id) == (SIZE, "an-image")
        assert base.digest
        assert base.source_digest
        assert base.location
        assert keeping.find_base(name) == base
        (kept,) = [kept for kept in keeping.bases() if kept.name == name]
        assert kept.base == base
        assert kept.users == 0
        disk = self.disk()
        disk.create(SIZE + MiB, base)
        assert self.content(disk) == self.expected() + bytes(MiB)
        disk.delete()
        keeping.remove_base(name)
        assert keeping.find_base(name) is None

    def test_however_many_ask_one_fills(self) -> None:
        if (keeping := self._keeping()) is None:
            return
        name, fills, bases = _new_name(), itertools.count(), []
        path, lock = self.base_file(), threading.Lock()

        def fill(open_sink: OpenSink) -> BaseContent:
            with lock:
                next(fills)
            return self.fill(path)(open_sink)

        assert at_once(lambda _: bases.append(keeping.add_base(name, "an-image", fill)), 6) == []
        assert next(fills) == 1
        assert len(bases) == 6
        assert len({base.location for base in bases}) == 1
        keeping.add_base(name, "an-image", self._never)
        keeping.remove_base(name)

    def test_a_fill_that_fails_leaves_nothing(self) -> None:
        if (keeping := self._keeping()) is None:
            return
        name, path = _new_name(), self.base_file()
        before = sorted(kept.name for kept in keeping.bases())

        def early(open_sink: OpenSink) -> BaseContent:
            raise NoSpace(place="the test", needed=1, free=0)

        def late(open_sink: OpenSink) -> BaseContent:
            self.fill(path)(open_sink)
            raise NoSpace(place="the test", needed=1, free=0)

        for fill in (early, late):
            with refuses(NoSpace):
                keeping.add_base(name, "an-image", fill)
            assert keeping.find_base(name) is None
            assert sorted(kept.name for kept in keeping.bases()) == before
        disk = self.disk()
        disk.create(0, keeping.add_base(name, "an-image", self.fill(path)))
        assert self.content(disk) == self.expected()
        disk.delete()
        keeping.remove_base(name)

    def test_a_base_that_disks_stand_on_stays(self) -> None:
        if (keeping := self._keeping()) is None:
            return
        name, disk = _new_name(), self.disk()
        base = keeping.add_base(name, "an-image", self.fill(self.base_file()))
        disk.create(0, base)
        (kept,) = [kept for kept in keeping.bases() if kept.name == name]
        if kept.users:
            with refuses(Busy):
                keeping.remove_base(name)
            assert keeping.find_base(name) == base
            disk.delete()
        keeping.remove_base(name)
        if disk.exists():  # it has everything itself
            assert self.content(disk) == self.expected()

    def test_removing_a_base_may_be_repeated(self) -> None:
        if (keeping := self._keeping()) is None:
            return
        name = _new_name()
        keeping.remove_base(name)
        keeping.add_base(name, "an-image", self.fill(self.base_file()))
        keeping.remove_base(name)
        keeping.remove_base(name)
        assert keeping.find_base(name) is None
        assert name not in [kept.name for kept in keeping.bases()]

    def test_a_base_that_is_removed_is_no_base_any_more(self) -> None:
        if (keeping := self._keeping()) is None:
            return
        name, disk = _new_name(), self.disk()
        base: Base = keeping.add_base(name, "an-image", self.fill(self.base_file()))
        keeping.remove_base(name)
        with refuses(CowshedError):
            disk.create(0, base)
        self.nothing_of(disk)

    def _keeping(self) -> BaseKeeping | None:
        return self.backend if isinstance(self.backend, BaseKeeping) else None

    @staticmethod
    def _never(_: OpenSink) -> BaseContent:
        raise AssertionError("the base is there; nobody fills it again")


def _new_name() -> str:
    return f"conformance-{uuid.uuid4().hex[:12]}"
