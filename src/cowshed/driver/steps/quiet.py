"""Quiet file systems in a guest, through its agent: for a moment, and never longer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from cowshed import log
from cowshed.driver.steps import locate
from cowshed.errors import CowshedError, InstanceNotFound, InvalidState, UnsupportedOperation
from cowshed.model.instance import Instance, PowerState

if TYPE_CHECKING:
    from cowshed.domain.channel import Channel
    from cowshed.driver.rooms import Rooms
    from cowshed.hypervisor.agent import Agent
    from cowshed.hypervisor.guest import Guest

_log = log.logger(__name__)

THAWS: Final = 3  # how often it is tried
_CONNECTED: Final = "connected"


def demanded(rooms: Rooms, instance: Instance) -> bool:
    """May no image be made of it that is not consistent? (``os_require_quiesce``)"""
    from cowshed.domain.properties import Properties

    return bool(Properties.of(locate.remembered_image(rooms, instance)).flag("os_require_quiesce"))


def agent(guest: Guest, action: str) -> Agent:
    """:raises InvalidState: it does not run :raises UnsupportedOperation: it was made without a channel for the agent"""
    if (state := guest.state()) != PowerState.RUNNING:
        raise InvalidState(name=guest.name, state=state.word, action=action)
    if _channel(guest) is None:
        raise UnsupportedOperation(
            subject=f"instance {guest.name}",
            operation=f"be {action}",
            reason="it was started without the guest agent's channel",
            hint="set hw_qemu_guest_agent=yes on the image, or [guest] agent, and restart it",
        )
    return guest.agent


def has_channel(guest: Guest) -> bool:
    """Was it made with a channel for the agent?"""
    return _channel(guest) is not None


def _channel(guest: Guest) -> Channel | None:
    from cowshed.domain.channel import AGENT
    from cowshed.domain.domain import Domain

    return next((one for one in Domain.parse(guest.xml()).channels if one.name == AGENT), None)


@contextmanager
def quiet(guest: Guest, *, demanded: bool) -> Iterator[None]:
    """Frozen in the block where the guest can, thawed after it in every case.

    Somebody else's freeze is left to him. Where it cannot be frozen, the block runs all the same.

    :param demanded: then it does not, and what is in the way is raised
    """
    if not _wanted(guest, demanded=demanded):
        yield
        return
    try:
        _freeze(guest, demanded=demanded)
        yield
    finally:
        _thaw(guest)  # also one whose freeze failed: it may be frozen in part, or in a moment


def _wanted(guest: Guest, *, demanded: bool) -> bool:
    """Can we freeze it, and has nobody else?"""
    try:
        found = agent(guest, "quiesced")
        if not demanded and not speaks(guest):
            _log.info("%s is not quiesced: its guest agent is not there", guest.name)
            return False
        if not found.frozen():
            return True
        _log.info("%s is quiesced already", guest.name)
    except CowshedError as error:
        if demanded:
            raise
        _log.warning("%s is not quiesced, so its disks are as after a power cut: %s", guest.name, error)
    return False


def _freeze(guest: Guest, *, demanded: bool) -> None:
    try:
        guest.agent.freeze()
    except CowshedError as error:
        if demanded:
            raise
        _log.warning("%s is not quiesced, so its disks are as after a power cut: %s", guest.name, error)


def speaks(guest: Guest) -> bool:
    """Has an agent in it opened the channel?"""
    channel = _channel(guest)
    return channel is not None and channel.state == _CONNECTED


def _thaw(guest: Guest) -> None:
    """What fails is logged: a guest that is gone needs none."""
    for attempt in range(1, THAWS + 1):
        try:
            return guest.agent.thaw()
        except (InstanceNotFound, InvalidState):
            return
        except CowshedError as error:
            _log.warning("could not thaw %s (attempt %d): %s", guest.name, attempt, error)


def thaw_left(guest: Guest) -> None:
    """Thaw what a killed process may have left frozen."""
    if guest.state() == PowerState.RUNNING and speaks(guest):
        _thaw(guest)


def freeze(guest: Guest) -> None:
    """Until :func:`thaw`. A guest that cannot is thawed.

    :raises InvalidState: it does not run, or is frozen already :raises UnsupportedOperation: it has no agent
    :raises DeadlineExceeded: the agent does not answer :raises HypervisorError: the guest cannot
    """
    found = agent(guest, "quiesced")
    if found.frozen():
        raise InvalidState(name=guest.name, state="frozen already", action="quiesced")
    try:
        found.freeze()
    except BaseException:
        _thaw(guest)
        raise


def thaw(guest: Guest) -> None:
    """Not frozen is success; else as :func:`freeze`."""
    agent(guest, "unquiesced").thaw()
