"""Passwords of volumes: what the volumes room wants kept, as libvirt's secrets."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cowshed.hypervisor.secrets import Secrets


class Keeper:
    """A ``SecretKeeper``; libvirt is reached when something is kept or read."""

    def __init__(self, secrets: Callable[[], Secrets]) -> None:
        self._secrets = secrets

    def keep(self, uuid: str, usage: str, name: str, content: bytes) -> None:
        from cowshed.hypervisor.secrets import SecretUsage

        self._secrets().define(uuid, SecretUsage(usage), name, content, description="password of a volume")

    def read(self, uuid: str) -> bytes:
        return self._secrets().value(uuid)

    def forget(self, uuid: str) -> None:
        self._secrets().undefine(uuid)
