"""The connection to a Ceph cluster: one per process and user, shared by threads, made anew when broken."""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from cowshed import clock, log
from cowshed.errors import ConfigError, DeadlineExceeded, NotFound, PermissionDenied, ToolFailed
from cowshed.model.disk import NetworkHost
from cowshed.tools.rbd import errors, keyring

_log = log.logger(__name__)

# For our own connections only; a guest's I/O waits for the cluster however long it takes.
_OPTIONS: Final = {
    "log_to_stderr": "false",
    "err_to_stderr": "false",
    # What we write is read by somebody else, and only once.
    "rbd_cache": "false",
    # Opening an image would raise the number of threads below to this.
    "rbd_op_threads": "1",
}

# librados 16 and later answers from two threads by itself, and librbd (16.2.15) is not safe with them: the one
# that has opened an image at a snapshot, as a clone opens its parent, lets the other wake the opener and then takes
# the image's lock once more. When the opener has closed the image meanwhile, the lock is freed memory: the process
# is aborted (std::system_error, "Invalid argument", in a thread io_context_pool) or waits for good. With one thread
# nobody is woken before it is done. But librbd also waits in that thread for what only another can tell it: see
# :meth:`Cluster.wait_for`.
_THREADS: Final = "librados_thread_count"

_MANAGER: Final = 15.0  # seconds: librados by itself waits until there is a manager


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach a cluster. Empty strings: as Ceph itself would; timeouts in seconds."""

    user: str = ""
    ceph_conf: str = ""
    keyring: str = ""
    connect_timeout: float = 5.0
    operation_timeout: float = 60.0


class Cluster:
    """Connects at the first use. Everything may be called from any thread."""

    def __init__(self, access: Access, *, threads: int = 1) -> None:
        self.access = access
        self.threads = threads
        self._lock = threading.Lock()
        self._waiting: Cluster | None = None
        self._waiting_lock = threading.Lock()
        self._rados: Any = None
        self._fsid = ""
        self._silent: tuple[float, DeadlineExceeded] | None = None  # until when, why
        self.prepared: set[tuple[str, str]] = set()  # pools and namespaces, by Pool

    # --- the connection -------------------------------------------------------------------------

    @property
    def user(self) -> str:
        return self.access.user or "admin"

    @property
    def source(self) -> str:
        """What tells where the monitors are, for errors."""
        return self.access.ceph_conf or "/etc/ceph/ceph.conf"

    def rados(self) -> Any:
        """The connected handle. A cluster that has just been silent is not asked again at once: whoever lists many disks,
        or asks from many threads, would wait for it once for each.

        :raises ConfigError: Ceph's configuration cannot be read, or there is no key in the keyring
        :raises PermissionDenied: there is no key, or the cluster does not accept it
        :raises DeadlineExceeded: no monitor answers in time
        """
        with self._lock:
            if self._rados is None:
                self._rados = self._connected()
            return self._rados

    def _connected(self) -> Any:
        now = clock.current().monotonic
        if self._silent and now() < self._silent[0]:
            raise self._silent[1].with_traceback(None)
        try:
            return self._connect()
        except DeadlineExceeded as error:
            self._silent = (now() + self.access.connect_timeout, error)
            raise

    def _connect(self) -> Any:
        rados, _ = errors.bindings()
        handle = self._configured(rados)
        if handle.conf_get("rbd_default_clone_format") == "auto":
            # 2 needs no protected parent; "auto" is 1 wherever pre-2018 clients may still connect.
            handle.conf_set("rbd_default_clone_format", "2")
        try:
            _in_a_new_thread(handle.connect)
        except rados.Error as error:
            raise self._refused(error, handle) from error
        _log.debug("connected to the Ceph cluster of %s as client.%s", self.source, self.user)
        return handle

    def _configured(self, rados: Any) -> Any:
        connect, operation = self._seconds(self.access.connect_timeout), self._seconds(self.access.operation_timeout)
        conf = _OPTIONS | {
            "client_mount_timeout": connect,
            "rados_mon_op_timeout": operation,
            "rados_osd_op_timeout": operation,
        }
        if self.access.keyring:
            conf["keyring"] = self.access.keyring
        try:
            handle = rados.Rados(rados_id=self.user, conffile=self.access.ceph_conf, conf=conf)
        except rados.ObjectNotFound as error:  # which is what it calls a file
            raise ConfigError(source=self.source, reason="it is not there", hint="see [rbd] ceph_conf") from error
        except rados.Error as error:
            raise ConfigError(
                source=self.source, reason=f"it is no configuration of Ceph: {error}", hint="see [rbd] ceph_conf"
            ) from error
        with suppress(rados.ObjectNotFound):  # before 16 there is one thread, and no such setting
            handle.conf_set(_THREADS, str(self.threads))
        return handle

    @staticmethod
    def _seconds(timeout: float) -> str:
        return str(max(1, math.ceil(timeout)))

    def _refused(self, error: Exception, handle: Any) -> Exception:
        number, name = errors.number_of(error), f"the Ceph cluster of {self.source}"
        if isinstance(error, errors.bindings()[0].TimedOut) or number == 110:
            return DeadlineExceeded(
                what=f"connecting to {name}",
                seconds=self.access.connect_timeout,
                hint="is the network up, and do the monitors listen where the file says?",
            )
        if isinstance(error, errors.bindings()[0].ObjectNotFound):
            return PermissionDenied(
                action=f"connect as client.{self.user} to", path=name, hint="there is no keyring with its key"
            )
        if number in (1, 5, 13, 21, 22) and (useless := keyring.useless(handle, self.user, error)):
            return useless
        if number in (1, 13, 22):
            return PermissionDenied(
                action=f"connect as client.{self.user} to", path=name, hint="the cluster does not know this key"
            )
        return ToolFailed(command=f"librados: connect to {name}", status=number, output=str(error))

    def drop(self, handle: Any) -> None:
        """``handle`` is of no more use; the next call connects anew."""
        with self._lock:
            if self._rados is handle:
                self._rados = None
                _abandoned.append(handle)  # other threads may be inside it; shutting down would wait for them

    def forget(self) -> None:
        """In a child process: the connection is the parent's; not even shutting it down is possible."""
        self._lock, self._waiting_lock = threading.Lock(), threading.Lock()
        if self._waiting:
            self._waiting.forget()
        if self._rados is not None:
            _abandoned.append(self._rados)
            self._rados = None

    def close(self) -> None:
        with self._lock:
            handle, self._rados = self._rados, None
        if handle is not None:
            handle.shutdown()
        if self._waiting:
            self._waiting.close()

    def wait_for(self, what: str, call: Callable[[Cluster], object]) -> None:
        """``call`` with a connection of several threads, one call at a time.

        Unprotecting, and where a clone's parent is in a pool that is gone, librbd waits inside itself for the newest map
        of the cluster: on a connection with one thread, or as many times at once as there are threads, it would wait for
        good; it would for monitors that are silent.

        :raises DeadlineExceeded: it takes longer than an operation may
        """
        seconds = self.access.operation_timeout
        late = DeadlineExceeded(what=f"an answer of the Ceph cluster (to {what})", seconds=seconds)
        if not self._waiting_lock.acquire(timeout=seconds):
            raise late
        try:
            other = self._waiting = self._waiting or Cluster(self.access, threads=3)
            handle = other.rados()
            if not _in_a_new_thread(lambda: (call(other),), seconds):
                other.drop(handle)
                raise late
        finally:
            self._waiting_lock.release()

    # --- what is done with it -------------------------------------------------------------------

    @contextmanager
    def errors_of(self, action: str, name: str, *, kind: str = "image") -> Iterator[None]:
        """Errors of librados and librbd inside the block become ours."""
        handle = self._rados
        with errors.errors_of(
            action, name, kind=kind, seconds=self.access.operation_timeout, shut_out=lambda: self.drop(handle)
        ):
            yield

    @contextmanager
    def ioctx(self, pool: str, namespace: str = "") -> Iterator[Any]:
        """An I/O context, which costs microseconds.

        :raises NotFound: there is no such pool
        :raises DeadlineExceeded: the monitors do not say whether there is
        """
        ioctx = self._open_ioctx(pool)
        try:
            if namespace:
                ioctx.set_namespace(namespace)
            # A full pool answers at once instead of holding writes back until somebody makes room.
            ioctx.set_osdmap_full_try()
            yield ioctx
        finally:
            ioctx.close()

    def _open_ioctx(self, pool: str) -> Any:
        handle, seconds = self.rados(), self.access.operation_timeout
        with errors.errors_of("open", pool, kind="pool", seconds=seconds):
            if pool in handle.list_pools():  # those of the map that we have
                return handle.open_ioctx(pool)
            # librados asks the monitors for a newer map, and waits without end.
            ioctx = _in_a_new_thread(lambda: handle.open_ioctx(pool), seconds)
        if ioctx is None:
            raise DeadlineExceeded(what=f"an answer of the Ceph monitors (to find pool {pool})", seconds=seconds)
        return ioctx

    def has_pool(self, pool_id: int) -> bool:
        """:raises DeadlineExceeded: the monitors do not say whether there is one of this number"""
        handle, seconds = self.rados(), self.access.operation_timeout
        found = _in_a_new_thread(lambda: (handle.pool_reverse_lookup(pool_id),), seconds)
        if found is None:
            raise DeadlineExceeded(what=f"an answer of the Ceph monitors (to find pool {pool_id})", seconds=seconds)
        return found[0] is not None

    def ask(self, prefix: str, **arguments: object) -> Any:
        """A question to the monitors; the parsed JSON of the answer."""
        handle = self.rados()
        command = json.dumps({"prefix": prefix, "format": "json", **arguments})
        with self.errors_of("ask", prefix, kind="cluster"):
            number, answer, words = handle.mon_command(command, b"")
        _check("cluster", f"ceph {prefix}", number, words, self.access.operation_timeout)
        return json.loads(answer or b"null")

    def ask_manager(self, prefix: str, **arguments: object) -> Any:
        """The same to the manager, which librados would wait for without end.

        :raises DeadlineExceeded: there is no manager, or it does not answer
        """
        handle = self.rados()
        command = json.dumps({"prefix": prefix, "format": "json", **arguments})
        seconds = min(self.access.operation_timeout, _MANAGER)
        with errors.errors_of("ask", prefix, kind="manager", seconds=seconds):
            answered = _in_a_new_thread(lambda: handle.mgr_command(command, b""), seconds)
        if answered is None:
            raise DeadlineExceeded(what=f"an answer of the Ceph manager to {prefix}", seconds=seconds)
        number, answer, words = answered
        _check("manager", f"ceph {prefix}", number, words, self.access.operation_timeout)
        return json.loads(answer or b"null")

    @property
    def fsid(self) -> str:
        """The cluster's id. It never changes."""
        if not self._fsid:
            handle = self.rados()
            with self.errors_of("ask", "fsid", kind="cluster"):
                self._fsid = str(handle.get_fsid())
        return self._fsid

    def clones_protected(self) -> bool:
        """Does ceph.conf ask for clones of the old format, whose parents must be protected?"""
        return str(self.rados().conf_get("rbd_default_clone_format")) == "1"

    def monitors(self) -> tuple[NetworkHost, ...]:
        """Where the monitors listen now, from the monitors themselves; IPv6 without brackets."""
        return monitors(self.ask("mon dump"))

    def uses_cephx(self) -> bool:
        """Do clients prove who they are? Ceph's default allows both, so what tells is whether there is a key."""
        if "cephx" not in self.rados().conf_get("auth_client_required"):
            return False
        try:
            return bool(self.key())
        except NotFound:
            return False

    def key(self) -> str:
        """The user's key (base64), for a libvirt secret. Never to be logged.

        :raises NotFound: it is in no keyring that can be read
        """
        handle = self.rados()
        key = keyring.key(handle, self.user)
        if key is not None:
            return key
        raise NotFound(
            kind=f"key of client.{self.user} in",
            name=handle.conf_get("keyring") or self.source,
            hint="name the keyring in [rbd] keyring",
        )


