"""What every disk backend promises (contract/storage.py)."""

from __future__ import annotations

from cowshed.testing.conformance.storage.bases import BasePromises
from cowshed.testing.conformance.storage.encryption import EncryptionPromises
from cowshed.testing.conformance.storage.life import LifePromises
from cowshed.testing.conformance.storage.snapshots import SnapshotPromises
from cowshed.testing.conformance.storage.suite import DATA, SIZE, StorageSuite, data
from cowshed.testing.conformance.storage.traits import TraitPromises

__all__ = ["DATA", "SIZE", "BackendConformance", "EncryptionConformance", "StorageSuite", "data", "promises"]


class BackendConformance(LifePromises, TraitPromises, SnapshotPromises, BasePromises):
    """All of it: the promises of every disk, and those of the roles a backend announces."""


class EncryptionConformance(EncryptionPromises):
    """What a backend that encrypts promises beside that. It wants the source of the keys to look at."""


def promises() -> list[str]:
    """The names of all test methods, for those who run them one by one."""
    return sorted(name for name in dir(BackendConformance) if name.startswith("test_"))
