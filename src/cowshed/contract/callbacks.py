"""The three ways up: progress, events, and waiting for the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from cowshed.model.event import Event

if TYPE_CHECKING:
    from cowshed.contract.live_migration import LiveMigration

EventListener: TypeAlias = Callable[[Event], None]


class Progress(Protocol):
    """Where long work says how far it is. All calls are cheap and may come from any thread."""

    def phase(self, name: str, total: int | None = None) -> None:
        """A new phase such as ``download`` begins; ``total`` in bytes where it is known."""

    def update(self, done: int) -> None:
        """``done`` more bytes are finished."""

    def check(self) -> None:
        """Called between steps. :raises Interrupted: the work shall stop"""

    def note(self, text: str) -> None:
        """A sentence for whoever waits: why nothing goes on for a while."""


class NoProgress:
    """Progress that nobody watches."""

    def phase(self, name: str, total: int | None = None) -> None:
        pass

    def update(self, done: int) -> None:
        pass

    def check(self) -> None:
        pass

    def note(self, text: str) -> None:
        pass


SILENT = NoProgress()


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a running guest is to go: the address of a host, and its driver, or what reaches that."""

    host: str
    driver: LiveMigration


class Placement(Protocol):
    """Who knows the other hosts."""

    def __call__(self, instance: Any) -> Placed | None:
        """Where ``instance`` can go; None: nowhere."""


class NetworkWaiter(Protocol):
    """What a driver calls back when somebody else plugs the network (Nova's ``virtapi``)."""

    def wait_for_instance_event(
        self,
        instance: Any,
        events: Sequence[tuple[str, str]],
        *,
        timeout: float = 300,
        error_callback: Callable[[str, Any], bool] | None = None,
    ) -> AbstractContextManager[Any]:
        """A context manager: leaving it waits until all ``events`` (name, tag) have come.

        :param timeout: seconds, from when it is left
        :param error_callback: hears of an event that says it failed, with its name and the instance; what it raises
            ends the wait, and True goes on with it
        :raises TimeoutError: they have not come
        """

    def update_compute_provider_status(self, context: Any, provider_uuid: str, *, enabled: bool) -> None:
        """Tell the control plane that this host is enabled or not."""


class NoNetworkWaiter:
    """For standalone use: nobody sends events, so nothing is waited for."""

    def wait_for_instance_event(
        self,
        instance: Any,
        events: Sequence[tuple[str, str]],
        *,
        timeout: float = 300,
        error_callback: Callable[[str, Any], bool] | None = None,
    ) -> AbstractContextManager[Any]:
        return nullcontext()

    def update_compute_provider_status(self, context: Any, provider_uuid: str, *, enabled: bool) -> None:
        pass
