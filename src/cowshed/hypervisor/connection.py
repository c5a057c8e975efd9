"""The connection to libvirt: opened late, opened again when it broke, every call with its errors translated."""

from __future__ import annotations

import copy
import os
import threading
import time
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, TypeVar

from cowshed import clock, log
from cowshed.clock import Deadline
from cowshed.errors import CowshedError, DeadlineExceeded, HypervisorUnavailable
from cowshed.hypervisor import dial, lines, loop, power, session
from cowshed.hypervisor.binding import libvirt
from cowshed.hypervisor.errors import Translated
from cowshed.hypervisor.flight import Cut, Flight, Late
from cowshed.hypervisor.lines import Line, Lines
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
SLOW = 1.0  # seconds after which a failed attempt stands for all who waited for it
GOODBYE = 5.0  # seconds to end a connection properly


class Connection:
    """One libvirt. Threads may share it; nothing is asked of it before the first call.

    A connection that broke is opened again by the next call. A call that was under way when it broke
    raises HypervisorUnavailable if it could have changed something (its outcome must be read, not
    assumed); calls that only read are repeated once. Of callers who wait for it to be opened one tries, for all.

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
        self._lines: Lines | None = None
        self._flights: set[Flight[Any]] = set()  # on the main connection
        self._failures = 0
        self._failure: CowshedError | None = None
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
        seen = self._failures
        with self._lock:
            self._closed.clear()
            self._reopen(seen)

    def _reopen(self, seen: int | None = None) -> None:
        """What ``open`` does, unless we were closed; the lock need not be held.

        :param seen: how many attempts had failed when the caller began to wait for the lock
        """
        seen = self._failures if seen is None else seen
        with self._lock:
            if self._closed.is_set() or self._usable():
                return
            if self._failure and self._failures != seen:
                raise copy.copy(self._failure)  # that of who tried while we waited
            self._drop()
            loop.ensure()
            began = time.monotonic()
            try:
                self._connection, self._process = self._dial(), os.getpid()
                self.generation += 1
                self._lines = Lines(self._connection, self._dial, _hang_up_aside, most=lines.most(self.uri))
                if self._wants_events:
                    self._subscribe()
            except CowshedError as error:
                if time.monotonic() - began > SLOW:
                    self._failures, self._failure = self._failures + 1, error
                raise
            self._failure = None
        self._link.is_back()

    def _dial(self) -> Any:
        connection = dial.connect(self.uri, hide_kvm=self._hide_kvm, timeout=self._connect_timeout)
        with Translated("watch the connection", uri=self.uri):
            dial.keep_alive(connection, *KEEPALIVE)
        return connection

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

    def call(
        self,
        action: str,
        function: Callable[[Any], T],
        *,
        subject: str = "",
        repeat: bool = False,
        within: float | None = None,
    ) -> T:
        """``function(virConnect)`` on an open connection, its errors translated. It is made on another thread.

        :param action: completes "libvirt refused to ..."
        :param subject: the instance or network, for people
        :param repeat: it only reads: do it once more if the connection breaks under it
        :param within: seconds after which nobody waits for it any more, since its QEMU hangs; it may still happen
        :raises DeadlineExceeded: it has not returned ``within`` these
        """
        if not repeat:
            self._recent.forget()
        seen = self._failures
        while True:
            with self._lock:
                self._closed.clear()
                self._reopen(seen)
                open_lines, main, generation = self._lines, self._connection, self.generation
            if open_lines is None:
                raise HypervisorUnavailable(uri=self.uri, reason="it was closed meanwhile")
            line = open_lines.take()
            try:
                with Translated(action, uri=self.uri, subject=subject):
                    return self._fly(line, main, function, within)
            except Cut:
                seen = self._failures
                self._check_lost(line, main, generation)
                if not repeat:
                    reason, hint = "the connection was lost", f"whether it could {action} is not known: look first"
                    raise HypervisorUnavailable(uri=self.uri, reason=reason, hint=hint) from None
                repeat = False
            except Late:
                raise DeadlineExceeded(
                    what=f"an answer to the request to {action} {subject}".rstrip(),
                    seconds=within or 0.0,
                    hint="does its QEMU hang, or its storage? cowshed stop --force ends it",
                ) from None
            except HypervisorUnavailable:
                seen = self._failures
                self._check_lost(line, main, generation)
                if not repeat:
                    raise
                repeat = False
            finally:
                if not repeat:
                    self._recent.forget()

    def _fly(self, line: Line, main: Any, function: Callable[[Any], T], within: float | None) -> T:
        def work() -> T:
            try:
                return function(line.connection)
            finally:
                line.give_back()

        flight = Flight(work)
        if line.connection is main:
            self._flights.add(flight)
        try:
            return flight.begin().wait(within)
        finally:
            self._flights.discard(flight)

    def _check_lost(self, line: Line, main: Any, generation: int) -> None:
        if line.connection is main or not self._usable():
            self._lost(generation)

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
        self._cut(generation)
        if self._connection is not None:  # else somebody has dropped it, and may hold the lock to reach libvirt again
            with self._lock:
                if generation == self.generation:
                    self._drop()
        self._wake()
        self._keep_trying()

    def _cut(self, generation: int) -> None:
        """Those who wait for calls on it wait no more: libvirt itself tells only one of them."""
        if generation == self.generation:
            for flight in list(self._flights):
                flight.cut()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        callbacks, self._callbacks = self._callbacks, None
        extra, self._lines = self._lines, None
        if connection is not None and self._process == os.getpid():
            if extra:
                extra.end()
            try:
                Flight(lambda: dial.hang_up(connection, callbacks)).begin().wait(GOODBYE)
            except Late:
                _log.info("%s does not answer to a goodbye", self.uri)

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
        self._wants_events = True
        self.open()
        with self._lock:
            if self._callbacks is None and self._connection is not None:
                self._subscribe()

    def _subscribe(self) -> None:
        from cowshed.hypervisor import subscribe

        connection, generation = self._connection, self.generation

        def work() -> list[int]:
            numbers = subscribe.subscribe(connection, self.hub)
            dial.on_close(connection, lambda: self._closed_by_peer(generation))
            return numbers

        with Translated("tell events", uri=self.uri):
            try:
                self._callbacks = Flight(work).begin().wait(self._connect_timeout)
            except Late:
                reason = f"it did not answer within {self._connect_timeout:g} s"
                raise HypervisorUnavailable(uri=self.uri, reason=reason, hint="its daemon hangs") from None
        self.hub.note = self._note

    def _note(self, event: GuestEvent) -> None:
        self._recent.forget()
        self._memory.note(event)

    def _closed_by_peer(self, generation: int) -> None:
        """On the event thread: libvirt went away. Nothing here may wait."""
        if self._closed.is_set() or generation != self.generation:
            return
        self._cut(generation)
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


def _hang_up_aside(connection: Any) -> None:
    """Nobody waits for it."""
    Flight(lambda: dial.hang_up(connection, None)).begin()
