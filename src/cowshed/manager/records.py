"""Records: what the standalone manager knows of instances, in SQLite; safe for several processes.

The file is its owner's alone: user data may hold passwords. Each commit is durable before it returns
(WAL with synchronous=FULL), since a record of what is being built is what finds it again after a crash.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cowshed import clock
from cowshed.errors import (
    Busy,
    Conflict,
    CowshedError,
    DataCorrupt,
    InstanceNotFound,
    NameTaken,
    NoSpace,
    PermissionDenied,
)
from cowshed.manager import reserve
from cowshed.model.flavor import Flavor
from cowshed.model.instance import Ending, Instance, InstanceState
from cowshed.model.vif import PortForward, Protocol, Subnet, Vif, VifType
from cowshed.tools import filesystem

SCHEMA = 1
KEPT_EVENTS = 10_000
_PATIENCE = 30.0  # seconds for another process's transaction, which takes milliseconds
_SHORTEST_PREFIX = 8
_DAMAGED = "put a copy of it back; or move it away and begin without instances: their guests and disks stay as they are"
_HEX = frozenset("0123456789abcdef-")
_TABLES = """
create table instances (
    uuid text primary key,
    name text not null unique,
    state text not null,
    created real not null,
    updated real not null,
    error text not null default '',
    record text not null
);
create table events (
    id integer primary key autoincrement,
    time real not null,
    uuid text not null,
    name text not null,
    event text not null,
    detail text not null default ''
);
"""


@dataclass(frozen=True, slots=True)
class Record:
    """An instance as it was asked for, and the state that was last seen. Times since the epoch.

    ``uri`` is the libvirt it was made on; "" where that is not known. ``boot_log`` is the size in
    bytes that the console's log had when it was last started: what this boot said begins there.
    ``deleted`` is when it was deleted softly, 0: it was not; ``was_off`` whether it was off already then.
    ``properties`` are what this instance was to have instead of, or beside, what its image says.
    What is not recorded but seen, as the state is: ``rescued``, it boots from rescue disks; ``resized``, a resize waits to be
    confirmed or reverted; ``moved_to``, so does a cold move to that host, which broke off; ``ended``, how the guest went off for who has
    just stopped it (None: it was off).
    """

    instance: Instance
    vifs: tuple[Vif, ...]
    state: InstanceState
    created: float = 0.0
    updated: float = 0.0
    error: str = ""
    image_name: str = ""
    uri: str = ""
    boot_log: int = 0
    deleted: float = 0.0
    was_off: bool = False
    properties: Mapping[str, str] = field(default_factory=dict)
    rescued: bool = False
    resized: bool = False
    moved_to: str = ""
    ended: Ending | None = None

    @property
    def uuid(self) -> str:
        return self.instance.uuid

    @property
    def name(self) -> str:
        return self.instance.name


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that happened to an instance."""

    time: float
    uuid: str
    name: str
    event: str
    detail: str


