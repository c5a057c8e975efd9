"""A whole live migration, both hosts' parts in their order: what a manager does with two drivers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cowshed import log
from cowshed.contract.callbacks import Placed
from cowshed.contract.compute import ComputeDriver
from cowshed.errors import CowshedError, HostUnsuitable
from cowshed.model.instance import Instance
from cowshed.model.vif import Vif

_log = log.logger(__name__)


def move(source: ComputeDriver, place: Placed, instance: Instance, vifs: Sequence[Vif]) -> None:
    """The guest runs at ``place`` afterwards, and nothing of it is left here.

    :raises CowshedError: it runs here as before, and nothing is left there; or nobody can say yet where it runs
    """
    there = place.driver
    data = _checked(source, place, instance)
    data = there.pre_live_migration(None, instance, None, vifs, None, data)
    ended: list[Any] = []

    def post(*words: Any) -> None:
        ended.append(words[-1])

    def recover(*_: Any, **__: Any) -> None:
        """What follows is done below, also where nobody is called."""

    try:
        source.live_migration(None, instance, place.host, post, recover, bool(data["block_migration"]), data)
    finally:
        if not ended and not data.get("open"):
            try:
                there.rollback_live_migration_at_destination(None, instance, vifs, None, migrate_data=data)
            except CowshedError as error:  # why it stays is what the caller must hear
                _log.warning("what was prepared for %s is still on %s: %s", instance.name, place.host, error)
    if data.get("open"):
        raise unknown(instance.name, place.host)
    if not ended:
        raise HostUnsuitable(reason=data.get("error") or "it stayed", hint="it runs here as before")
    source.post_live_migration(None, instance, None, ended[0])
    source.post_live_migration_at_source(None, instance, vifs)
    source.cleanup(None, instance, vifs, migrate_data=ended[0])
    there.post_live_migration_at_destination(None, instance, vifs, bool(data["block_migration"]))


def unknown(name: str, dest: str) -> HostUnsuitable:
    return HostUnsuitable(
        reason=f"{dest} does not say whether {name} runs there; until it does, {name} does not run here",
        hint=f"when {dest} is reached again, the next call that has to do with {name} finds out. "
        f"If you know that it does not run there and never will: virsh resume {name}",
    )


def _checked(source: ComputeDriver, place: Placed, instance: Instance) -> Any:
    """Both hosts say that it can be; storage decides what is copied."""
    found = place.driver.check_can_live_migrate_destination(None, instance, {}, {}, None)
    try:
        return source.check_can_live_migrate_source(None, instance, found)
    finally:
        place.driver.check_can_live_migrate_destination_cleanup(None, found)
