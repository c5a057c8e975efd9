"""Records in SQLite: several processes, damage, no space, no permission, newer versions."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from cowshed.domain.metadata import Metadata
from cowshed.errors import Busy, Conflict, DataCorrupt, InstanceNotFound, NameTaken, NoSpace, PermissionDenied
from cowshed.manager.records import KEPT_EVENTS, SCHEMA, Record, Records
from cowshed.model.flavor import Flavor
from cowshed.model.instance import Instance, InstanceState
from cowshed.model.vif import PortForward, Protocol, Subnet, Vif, VifType

UUID = "2dd1c88f-fcc9-42a5-996b-fd12a32ba287"


def record(name: str = "web", uuid: str = UUID) -> Record:
    instance = Instance(
        uuid=uuid,
        name=name,
        flavor=Flavor(vcpus=2, memory=1 << 30, root=20 << 30, extra_specs={"quota:disk_read_iops_sec": "5"}),
        image_ref="i",
        user_data="#cloud-config\n",
        metadata={"owner": "me"},
        launched_at=5.0,
    )
    vif = Vif(
        "v",
        "52:54:00:00:00:01",
        VifType.USER,
        forwards=(PortForward(2222, 22, Protocol.UDP),),
        subnets=(Subnet("10.0.0.0/24", dns=("1.1.1.1",), routes=(("0.0.0.0/0", "10.0.0.1"),)),),
        details={"a": "b"},
    )
    return Record(instance, (vif,), InstanceState.RUNNING, image_name="debian", uri="qemu:///session")


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(tmp_path / "state" / "cowshed.db")


def test_what_is_written_is_read(records: Records):
    added = records.add(record())
    assert Records(records.path).find("web") == added
    assert added.created == added.updated > 0
    assert replace(added, created=0.0, updated=0.0) == record()


def test_reading_makes_nothing(records: Records):
    assert records.all() == records.names() == records.events() == []
    assert not records.exists("web")
    with pytest.raises(InstanceNotFound):
        records.find("web")
    assert not records.path.parent.exists()


def test_name_and_uuid_are_unique(records: Records):
    records.add(record())
    with pytest.raises(NameTaken):
        records.add(record(uuid=UUID.replace("2", "3")))
    with pytest.raises(NameTaken):
        records.add(record(name="other"))
    assert records.names() == ["web"]


def test_beginning_of_several_uuids(records: Records):
    records.add(record("one", "aaaaaaaa-0000-4000-8000-000000000001"))
    records.add(record("two", "aaaaaaaa-0000-4000-8000-000000000002"))
    with pytest.raises(Conflict, match=r"several instances are meant by aaaaaaaa: one \(aaaa"):
        records.find("aaaaaaaa")
    assert records.find("aaaaaaaa-0000-4000-8000-000000000002").name == "two"


def test_name_wins_over_the_beginning_of_a_uuid(records: Records):
    records.add(record("one", "aaaaaaaa-0000-4000-8000-000000000001"))
    records.add(record("aaaaaaaa", "bbbbbbbb-0000-4000-8000-000000000002"))
    assert records.find("aaaaaaaa").uuid.startswith("bbbbbbbb")


def test_events_are_bounded(records: Records, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cowshed.manager.records.KEPT_EVENTS", 5)
    one = records.add(record())
    for number in range(8):
        records.update(one, f"event{number}")
    assert [entry.event for entry in records.events()] == [f"event{number}" for number in range(3, 8)]
    assert [entry.event for entry in records.events(limit=2)] == ["event6", "event7"]
    assert KEPT_EVENTS == 10_000


def test_removing_twice(records: Records):
    one = records.add(record())
    records.remove(one, "removed")
    records.remove(one)
    assert records.all() == []
    assert [entry.event for entry in records.events()] == ["removed"]


def test_close_and_go_on(records: Records):
    records.add(record())
    records.close()
    records.close()
    assert records.names() == ["web"]


def test_threads(records: Records):
    failures: list[BaseException] = []

    def add(number: int) -> None:
        try:
            for turn in range(5):
                records.add(record(f"web-{number}-{turn}", f"{number:08}-0000-4000-8000-{turn:012}"))
        except BaseException as error:
            failures.append(error)
        finally:
            records.close()

    workers = [threading.Thread(target=add, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(50)
    assert failures == []
    assert len(records.all()) == 20


def test_first_use_by_several_processes_at_once(records: Records):
    """Tables are made once, whoever comes first."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom tests.unit.test_manager_records import record\n"
        "from cowshed.manager.records import Records\n"
        "Records(Path(sys.argv[1])).add(record('web-' + sys.argv[2], f'{int(sys.argv[2]):08}-0000-4000-8000-000000000000'))"
    )
    root = Path(__file__).parents[2]
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(records.path), str(number)], cwd=root) for number in range(3)
    ]
    assert [process.wait(50) for process in running] == [0, 0, 0]
    assert records.names() == ["web-0", "web-1", "web-2"]


