"""Records on a file system that is really full: what clears up must still work."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cowshed.errors import NoSpace, PermissionDenied
from cowshed.host import doctor
from cowshed.manager import reserve
from cowshed.manager.records import Record, Records
from cowshed.model.flavor import Flavor
from cowshed.model.instance import Instance, InstanceState
from cowshed.tools import filesystem, locks

pytestmark = pytest.mark.timeout(60)


def record(name: str) -> Record:
    instance = Instance(uuid=f"{name}-0000", name=name, flavor=Flavor(vcpus=1, memory=1 << 30), image_ref="i")
    return Record(instance, (), InstanceState.RUNNING)


@pytest.fixture(params=["tmpfs", "ext4"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system with 100 MiB."""
    if os.geteuid() != 0:
        pytest.skip("needs root: mounts a file system")
    place = tmp_path / "place"
    place.mkdir()
    if request.param == "tmpfs":
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100M", "tmpfs", str(place)], check=True)
    else:
        disk = tmp_path / "disk"
        with disk.open("wb") as file:
            file.truncate(120 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(disk)], check=True)
        subprocess.run(["mount", "-o", "loop", str(disk), str(place)], check=True)
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(place: Path) -> None:
    with (place / "filler").open("ab", buffering=0) as file:
        for size in (1 << 20, 4096, 512):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    assert filesystem.free_space(place) < 4096


def anew(place: Path) -> Records:
    """As the next process finds them: nobody has the database open."""
    return Records(place / "cowshed.db")


def test_listing_removing_and_going_on(place: Path) -> None:
    records = anew(place)
    records.add(record("web"))
    records.add(record("db"))
    records.close()
    fill(place)

    records = anew(place)
    assert records.names() == ["db", "web"]
    assert filesystem.free_space(place) < 4096, "looking has used up what removing needs"
    web = records.find("web")
    with pytest.raises(NoSpace, match="no space left in"):
        records.add(record("other"))
    records.update(replace(web, state=InstanceState.DELETING))
    records.remove(web, "removed")
    assert records.names() == ["db"]
    assert [entry.event for entry in records.events()] == ["removed"]
    records.close()

    (place / "filler").unlink()
    records = anew(place)
    records.add(record("web"))
    records.close()
    fill(place)  # the space is put by again
    anew(place).remove(record("web"))


def test_when_the_reserve_is_used_up_it_is_said(place: Path) -> None:
    records = anew(place)
    records.add(record("web"))
    records.close()
    fill(place)
    reserve.give_up(place)
    fill(place)
    assert anew(place).names() == ["web"]
    with pytest.raises(NoSpace, match="no space left in"):
        anew(place).remove(record("web"))
    assert anew(place).names() == ["web"]


def test_what_a_killed_process_left_in_the_log_is_seen(place: Path) -> None:
    records = anew(place)
    records.add(record("web"))
    records.close()
    script = """import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("update instances set name = 'late'")
os._exit(0)"""
    subprocess.run([sys.executable, "-c", script, str(records.path)], check=True, timeout=30)
    assert records.path.with_name("cowshed.db-wal").stat().st_size
    fill(place)
    assert anew(place).names() == ["late"]


def test_a_lock_is_held_without_saying_by_whom(place: Path) -> None:
    path = place / "locks" / "instance-web"
    path.parent.mkdir()
    path.touch()
    fill(place)
    with locks.lock(path):
        pass


def test_nothing_is_put_by_where_little_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reserve, "PLENTY", 1 << 60)
    records = Records(tmp_path / "cowshed.db")
    records.add(record("web"))
    assert not reserve.path_in(tmp_path).exists()
    with sqlite3.connect(records.path) as database:
        assert database.execute("select count(*) from instances").fetchone()[0] == 1


def test_what_is_read_only_can_be_looked_at(place: Path) -> None:
    """A disk with errors, or one that was mounted for a look: root has all permissions there are."""
    records = anew(place)
    records.add(record("web"))
    records.close()
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    again = anew(place)
    assert [one.name for one in again.all()] == ["web"]
    with pytest.raises(PermissionDenied) as caught:
        again.add(record("db"))
    assert caught.value.hint == "its file system is mounted read-only"
    with pytest.raises(PermissionDenied) as caught:
        filesystem.write_atomically(place / "x", b"x")
    assert caught.value.hint == "its file system is mounted read-only"
    (finding,) = doctor.state_directory(place)
    assert (finding.level, "mounted read-only" in finding.sentence) == ("error", True)
    assert "chown" not in finding.remedy