class Records:
    """The database at ``path``; made when it is first written to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()

    def close(self) -> None:
        """Of this thread; the next call opens it again."""
        database: sqlite3.Connection | None = getattr(self._local, "database", None)
        if database is not None:
            database.close()
            self._local.database = None

    # --- instances ----------------------------------------------------------------------------

    def all(self) -> list[Record]:
        return [self._decoded(row) for row in self._read("select * from instances order by created, name")]

    def names(self, *, deleted: bool | None = None) -> list[str]:
        """For completion: nothing else is read. :param deleted: softly (True), or not (False); None: all"""
        rows = self._read("select name, state from instances order by name")
        return [row["name"] for row in rows if deleted in (None, row["state"] == InstanceState.SOFT_DELETED)]

    def find(self, ref: str) -> Record:
        """By name, UUID, or the beginning of a UUID (8 characters or more).

        :raises InstanceNotFound: :raises Conflict: several UUIDs begin so
        """
        rows = self._read("select * from instances where name = ? or uuid = ?", ref, ref)
        if not rows and len(ref) >= _SHORTEST_PREFIX and set(ref) <= _HEX:
            rows = self._read("select * from instances where uuid like ?", f"{ref}%")
        if not rows:
            raise InstanceNotFound(name=ref, hint="cowshed ls shows what there is")
        if len(rows) > 1:
            meant = ", ".join(f"{row['name']} ({row['uuid']})" for row in rows)
            raise Conflict(reason=f"several instances are meant by {ref}: {meant}", hint="write the name")
        return self._decoded(rows[0])

    def name_of(self, uuid: str) -> str:
        """Also of one that has gone, as long as its events are kept; "" where nothing is known of it."""
        rows = self._read("select name from instances where uuid = ?", uuid)
        rows = rows or self._read("select name from events where uuid = ? order by id desc limit 1", uuid)
        return str(rows[0]["name"]) if rows else ""

    def exists(self, name: str) -> bool:
        return bool(self._read("select 1 from instances where name = ?", name))

    def add(self, record: Record) -> Record:
        """With the time it was made, where it has none yet (it may come from another host). :raises NameTaken: an instance has this name"""
        now = clock.current().time()
        record = dataclasses.replace(record, created=record.created or now, updated=now)
        try:
            with self._write(needed=False) as database:
                database.execute(
                    "insert into instances (uuid, name, state, created, updated, record) values (?, ?, ?, ?, ?, ?)",
                    (record.uuid, record.name, record.state, record.created, now, encode(record)),
                )
        except sqlite3.IntegrityError:
            raise self.taken(record.name) from None
        return record

    def taken(self, name: str) -> NameTaken:
        """What to say to who wants this name."""
        hint = f"choose another --name, or remove it: cowshed rm {name}"
        if name in self.names(deleted=True):
            hint = f"it is softly deleted; cowshed restore {name} brings it back, cowshed rm {name} removes it for good"
        return NameTaken(kind="instance", name=name, hint=hint)

    def update(self, record: Record, event: str = "", detail: str = "") -> None:
        """:param event: what happened, noted in the same transaction"""
        with self._write() as database:
            database.execute(
                "update instances set state = ?, error = ?, updated = ?, record = ? where uuid = ?",
                (record.state, record.error, clock.current().time(), encode(record), record.uuid),
            )
            if event:
                _note(database, record, event, detail)

    def remove(self, record: Record, event: str = "", detail: str = "") -> None:
        """Already gone is success; the event is noted then as well."""
        with self._write() as database:
            database.execute("delete from instances where uuid = ?", (record.uuid,))
            if event:
                _note(database, record, event, detail)

    # --- events -------------------------------------------------------------------------------

    def events(self, ref: str = "", *, limit: int = 100) -> list[Entry]:
        """The latest ``limit``, oldest first. :param ref: only of instances with this name or UUID"""
        query = (
            "select time, uuid, name, event, detail from events where ? in ('', name, uuid) order by id desc limit ?"
        )
        return [Entry(*row) for row in reversed(self._read(query, ref, limit))]

    # --- the database -------------------------------------------------------------------------

    def _read(self, query: str, *values: object) -> list[sqlite3.Row]:
        """Empty while there is no database."""
        with self._errors():
            if not self.path.exists():
                return []
            try:
                return self._open().execute(query, values).fetchall()
            except sqlite3.OperationalError:
                if not self._unopenable():
                    raise
                return self._look(query, values)

    def _unopenable(self) -> bool:
        """SQLite wants to make the files of its log to read, cannot (there is no room), and nothing is in them."""
        log = self.path.with_name(f"{self.path.name}-wal")
        unwritable = reserve.is_full(self.path.parent) or filesystem.is_read_only(self.path)
        return unwritable and not (log.exists() and log.stat().st_size)

    def _look(self, query: str, values: tuple[object, ...]) -> list[sqlite3.Row]:
        """Read without making anything, which is right while nobody writes; on a full disk nobody does for long."""
        with closing(sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as database:
            database.row_factory = sqlite3.Row
            return database.execute(query, values).fetchall()

    def _open(self) -> sqlite3.Connection:
        database: sqlite3.Connection | None = getattr(self._local, "database", None)
        if database is None:
            database = sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None)
            try:
                database.row_factory = sqlite3.Row
                self._prepare(database)
            except BaseException:
                database.close()
                raise
            self._local.database = database
        return database

    def _prepare(self, database: sqlite3.Connection) -> None:
        version = database.execute("pragma user_version").fetchone()[0]
        if version > SCHEMA:
            raise DataCorrupt(path=self.path, reason=f"it was written by a newer cowshed (schema {version})")
        if version == SCHEMA:
            return
        database.execute("pragma journal_mode = wal")
        try:
            database.execute("begin immediate")
            if database.execute("pragma user_version").fetchone()[0] == 0:
                for statement in _TABLES.split(";"):
                    if statement.strip():
                        database.execute(statement)
                database.execute(f"pragma user_version = {SCHEMA}")
            database.execute("commit")
        except BaseException:
            _roll_back(database)
            raise

    @contextmanager
    def _write(self, *, needed: bool = True) -> Iterator[sqlite3.Connection]:
        """:param needed: what goes on already must be noted, on a full disk out of the reserve"""
        with self._errors():
            self._make()
            if needed and reserve.is_full(self.path.parent):
                reserve.give_up(self.path.parent)
            database = self._open()
            try:
                database.execute("begin immediate")  # within: an interruption may come when it has begun
                yield database
                database.execute("commit")
            except BaseException:
                _roll_back(database)
                raise
            reserve.put_by(self.path.parent)

    def _make(self) -> None:
        """The empty file, for its owner alone: SQLite would make it readable by all, and copies its mode."""
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError:
            raise
        except sqlite3.DatabaseError as error:
            raise self._translated(error) from error
        except PermissionError as error:
            raise PermissionDenied(action="use", path=error.filename or self.path) from error

    def _translated(self, error: sqlite3.DatabaseError) -> CowshedError:
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return Busy(what=str(self.path), holder="another process", hint="try again")
        full = name.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN")) and reserve.is_full(self.path.parent)
        if full or name.startswith("SQLITE_FULL"):
            free = shutil.disk_usage(self.path.parent).free
            return NoSpace(place=self.path.parent, needed="more", free=free, hint="free some space, then try again")
        if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_AUTH")):
            hint = filesystem.READ_ONLY if filesystem.is_read_only(self.path) else None
            return PermissionDenied(action="use", path=self.path, hint=hint)
        return DataCorrupt(path=self.path, reason=str(error), hint=_DAMAGED)

    def _decoded(self, row: sqlite3.Row) -> Record:
        try:
            found = decode(row["record"], InstanceState(row["state"]))
            return dataclasses.replace(found, created=row["created"], updated=row["updated"], error=row["error"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataCorrupt(path=self.path, reason=f"the record of {row['name']} cannot be read: {error}") from error


def _note(database: sqlite3.Connection, record: Record, event: str, detail: str) -> None:
    database.execute(
        "insert into events (time, uuid, name, event, detail) values (?, ?, ?, ?, ?)",
        (clock.current().time(), record.uuid, record.name, event, detail),
    )
    database.execute("delete from events where id <= (select max(id) from events) - ?", (KEPT_EVENTS,))


def _roll_back(database: sqlite3.Connection) -> None:
    """SQLite may have done it by itself (no space), or none had begun; what happened first is what is told."""
    with suppress(sqlite3.Error):
        database.execute("rollback")


def decode(text: str, state: InstanceState) -> Record:
    """What :func:`encode` has written, here or on another host.

    :raises ValueError: :raises KeyError: :raises TypeError: it is not that
    """
    data = json.loads(text)
    return Record(
        instance=_instance(data["instance"]),
        vifs=tuple(_vif(one) for one in data["vifs"]),
        state=state,
        image_name=data.get("image_name", ""),
        uri=data.get("uri", ""),
        boot_log=data.get("boot_log", 0),
        deleted=data.get("deleted", 0.0),
        was_off=data.get("was_off", False),
        properties=dict(data.get("properties", {})),
    )


def encode(record: Record) -> str:
    return json.dumps(
        {
            "instance": dataclasses.asdict(record.instance),
            "vifs": [dataclasses.asdict(vif) for vif in record.vifs],
            "image_name": record.image_name,
            "uri": record.uri,
            "boot_log": record.boot_log,
            "deleted": record.deleted,
            "was_off": record.was_off,
            "properties": dict(record.properties),
        },
        default=_plain,
    )


def _plain(item: Any) -> Any:
    if isinstance(item, Mapping):
        return dict(item)
    raise TypeError(f"{type(item).__name__} cannot be recorded")


def _instance(data: dict[str, Any]) -> Instance:
    return Instance(**{**data, "flavor": Flavor(**data["flavor"])})


def _vif(data: dict[str, Any]) -> Vif:
    forwards = tuple(PortForward(**{**one, "protocol": Protocol(one["protocol"])}) for one in data["forwards"])
    subnets = tuple(_subnet(one) for one in data["subnets"])
    return Vif(
        **{
            **data,
            "type": VifType(data["type"]),
            "forwards": forwards,
            "subnets": subnets,
            "groups": tuple(data.get("groups", ())),
        }
    )


def _subnet(data: dict[str, Any]) -> Subnet:
    return Subnet(**{**data, "dns": tuple(data["dns"]), "routes": tuple((one[0], one[1]) for one in data["routes"])})