def test_kill_in_the_middle_of_a_transaction(records: Records):
    records.add(record())
    code = (
        "import os, sys, signal\nfrom pathlib import Path\nfrom cowshed.manager.records import Records\n"
        "with Records(Path(sys.argv[1]))._write() as database:\n"
        "    database.execute('delete from instances')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(records.path)], timeout=50, check=False)
    assert done.returncode == -9
    assert Records(records.path).names() == ["web"]


def test_damaged_file(records: Records):
    records.path.parent.mkdir()
    records.path.write_bytes(b"this is no database" * 500)
    with pytest.raises(DataCorrupt, match="not a database") as caught:
        records.all()
    assert "stay as they are" in (caught.value.hint or "")


def test_damaged_record(records: Records):
    records.add(record())
    records._open().execute("update instances set record = '{'")
    with pytest.raises(DataCorrupt, match="the record of web cannot be read"):
        records.all()
    assert records.names() == ["web"]


# As they were written before interfaces had tags and records the time of a soft deletion.
OLDER_VIFS = """[{"address": "52:54:00:00:00:01", "details": {"a": "b"}, "forwards": [{"guest_port": 22,
    "host_address": "127.0.0.1", "host_port": 2222, "protocol": "udp"}], "groups": [], "id": "v", "model": "",
    "mtu": null, "source": "", "subnets": [{"address": "", "cidr": "10.0.0.0/24", "dns": ["1.1.1.1"], "gateway": "",
    "routes": [["0.0.0.0/0", "10.0.0.1"]]}], "type": "user"}]"""
OLDER = (
    """{"instance": {"uuid": "2dd1c88f-fcc9-42a5-996b-fd12a32ba287", "name": "web", "flavor": {"vcpus": 2,
    "memory": 1073741824, "root": 21474836480, "ephemeral": 0, "swap": 0, "name": "custom", "flavorid": "",
    "extra_specs": {"quota:disk_read_iops_sec": "5"}}, "image_ref": "i", "kernel_id": "", "ramdisk_id": "", "host": "",
    "project_id": "", "user_id": "", "display_name": "", "hostname": "", "os_type": "linux", "key_name": "",
    "key_data": "", "user_data": "#cloud-config\\n", "vendor_data": null, "admin_pass": "", "config_drive": false,
    "root_device_name": "", "backend": "", "disk_backends": {}, "encrypt": false, "launched_at": 5.0,
    "metadata": {"owner": "me"}, "system_metadata": {}}, "image_name": "debian", "uri": "qemu:///session",
    "boot_log": 0, "properties": {}, "vifs": """
    + OLDER_VIFS
    + "}"
)


def test_what_an_older_version_wrote_is_read(records: Records):
    """Its records, and what its domains say of their interfaces; written again, they are today's."""
    records.add(record())
    records._open().execute("update instances set record = ?", (OLDER,))
    found = records.find("web")
    assert replace(found, created=0.0, updated=0.0) == record()
    assert Metadata(network=OLDER_VIFS).vifs() == record().vifs
    tagged = replace(found, vifs=(replace(found.vifs[0], tag="inner"),))
    records.update(tagged)
    assert records.find("web").vifs == tagged.vifs


def test_unknown_state_of_a_newer_version(records: Records):
    records.add(record())
    records._open().execute("update instances set state = 'dreaming'")
    with pytest.raises(DataCorrupt, match="dreaming"):
        records.all()


def test_newer_schema_is_not_touched(records: Records):
    records.add(record())
    records._open().execute(f"pragma user_version = {SCHEMA + 1}")
    records.close()
    with pytest.raises(DataCorrupt, match="newer cowshed"):
        records.add(record("other", UUID.replace("2", "3")))
    with pytest.raises(DataCorrupt, match="newer cowshed"):
        records.all()


def test_held_by_somebody_for_too_long(records: Records, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cowshed.manager.records._PATIENCE", 0.05)
    records.add(record())
    other = sqlite3.connect(records.path, isolation_level=None)
    other.execute("begin immediate")
    try:
        with pytest.raises(Busy, match="is locked by another process"):
            Records(records.path).add(record("other", UUID.replace("2", "3")))
        assert Records(records.path).names() == ["web"]  # readers do not wait
    finally:
        other.close()


def test_no_space(records: Records):
    """SQLite's own limit on pages stands for a full disk: the same error."""
    records.add(record())
    records._open().execute("pragma max_page_count = 1")
    with pytest.raises(NoSpace, match="no space left in"):
        for number in range(200):
            records.add(record(f"web-{number}", f"{number:08}-0000-4000-8000-000000000000"))
    assert "web" in records.names()


def test_no_permission(tmp_path: Path):
    if os.geteuid() == 0:
        path = tmp_path / "cowshed.db"
        path.mkdir()  # root may do everything except this
    else:
        tmp_path.chmod(0o500)
        path = tmp_path / "cowshed.db"
    with pytest.raises(PermissionDenied, match="no permission to use"):
        Records(path).add(record())


def test_forbidden_directory(records: Records, monkeypatch: pytest.MonkeyPatch):
    def denied(self: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "exists", denied)
    with pytest.raises(PermissionDenied, match=r"cowshed\.db"):
        records.all()


class Interrupted:
    """A connection whose user is interrupted when a transaction has just begun."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self.database = database

    def execute(self, statement: str, *values: object) -> sqlite3.Cursor:
        found = self.database.execute(statement, *values)
        if statement.startswith("begin"):
            raise KeyboardInterrupt
        return found


def test_an_interruption_leaves_no_transaction_open(records: Records):
    added = records.add(record())
    real = records._open()
    records._local.database = Interrupted(real)
    with pytest.raises(KeyboardInterrupt):
        records.update(added, "stopped")
    records._local.database = real
    records.update(added, "started")  # what clears up after the interruption
    assert [entry.event for entry in records.events()] == ["started"]
