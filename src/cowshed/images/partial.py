"""Broken downloads that a later pull resumes: the bytes so far, and what proves they are the same file.

::

    .partial/<key>.data     the bytes as they were downloaded; its length is how far we came
    .partial/<key>.json     the server's ETag or date, the announced size, what is surely on disk

The key is a digest of the URL. One pull at a time holds the data file's lock; a second one of the
same URL works without a partial file of its own name. After a crash of the host only the bytes
that were synced count: a file system may show a longer file than it wrote.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from cowshed import clock, log
from cowshed.tools import filesystem

_log = log.logger(__name__)

MAX_AGE: Final = 7 * 86400.0  # seconds a broken download is kept
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Validator:
    """What a server says about the bytes of a URL. ``size`` is None where it does not say."""

    etag: str = ""
    modified: str = ""
    size: int | None = None

    @property
    def condition(self) -> str:
        """The value for ``If-Range``: a strong ETag, else the date; empty: no safe way to resume (RFC 9110, 13.1.5)."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified


@dataclass(frozen=True, slots=True)
class _Facts:
    """Which version of the file the part is of, how many of its bytes are on disk for sure, and since which boot of the host."""

    validator: Validator
    synced: int
    boot: str


class Partial:
    """The partial file of one URL, locked. ``fd`` is open for reading and writing."""

    def __init__(self, directory: Path, url: str) -> None:
        filesystem.make_directory(directory, mode=0o700)
        key = hashlib.sha256(url.encode()).hexdigest()[:32]
        fd = _open_locked(directory / f"{key}.data")
        self._alone = fd is not None
        if fd is None:  # somebody downloads the same URL right now
            key += "-" + secrets.token_hex(4)
            fd = _open_locked(directory / f"{key}.data")
            assert fd is not None
        self.fd = fd
        self.path = directory / f"{key}.data"
        self._facts = directory / f"{key}.json"
        self.validator, self.size = self._resumable()
        os.ftruncate(self.fd, self.size)

    def _resumable(self) -> tuple[Validator, int]:
        try:
            body = json.loads(self._facts.read_bytes())
            facts = _Facts(Validator(**body["validator"]), int(body["synced"]), str(body["boot"]))
        except (OSError, ValueError, KeyError, TypeError):
            return Validator(), 0
        size = os.fstat(self.fd).st_size
        if facts.boot != _boot():
            size = min(size, facts.synced)
        if not facts.validator.condition:
            size = 0
        return facts.validator, size

    def restart(self, validator: Validator) -> None:
        """Drop the bytes so far: what comes now is another file."""
        os.ftruncate(self.fd, 0)
        self.size = 0
        self.validator = validator
        self._note(0)

    def keep(self) -> bool:
        """Make what is there durable for the next pull; False where the server gives no way to resume."""
        size = os.fstat(self.fd).st_size
        if not (self._alone and self.validator.condition and size):
            self.discard()
            return False
        os.fsync(self.fd)
        self._note(size)
        return True

    def _note(self, synced: int) -> None:
        facts = _Facts(self.validator, synced, _boot())
        filesystem.write_atomically(self._facts, json.dumps(asdict(facts)).encode())

    def forget(self) -> None:
        """The data was taken elsewhere, or is of no use any more."""
        with suppress(OSError):
            self._facts.unlink()

    def discard(self) -> None:
        self.forget()
        with suppress(OSError):
            self.path.unlink()

    def close(self) -> None:
        os.close(self.fd)  # releases the lock


def _boot() -> str:
    return _BOOT_ID.read_text().strip()


def _open_locked(path: Path) -> int | None:
    """A descriptor that holds the lock of the file that has this name *now*; None: somebody else does."""
    while True:
        with filesystem.errors_of(path, "write"):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(fd), os.stat(path)):
                return fd
        os.close(fd)  # it was published or removed between the two calls: take the next one


def clean(directory: Path, max_age: float = MAX_AGE) -> int:
    """Remove partial files that nobody came back for; returns how many."""
    removed = 0
    now = clock.current().time()
    for path in directory.glob("*.*"):
        with suppress(OSError):
            if now - path.stat().st_mtime < max_age:
                continue
            if path.suffix == ".data":
                fd = _open_locked(path)
                if fd is None:
                    continue
                path.unlink()
                os.close(fd)
                removed += 1
            elif not path.with_suffix(".data").exists():
                path.unlink()
    return removed
