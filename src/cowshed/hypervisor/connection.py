"""The connection to libvirt: opened late, opened again when it broke, every call with its errors translated."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, TypeVar

from cowshed import clock, log
from cowshed.clock import Deadline
from cowshed.errors import CowshedError, HypervisorUnavailable
from cowshed.hypervisor import dial, loop, power, session
from cowshed.hypervisor.binding import libvirt
from cowshed.hypervisor.errors import Translated
from cowshed.hypervisor.link import Link
from cowshed.hypervisor.recent import Recent

if TYPE_CHECKING:
    from cowshed.hypervisor.events import GuestEvent, Hub, Listener, Watch
    from cowshed.hypervisor.missed import Memory
    from cowshed.model.instance import PowerState

_log = log.logger(__name__)
T = TypeVar("T")

KEEPALIVE = (5, 3)  # seconds between messages, how many may be lost: a stopped daemon fails calls in 20 s
BACK_OFF = (0.1, 5.0)  # seconds: first and longest pause between two attempts to reach libvirt again


class Connection:
    """One libvirt. Threads may share it; nothing is asked of it before the first call.

    A connection that broke is opened again by the next call. A call that was under way when it broke
    raises HypervisorUnavailable if it could have changed something (its outcome must be read, not
    assumed); calls that only read are repeated once.

    :param uri: libvirt's; ``qemu:///session`` works for root as well (see ``session``)
    :param hide_kvm: start a session daemon that does not see the host's KVM, which runs no guests; a
        function is asked only when a daemon must be started
    :param connect_timeout: seconds until libvirt must have answered the first time
    """

    def __init__(self, uri: str, *, hide_kvm: session.Wish = False, connect_timeout: float = 20.0) -> None:
        self.uri = uri
        self.session = session.is_session(uri)
        self._hide_kvm = hide_kvm
        self._connect_timeout = connect_timeout
        self._lock = threading.RLock()
        self._connection: Any = None
        self._process = 0
        self._callbacks: list[int] | None = None
        self._wants_events = False
        self._reconnecting = False
        self._closed = threading.Event()
        self._recent = Recent()
        self._link = Link()
        self.generation = 0

    @cached_property
    def hub(self) -> Hub:
        """Where events arrive."""
        from cowshed.hypervisor.events import Hub

        return Hub()

    @cached_property
    def _memory(self) -> Memory:
        from cowshed.hypervisor.missed import Memory

        return Memory()

    def _wake(self) -> None:
        if "hub" in self.__dict__:
            self.hub.wake()

    # --- the connection -----------------------------------------------------------------------

    def open(self) -> None:
        """Reach libvirt; open already is nothing.

        :raises HypervisorUnavailable: with what to do about it
        :raises PermissionDenied: the socket may not be used by this user
        """
        with self._lock:
            self._closed.clear()
            self._reopen()

    def _reopen(self) -> None:
        """What ``open`` does, unless we were closed; the lock need not be held."""
        with self._lock:
            if self._closed.is_set() or self._usable():
                return
            self._drop()
            loop.ensure()
            connection = dial.connect(self.uri, hide_kvm=self._hide_kvm, timeout=self._connect_timeout)
            with Translated("watch the connection", uri=self.uri):
                dial.keep_alive(connection, *KEEPALIVE)
            self._connection, self._process = connection, os.getpid()
            self.generation += 1
            if self._wants_events:
                self._subscribe()
        self._link.is_back()

    def watch_link(self, *, away: Callable[[str], None], back: Callable[[], None]) -> None:
        """``away(reason)`` when the connection is lost, ``back()`` when it is there again, each once.

        It is opened again without waiting for a call. Closing is no loss.
        """
        self._link.watch(away, back)

    def close(self) -> None:
        """End the connection and its events; a later call opens it again."""
        self._closed.set()
        with self._lock:
            self._drop()
        self._wake()

    def alive(self) -> bool:
        """Does libvirt answer now? Opens the connection if needed."""
        try:
            self.call("answer", lambda c: c.getLibVersion(), repeat=True)
        except CowshedError:
            return False
        return True

    def call(self, action: str, function: Callable[[Any], T], *, subject: str = "", repeat: bool = False) -> T:
        """``function(virConnect)`` on an open connection, its errors translated.

        :param action: completes "libvirt refused to ..."
        :param subject: the instance or network, for people
        :param repeat: it only reads: do it once more if the connection breaks under it
        """
        if not repeat:
            self._recent.forget()
        while True:
            with self._lock:
                self.open()
                connection, generation = self._connection, self.generation
            try:
                with Translated(action, uri=self.uri, subject=subject):
                    return function(connection)
            except HypervisorUnavailable:
                self._lost(generation)
                if not repeat:
                    raise
                repeat = False
            finally:
                if not repeat:
                    self._recent.forget()

    def states(self) -> dict[str, PowerState]:
        """UUID to state of all, from one call."""
        return self.call("list", power.states, repeat=True)

    def _usable(self) -> bool:
        if self._connection is None or self._process != os.getpid():
            return False
        try:
            return bool(self._connection.isAlive())
        except libvirt().libvirtError:
            return False

    def _lost(self, generation: int) -> None:
        with self._lock:
            if generation == self.generation:
                self._drop()
        self._wake()
        self._keep_trying()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        callbacks, self._callbacks = self._callbacks, None
        if connection is not None and self._process == os.getpid():
            dial.hang_up(connection, callbacks)

    # --- events -------------------------------------------------------------------------------

    def listen(self, listener: Listener) -> None:
        """``listener`` hears of every guest from now on, on the event thread; it must not block.

        When libvirt was away, what changed meanwhile is told as well (detail ``libvirt was away``).
        """
        self.hub.listen(listener)
        self.expect_events()
        with self._lock:
            self._memory.learn(self.states())

    def watch(self, uuid: str) -> Watch:
        """Remember the events of one guest; see ``Watch``."""
        from cowshed.hypervisor.events import Watch

        self.expect_events()
        return Watch(self.hub, uuid)

    def expect_events(self) -> None:
        """Events are heard from now on, also after a reconnection."""
        with self._lock:
            self._wants_events = True
            self.open()
            if self._callbacks is None:
                self._subscribe()

    def _subscribe(self) -> None:
        from cowshed.hypervisor import subscribe

        with Translated("tell events", uri=self.uri):
            self._callbacks = subscribe.subscribe(self._connection, self.hub)
            generation = self.generation
            dial.on_close(self._connection, lambda: self._closed_by_peer(generation))
        self.hub.note = self._note

    def _note(self, event: GuestEvent) -> None:
        self._recent.forget()
        self._memory.note(event)

    def _closed_by_peer(self, generation: int) -> None:
        """On the event thread: libvirt went away. Nothing here may wait."""
        if self._closed.is_set() or generation != self.generation:
            return
        self.hub.wake()
        self._keep_trying()

    def _keep_trying(self) -> None:
        wanted = self._link.watched or ("hub" in self.__dict__ and self.hub.listened)
        if wanted and not self._reconnecting and not self._closed.is_set():
            self._reconnecting = True
            threading.Thread(target=self._reconnect, name="cowshed-libvirt-reconnect", daemon=True).start()

    def _reconnect(self) -> None:
        """Listeners have no call under way that would open the connection again: do it for them."""
        pause, longest = BACK_OFF
        try:
            self._link.is_away(f"the connection to {self.uri} was lost")
            while not self._closed.wait(pause):
                try:
                    self._reopen()
                    if self._closed.is_set():
                        return
                    self._link.is_back()  # a call may have opened it before we said that it was lost
                    now = self.states()
                except CowshedError as error:
                    _log.info("libvirt is still away: %s", error)
                    pause = min(2 * pause, longest)
                    continue
                for event in self._memory.missed(now):
                    self.hub.put(event)
                return
        finally:
            self._reconnecting = False

    def patiently(self, read: Callable[[], T], deadline: Deadline) -> T:
        """``read()``, again with growing pauses while libvirt cannot be reached, until ``deadline``.

        :raises HypervisorUnavailable: it was away until then
        """
        pause, longest = BACK_OFF
        while True:
            try:
                return read()
            except HypervisorUnavailable:
                left = deadline.remaining()
                if left is not None and left <= pause:
                    raise
                clock.current().sleep(pause)
                pause = min(2 * pause, longest)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
