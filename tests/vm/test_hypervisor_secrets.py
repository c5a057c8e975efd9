"""Secrets of a real libvirt: what it keeps for us, and what it tells nobody."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from cowshed.contract.storage import KeySource
from cowshed.disks.keys import LibvirtKeys
from cowshed.errors import HypervisorError, NameTaken, NotFound, PermissionDenied
from cowshed.hypervisor import Hypervisor
from cowshed.hypervisor.secrets import Secrets, SecretUsage

pytestmark = pytest.mark.vm


@pytest.fixture
def secrets(hypervisor: Hypervisor) -> Iterator[Secrets]:
    found = hypervisor.secrets
    before = set(found.uuids())
    yield found
    for left in set(found.uuids()) - before:
        found.undefine(left)


@pytest.mark.parametrize(
    ("usage", "name"),
    [(SecretUsage.VOLUME, "/cowshed/one"), (SecretUsage.CEPH, "client.one secret"), (SecretUsage.ISCSI, "one")],
)
def test_a_secret_comes_and_goes(secrets: Secrets, usage: SecretUsage, name: str) -> None:
    identity = str(uuid.uuid4())
    assert secrets.kept(identity) is None
    secrets.define(identity, usage, name, b"first\0value", description="of a test")
    assert secrets.value(identity) == b"first\0value"
    assert secrets.kept(identity) is True
    secrets.define(identity, usage, name, b"second")
    assert secrets.value(identity) == b"second"
    secrets.undefine(identity)
    secrets.undefine(identity)
    assert identity not in secrets.uuids()
    with pytest.raises(NotFound, match=identity):
        secrets.value(identity)


def test_a_private_one_is_told_to_nobody(secrets: Secrets) -> None:
    identity = str(uuid.uuid4())
    secrets.define(identity, SecretUsage.VOLUME, f"/cowshed/{identity}", b"hidden", ephemeral=True, private=True)
    assert secrets.kept(identity) is False
    with pytest.raises(PermissionDenied) as caught:
        secrets.value(identity)
    assert "hidden" not in str(caught.value)


def test_a_name_is_taken_over_from_nobody(secrets: Secrets) -> None:
    first, second = str(uuid.uuid4()), str(uuid.uuid4())
    secrets.define(first, SecretUsage.CEPH, "client.shared secret", b"mine")
    with pytest.raises(HypervisorError):
        secrets.define(second, SecretUsage.CEPH, "client.shared secret", b"yours")
    assert secrets.value(first) == b"mine"
    assert secrets.kept(second) is None


def test_keys_of_disks_in_libvirt(secrets: Secrets) -> None:
    keys, key_id = LibvirtKeys(lambda: secrets), str(uuid.uuid4())
    assert isinstance(keys, KeySource)
    with pytest.raises(NotFound, match=f"key {key_id} does not exist"):
        keys.get(key_id)
    made = keys.create(key_id)
    assert len(made) == 64
    assert keys.get(key_id) == made
    with pytest.raises(NameTaken):
        keys.create(key_id)
    assert keys.get(key_id) == made
    keys.delete(key_id)
    keys.delete(key_id)
    with pytest.raises(NotFound):
        keys.get(key_id)
