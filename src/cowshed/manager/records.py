"""Records: what the standalone manager knows of instances, in SQLite; safe for several processes."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cowshed import clock
from cowshed.errors import DataCorrupt, InstanceNotFound, NameTaken, PermissionDenied
from cowshed.model.flavor import Flavor
from cowshed.model.instance import Instance, InstanceState
from cowshed.model.vif import PortForward, Protocol, Subnet, Vif, VifType

SCHEMA = 1
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
    """An instance as it was asked for, and the state that was last seen. Times since the epoch."""

    instance: Instance
    vifs: tuple[Vif, ...]
    state: InstanceState
    created: float = 0.0
    updated: float = 0.0
    error: str = ""
    image_name: str = ""

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

    # --- instances ----------------------------------------------------------------------------

    def all(self) -> list[Record]:
        if not self.path.exists():
            return []
        with self._errors():
            rows = self._open().execute("select * from instances order by created, name").fetchall()
        return [self._decoded(row) for row in rows]

    def find(self, ref: str) -> Record:
        """By name, UUID, or the beginning of a UUID (8 characters or more).

        :raises InstanceNotFound:
        """
        if self.path.exists():
            query = "select * from instances where name = ? or uuid = ?"
            with self._errors():
                rows = self._open().execute(query, (ref, ref)).fetchall()
                if not rows and len(ref) >= 8 and all(letter in "0123456789abcdef-" for letter in ref):
                    rows = self._open().execute("select * from instances where uuid like ?", (f"{ref}%",)).fetchall()
            if len(rows) == 1:
                return self._decoded(rows[0])
        raise InstanceNotFound(name=ref, hint="see cowshed ls")

    def exists(self, name: str) -> bool:
        try:
            return self.find(name).name == name
        except InstanceNotFound:
            return False

    def add(self, record: Record) -> None:
        """:raises NameTaken: an instance has this name"""
        now = clock.current().time()
        try:
            with self._write() as database:
                database.execute(
                    "insert into instances (uuid, name, state, created, updated, record) values (?, ?, ?, ?, ?, ?)",
                    (record.uuid, record.name, record.state, now, now, _encoded(record)),
                )
        except sqlite3.IntegrityError:
            raise NameTaken(
                kind="instance", name=record.name, hint=f"choose another --name, or remove it: cowshed rm {record.name}"
            ) from None

    def update(self, record: Record) -> None:
        with self._write() as database:
            database.execute(
                "update instances set state = ?, error = ?, updated = ?, record = ? where uuid = ?",
                (record.state, record.error, clock.current().time(), _encoded(record), record.uuid),
            )

    def remove(self, uuid: str) -> None:
        """Already gone is success."""
        with self._write() as database:
            database.execute("delete from instances where uuid = ?", (uuid,))

    # --- events -------------------------------------------------------------------------------

    def note(self, record: Record, event: str, detail: str = "") -> None:
        with self._write() as database:
            database.execute(
                "insert into events (time, uuid, name, event, detail) values (?, ?, ?, ?, ?)",
                (clock.current().time(), record.uuid, record.name, event, detail),
            )
            database.execute("delete from events where id <= (select max(id) from events) - 10000")

    def events(self, *, limit: int = 100) -> list[Entry]:
        """The latest ``limit``, oldest first."""
        if not self.path.exists():
            return []
        query = "select time, uuid, name, event, detail from events order by id desc limit ?"
        with self._errors():
            rows = self._open().execute(query, (limit,)).fetchall()
        return [Entry(*row) for row in reversed(rows)]

    # --- the database -------------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        database: sqlite3.Connection | None = getattr(self._local, "database", None)
        if database is None:
            database = sqlite3.connect(self.path, timeout=30, isolation_level=None)
            database.row_factory = sqlite3.Row
            self._prepare(database)
            self._local.database = database
        return database

    def _prepare(self, database: sqlite3.Connection) -> None:
        version = database.execute("pragma user_version").fetchone()[0]
        if version > SCHEMA:
            raise DataCorrupt(path=self.path, reason=f"it was written by a newer cowshed (schema {version})")
        if version == SCHEMA:
            return
        database.execute("pragma journal_mode = wal")
        database.execute("begin immediate")
        if database.execute("pragma user_version").fetchone()[0] == 0:
            for statement in _TABLES.split(";"):
                if statement.strip():
                    database.execute(statement)
            database.execute(f"pragma user_version = {SCHEMA}")
        database.execute("commit")

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._errors():
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
            database = self._open()
            database.execute("begin immediate")
            try:
                yield database
                database.execute("commit")
            except BaseException:
                database.execute("rollback")
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "readonly" in str(error) or "unable to open" in str(error):
                raise PermissionDenied(action="use", path=self.path) from error
            raise DataCorrupt(path=self.path, reason=str(error)) from error
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.IntegrityError):
                raise
            raise DataCorrupt(path=self.path, reason=str(error)) from error
        except PermissionError as error:
            raise PermissionDenied(action="use", path=self.path) from error

    def _decoded(self, row: sqlite3.Row) -> Record:
        try:
            data = json.loads(row["record"])
            return Record(
                instance=_instance(data["instance"]),
                vifs=tuple(_vif(one) for one in data["vifs"]),
                state=InstanceState(row["state"]),
                created=row["created"],
                updated=row["updated"],
                error=row["error"],
                image_name=data.get("image_name", ""),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise DataCorrupt(path=self.path, reason=f"the record of {row['name']} cannot be read: {error}") from error


def _encoded(record: Record) -> str:
    return json.dumps(
        {
            "instance": dataclasses.asdict(record.instance),
            "vifs": [dataclasses.asdict(vif) for vif in record.vifs],
            "image_name": record.image_name,
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
    return Vif(**{**data, "type": VifType(data["type"]), "forwards": forwards, "subnets": subnets})


def _subnet(data: dict[str, Any]) -> Subnet:
    return Subnet(**{**data, "dns": tuple(data["dns"]), "routes": tuple((one[0], one[1]) for one in data["routes"])})