def _in_a_new_thread(call: Callable[[], Any], seconds: float | None = None) -> Any:
    """What ``call`` returns; None when it takes longer than ``seconds`` (it goes on then).

    librados draws the number of a new client from a generator of the thread, and a fork copies that
    of the thread it happens in: two children would be one client to the cluster. A new thread has a
    new generator.
    """
    answers: list[Any] = []
    failures: list[Exception] = []

    def run() -> None:
        try:
            answers.append(call())
        except Exception as error:  # noqa: BLE001 - handed to the caller's thread
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True, name="ceph")
    thread.start()
    thread.join(seconds)
    if failures:
        raise failures[0]
    return answers[0] if answers else None


def _check(kind: str, what: str, number: int, words: str, seconds: float) -> None:
    """An answer with an error number is an error like any other."""
    if number:
        error = errors.bindings()[0].OSError(words, errno=abs(number))
        raise errors.translated(error, "ask", kind, what, seconds) from error


def monitors(monmap: Any) -> tuple[NetworkHost, ...]:
    """Addresses of a monitor map, new protocol first; librados tries them all."""
    found: list[NetworkHost] = []
    for kind in ("v2", "v1", "any"):
        for monitor in monmap.get("mons", ()):
            addresses = monitor.get("public_addrs", {}).get("addrvec") or [{"type": "v1", "addr": monitor["addr"]}]
            found += [_host(address["addr"]) for address in addresses if address["type"] == kind]
    return tuple(dict.fromkeys(found))


def _host(address: str) -> NetworkHost:
    """From ``192.0.2.1:3300``, ``[2001:db8::1]:6789`` or one of these with ``/nonce`` behind it."""
    name, _, port = address.partition("/")[0].rpartition(":")
    return NetworkHost(name.strip("[]"), int(port))


# --- one for each process -----------------------------------------------------------------------

_clusters: dict[Access, Cluster] = {}
_clusters_lock = threading.Lock()
_abandoned: list[Any] = []  # never freed: that would shut them down, which may hang


def cluster(access: Access) -> Cluster:
    """This process's connection; nothing is connected yet."""
    with _clusters_lock:
        return _clusters.setdefault(access, Cluster(access))


def _after_fork() -> None:
    global _clusters_lock
    _clusters_lock = threading.Lock()
    for known in _clusters.values():
        known.forget()


os.register_at_fork(after_in_child=_after_fork)
