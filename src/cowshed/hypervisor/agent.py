"""The QEMU guest agent: a program in the guest that may be missing, silent or hostile. Every call is bounded."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cowshed import clock
from cowshed.errors import (
    DataCorrupt,
    DeadlineExceeded,
    HypervisorError,
    InvalidState,
    UnsupportedOperation,
)
from cowshed.hypervisor.errors import Number

if TYPE_CHECKING:
    from cowshed.hypervisor.guest import Guest

TIMEOUT: Final = 5  # seconds; libvirt asks the agent to synchronise first, which has its own 5 s
CHANGING: Final = 30  # seconds for it to change a password, by a program of the guest
SETTING: Final = 2  # seconds for it to set the clock: whoever lets a guest go on waits for no more
FREEZING: Final = 20  # seconds for the guest to write out what it holds
_SILENT: Final = (86, 97, 112)  # VIR_ERR_AGENT_UNRESPONSIVE, _UNSYNCED, _COMMAND_TIMEOUT
_UNKNOWN: Final = ("has not been found", "has been disabled")  # what the agent says of a command
_FROM_AGENT: Final = 1  # VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT


@dataclass(frozen=True, slots=True)
class GuestInterface:
    """``addresses`` like ``10.0.2.15/24``, as the guest says (it may lie)."""

    name: str
    mac: str
    addresses: tuple[str, ...]


class Agent:
    """Raises UnsupportedOperation when the agent is not configured, not connected or does not answer, and
    InvalidState when the guest does not run."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    def ping(self) -> bool:
        """Does it answer?"""
        try:
            self.command("guest-ping")
        except (UnsupportedOperation, InvalidState):
            return False
        return True

    def command(self, execute: str, arguments: Mapping[str, Any] | None = None, *, timeout: int = TIMEOUT) -> Any:
        """What the agent returns for one of its commands.

        :param timeout: seconds for the answer
        :raises UnsupportedOperation: no agent, no answer, or a command it does not know or allow
        :raises HypervisorError: the command failed in the guest
        :raises DataCorrupt: the answer is not what the protocol allows
        """
        from cowshed.hypervisor.binding import libvirt_qemu

        request = json.dumps({"execute": execute, **({"arguments": dict(arguments)} if arguments else {})})
        try:
            answer = self._guest.call(
                f"ask the agent for {execute} in",
                lambda domain: libvirt_qemu().qemuAgentCommand(domain, request, timeout, 0),
            )
        except HypervisorError as error:
            if any(words in error.reason for words in _UNKNOWN):
                operation = f"do {execute} through its agent"
                raise UnsupportedOperation(
                    subject=self._guest.name, operation=operation, reason=error.reason
                ) from error
            raise
        try:
            return json.loads(answer)["return"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataCorrupt(
                path=f"the agent of {self._guest.name}", reason=f"answer to {execute}: {error}"
            ) from error

    def addresses(self) -> list[GuestInterface]:
        """The interfaces the guest has; loopback is left out."""
        found = self._bounded("ask the agent for addresses in", TIMEOUT, lambda d: d.interfaceAddresses(_FROM_AGENT, 0))
        return [
            GuestInterface(
                name=str(name),
                mac=str(facts.get("hwaddr") or ""),
                addresses=tuple(f"{a['addr']}/{a['prefix']}" for a in facts.get("addrs") or ()),
            )
            for name, facts in (found or {}).items()
            if name != "lo"
        ]

    def set_password(self, user: str, password: str) -> None:
        self._bounded(f"set the password of {user} in", CHANGING, lambda d: d.setUserPassword(user, password, 0))

    def set_time(self) -> None:
        """The guest's clock, and what it has of one on its board, to this host's time.

        libvirt tells QEMU afterwards to make up for no ticks that the guest has missed, which would set it fast.
        """
        try:
            self._bounded("set the clock of", SETTING, lambda d: d.setTime(_now()))
        finally:
            self._bounded("give more time to the agent of", TIMEOUT, lambda d: None)  # it holds for other calls, too

    def _bounded(self, action: str, seconds: int, function: Callable[[Any], Any]) -> Any:
        """Where libvirt speaks with the agent in its own words, it waits without end unless it is told how long."""
        from cowshed.hypervisor.binding import libvirt

        def call(domain: Any) -> Any:
            try:
                domain.agentSetResponseTimeout(seconds, 0)
            except libvirt().libvirtError as error:
                if error.get_error_code() != Number.NO_SUPPORT:  # libvirt's test driver, which has no agents
                    raise
            return function(domain)

        return self._guest.call(action, call)

    # --- quiet file systems -------------------------------------------------------------------

    def frozen(self) -> bool:
        """Do its file systems take no writes? :raises DeadlineExceeded: the agent does not answer"""
        return self._answered("guest-fsfreeze-status", TIMEOUT) == "frozen"

    def freeze(self) -> None:
        """Its file systems write out what they hold, and take no more writes.

        :raises DeadlineExceeded: the agent does not answer; they may be frozen all the same
        :raises HypervisorError: the guest cannot; some may be frozen
        """
        self._answered("guest-fsfreeze-freeze", FREEZING)

    def thaw(self) -> None:
        """Its file systems take writes again; they do already is success. :raises DeadlineExceeded:"""
        self._answered("guest-fsfreeze-thaw", FREEZING)

    def _answered(self, execute: str, timeout: int) -> Any:
        try:
            return self.command(execute, timeout=timeout)
        except (UnsupportedOperation, HypervisorError) as error:
            if error.fields.get("number") not in _SILENT:
                raise
            what = f"an answer of the guest agent in {self._guest.name} to {execute}"
            raise DeadlineExceeded(what=what, seconds=float(timeout), hint=str(error)) from error


def _now() -> dict[str, int]:
    """As libvirt has it; read when the call is made, not when it was asked for."""
    seconds, part = divmod(clock.current().time(), 1)
    return {"seconds": int(seconds), "nseconds": int(part * 1_000_000_000)}
