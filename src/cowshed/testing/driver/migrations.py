"""Moving between hosts is not faked: what the manager asks of it says so, before anything happens."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from cowshed.contract.promise import refuse
from cowshed.migration.transport import Channel
from cowshed.model.instance import Instance
from cowshed.testing.driver.table import Table


class FakeMigrations(Table):
    def other_host(self, dest: str) -> AbstractContextManager[Channel]:
        refuse(self, "other_host")

    def is_here(self, dest: str) -> bool:
        return dest in {"", "localhost", "fake"}

    def meet(self, dest: str, peer: Channel, *, live: bool) -> None:
        refuse(self, "meet")

    def met(self, probe: str) -> dict[str, Any]:
        refuse(self, "met")

    def left_for(self, instance: Instance) -> str:
        return ""

    def volume_passwords(self, instance: Instance) -> dict[str, str]:
        return {}

    def resized(self, instance: Instance) -> bool:
        return False

    def moved_to(self, instance: Instance) -> str:
        return ""

    def ran_before(self, instance: Instance) -> bool:
        return False

    def receive(self, instance: Instance, offer: Mapping[str, Any], channel: Any) -> None:
        refuse(self, "receive")

    def discard_received(self, instance: Instance) -> None:
        refuse(self, "discard_received")
