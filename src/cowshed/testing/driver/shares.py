"""The fake's shares: remembered with the guest, and checked as the real driver does. Nothing is mounted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cowshed.contract.shares import Shares
from cowshed.errors import InvalidState, NotFound
from cowshed.model.instance import Instance
from cowshed.model.share import Share, ShareStatus
from cowshed.shares import check
from cowshed.testing.driver.table import Table


class FakeShares(Table, Shares):
    def mount_share(self, context: Any, instance: Instance, share_mapping: Share) -> None:
        guest = self._find(instance)
        known = [one for one in guest.shares if one.id != share_mapping.id]
        self.give_shares(context, instance, [*known, share_mapping])

    def umount_share(self, context: Any, instance: Instance, share_mapping: Share) -> bool:
        if guest := self.guests.get(instance.uuid):
            if guest.running and share_mapping.id in guest.shown:
                raise InvalidState(name=guest.name, state="running", action=f"deprived of {share_mapping.source}")
            guest.shares = [one for one in guest.shares if one.id != share_mapping.id]
        return not any(one.id == share_mapping.id for guest in self.guests.values() for one in guest.shares)

    def is_share_mounted(self, context: Any, instance: Instance, share_mapping: Share) -> bool:
        guest = self.guests.get(instance.uuid)
        return guest is not None and share_mapping.id in [one.id for one in guest.shares]

    def give_shares(self, context: Any, instance: Instance, share_info: Sequence[Share]) -> None:
        check.check(share_info, private=Path("/nonexistent"))
        guest = self.guests.get(instance.uuid)
        if guest is None:
            self.expected_shares[instance.uuid] = list(share_info)
            return
        if guest.saved and list(share_info) != guest.shares:
            raise InvalidState(name=guest.name, state="suspended", action="given or deprived of a share")
        guest.shares = list(share_info)

    def shares(self, instance: Instance) -> tuple[Share, ...]:
        guest = self.guests.get(instance.uuid)
        if guest is None:
            return ()
        active = guest.shown if guest.running else set()
        return tuple(
            replace(one, status=ShareStatus.ACTIVE if one.id in active else ShareStatus.INACTIVE)
            for one in guest.shares
        )

    def attach_share(self, instance: Instance, share: Share) -> None:
        """A fake guest takes it also when it was started without any."""
        guest = self._find(instance)
        self.give_shares(None, instance, [*guest.shares, share])
        if guest.running:
            guest.shown.add(share.id)

    def detach_share(self, instance: Instance, share_id: str, *, timeout: float | None = None) -> None:
        guest = self._find(instance)
        if share_id not in [one.id for one in guest.shares]:
            raise NotFound(kind="share", name=f"{share_id} of {instance.name}")
        guest.shown.discard(share_id)
        guest.shares = [one for one in guest.shares if one.id != share_id]
