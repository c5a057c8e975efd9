"""Where does a guest run after a migration? Read from the two libvirts, never from what an error said.

A source that runs is no proof that the other one does not: when the very last answer is lost ("it runs here"), the source's
libvirt lets its guest go on, although the other may run. Such a guest is stopped at once, and goes on when the other host has
said that it has none. If it has one that runs, that is the one: it went on first, from the same moment, and the network
knows it there. Where both see the same file QEMU's locks keep the source from going on at all.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from cowshed import log
from cowshed.clock import Deadline
from cowshed.driver.steps import locate, right_time, transit
from cowshed.driver.steps.transit import Phase, Way
from cowshed.errors import Busy, CowshedError, DeadlineExceeded, InstanceNotFound, InvalidState
from cowshed.model.instance import PowerState

if TYPE_CHECKING:
    from cowshed.driver.rooms import Rooms
    from cowshed.hypervisor.guest import Guest

_log = log.logger(__name__)

PATIENCE: Final = 60.0  # seconds for a libvirt that went away in the middle
_PAUSE: Final = 0.3


class Verdict(StrEnum):
    HERE = "here"
    THERE = "there"
    OPEN = "open"  # nobody can say yet


def settle(rooms: Rooms, uuid: str, *, patience: float = 0.0) -> Verdict:
    """Find out, and leave one guest: what is left of the other one goes, and the note says how it ended.

    :param patience: seconds to wait for a libvirt that is away, or a job that is still under way
    :returns: OPEN only if it could not be found out within ``patience``; then the guest is left as it is
    """
    note = transit.noted(rooms, uuid, Way.OUT)
    if note is None or note.get("phase") != Phase.LEAVING:
        return Verdict.THERE if note else Verdict.HERE
    deadline = Deadline(patience, f"the end of the migration of {uuid}")
    verdict = _look_until(rooms, uuid, note, deadline)
    if verdict == Verdict.THERE:
        transit.note(rooms, uuid, Way.OUT, **{**note, "phase": Phase.GONE})
    elif verdict == Verdict.HERE:
        transit.forget(rooms, uuid, Way.OUT)
    return verdict


def _look_until(rooms: Rooms, uuid: str, note: dict[str, Any], deadline: Deadline) -> Verdict:
    from cowshed import clock

    while True:
        try:
            verdict = _look(rooms, uuid, note)
        except CowshedError as error:
            _log.warning("where %s runs is not known yet: %s", locate.name(rooms, uuid), error)
            verdict = Verdict.OPEN
        if verdict != Verdict.OPEN or deadline.passed:
            return verdict
        clock.current().sleep(_PAUSE)


def _look(rooms: Rooms, uuid: str, note: dict[str, Any]) -> Verdict:
    from cowshed.hypervisor import migrate

    guest = rooms.hypervisor.find(uuid)
    if guest is None:
        return Verdict.THERE  # libvirt removes the definition when the other one has said that it runs
    if migrate.running(guest) is not None:
        return Verdict.OPEN
    if guest.state() == PowerState.RUNNING:
        if not migrate.taken_back(guest):
            return Verdict.HERE
        _hold(rooms, guest, note)
    there = _there(rooms, uuid, note)
    if there is None:
        return Verdict.OPEN
    if there:
        _remove(guest)
        return Verdict.THERE
    if guest.state() == PowerState.PAUSED and note.get("ran"):
        _resume(guest)
    return Verdict.HERE


def _hold(rooms: Rooms, guest: Guest, note: dict[str, Any]) -> None:
    """It may run there as well. The note first: whoever finds it stopped lets it go on, if it does not run there."""
    note.update(ran=True, went_on=True)
    transit.note(rooms, guest.uuid, Way.OUT, **note)
    guest.suspend()
    _log.warning("%s stands still until it is known whether it runs on %s", guest.name, note.get("dest"))


def _there(rooms: Rooms, uuid: str, note: dict[str, Any]) -> bool | None:
    """Does the destination's libvirt say that it has the guest for good? None: it does not answer."""
    from cowshed.hypervisor import Hypervisor, migrate

    dest = str(note.get("dest", ""))
    try:
        with Hypervisor(rooms.config.migration.uri.replace("%s", dest), connect_timeout=10) as other:
            guest = other.find(uuid)
            if guest is None:
                return False
            if migrate.running(guest) is not None:
                return None
            state = guest.state()
            if state == PowerState.PAUSED and note.get("held") and note.get("went_on"):
                _remove(guest)  # it has not run there yet, and has run here since
                return False
            return guest.persistent() and state in (PowerState.RUNNING, PowerState.PAUSED)
    except CowshedError as error:
        _log.info("the destination does not say whether %s runs there: %s", uuid, error)
        return None


def _remove(guest: Guest) -> None:
    """The rest of a guest that runs elsewhere."""
    guest.destroy()
    guest.undefine()


def _resume(guest: Guest) -> None:
    try:
        guest.resume()
        guest.wait(PowerState.RUNNING, timeout=30, what=f"{guest.name} running")
        right_time.set_right(guest)
    except (InvalidState, InstanceNotFound, DeadlineExceeded) as error:
        _log.warning("%s is paused after a migration that failed, and does not go on: %s", guest.name, error)


def recover(rooms: Rooms) -> None:
    """Of what killed processes were sending: nobody watches any more, so it is given up, unless it is over."""
    for uuid in transit.each(rooms, Way.OUT):
        try:
            recover_one(rooms, uuid)
        except CowshedError as error:
            _log.warning("the migration of %s is left as it is: %s", locate.name(rooms, uuid), error)


def recover_one(rooms: Rooms, uuid: str) -> None:
    """As :func:`recover`. Nothing was under way, or somebody watches: nothing is done. :raises CowshedError:"""
    from cowshed.hypervisor import migrate

    note = transit.noted(rooms, uuid, Way.OUT)
    if note is None or note.get("phase") != Phase.LEAVING:
        return
    try:
        with transit.busy(rooms, uuid, Way.OUT):
            guest, name = rooms.hypervisor.find(uuid), locate.name(rooms, uuid)
            if guest and migrate.running(guest) is not None:
                migrate.abort(guest)
            verdict = settle(rooms, uuid, patience=PATIENCE)
            _log.warning("the migration of %s was interrupted; it runs %s", name, verdict)
    except Busy:
        return
