"""Many processes put packet filters in force on one host, each as it has planned: never an older plan after a newer one.

A plan is not made under the lock, which every start of a filtered guest needs: groups may come from a network service
that is slow, and a group may have hundreds of members. Who comes to the lock and finds that a plan which was begun later
than his own has been in force plans anew. What a change of groups means is planned after the change, so the last plan
that is put in force knows of all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from cowshed import clock, log

if TYPE_CHECKING:
    from cowshed.driver.rooms import Rooms

_log = log.logger(__name__)

T = TypeVar("T")

PATIENCE: Final = 60.0  # seconds; hundreds of interfaces take five
_ATTEMPTS: Final = 3  # then it is planned under the lock: others are always faster


def in_order(rooms: Rooms, plan: Callable[[], T], apply: Callable[[T], Any]) -> T:
    """``apply`` what ``plan`` says, unless that is empty; ``plan`` may be called several times.

    :returns: the plan that is in force :raises Busy: somebody else was at it all the time
    """
    for _ in range(_ATTEMPTS):
        begun = clock.current().monotonic()
        wanted = plan()
        if not wanted:
            return wanted
        with _held(rooms) as latest:
            if _of_latest(latest) <= begun:
                _apply(latest, begun, apply, wanted)
                return wanted
        _log.debug("packet filters were put in force meanwhile; planning anew")
    with _held(rooms) as latest:
        begun = clock.current().monotonic()
        if wanted := plan():
            _apply(latest, begun, apply, wanted)
        return wanted


def apply_deferred(rooms: Rooms) -> None:
    """What was collected, in its place in the order: nobody changes anything between the look for what is newer and that."""
    with _held(rooms):
        rooms.filters.apply_deferred()


def _apply(latest: Path, begun: float, apply: Callable[[T], Any], wanted: T) -> None:
    """The note first: of what fails, a part may be in force."""
    with suppress(OSError):  # on a full disk guests are filtered all the same
        latest.write_text(repr(begun))
    apply(wanted)


def _of_latest(path: Path) -> float:
    """When the newest plan was begun that has been in force, on the clock that counts since the host was started."""
    try:
        found = float(path.read_text())
    except (OSError, ValueError):
        return 0.0
    return found if found <= clock.current().monotonic() else 0.0  # before the host was started again


@contextmanager
def _held(rooms: Rooms) -> Iterator[Path]:
    from cowshed.tools import filesystem, locks

    path = rooms.state / "locks" / "filters"
    filesystem.make_directory(path.parent)
    with locks.lock(path, timeout=PATIENCE, what="the packet filters of this host"):
        yield path.with_name("filters-latest")
