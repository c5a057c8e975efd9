"""The clock of a guest stood while the guest did; when it goes on, its agent sets it right.

A guest that asks the network for the time does so itself, but not at once, and many step over hours only when they are
told to. What fails is logged, and no caller waits for long: a guest without an agent runs as well as one with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cowshed import clock, log
from cowshed.driver.steps import quiet
from cowshed.errors import CowshedError
from cowshed.model.instance import PowerState

if TYPE_CHECKING:
    from cowshed.hypervisor.guest import Guest

_log = log.logger(__name__)

CONNECTS: Final = 1.0  # seconds for an agent whose QEMU is new to be there again, as it was in the saved memory
_PAUSE: Final = 0.05


def set_right(guest: Guest, *, patience: float = 0) -> None:
    """Of a guest that runs; else nothing is done.

    :param patience: seconds to wait for the agent to be there
    """
    try:
        if guest.state() != PowerState.RUNNING:
            return
        if not _is_there(guest, patience):
            return _log.info("the clock of %s is not set: its guest agent is not there", guest.name)
        guest.agent.set_time()
    except CowshedError as error:
        _log.info("the clock of %s is not set: %s", guest.name, error)


def _is_there(guest: Guest, patience: float) -> bool:
    if not quiet.has_channel(guest):
        return False
    deadline = clock.Deadline(patience, f"the guest agent of {guest.name}")
    while not quiet.speaks(guest):
        if deadline.passed:
            return False
        clock.current().sleep(_PAUSE)
    return True
