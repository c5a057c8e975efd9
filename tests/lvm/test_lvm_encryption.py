"""dm-crypt under volumes: opened again after a reboot, the same way for ever, and never with a key on show."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from cowshed.disks.lvm import LvmBackend, ThinLvmBackend
from cowshed.errors import NotFound, OperatorError
from cowshed.model.disk import DiskFormat, EncryptionFormat
from cowshed.testing import MemoryKeys
from cowshed.testing.conformance import EncryptionConformance
from cowshed.tools import block, cryptsetup, lvm, privilege
from cowshed.units import MiB
from tests.lvm.conftest import GROUP, make_backend
from tests.lvm.test_lvm_faults import DATA, filled, new, read, write


class Encrypted(EncryptionConformance):
    def __init__(self, root: Path, *, thin: bool, encryption: str) -> None:
        self.place = root / "place"
        self.place.mkdir()
        self.keys = MemoryKeys()
        self.backend = make_backend(root, thin=thin, keys=self.keys, encryption=encryption)

    def stored(self, disk: object) -> bytes:
        path = lvm.node(GROUP, lvm.disk_volume(GROUP, disk.instance, disk.name))  # type: ignore[attr-defined]
        return path.read_bytes()


PROMISES = sorted(name for name in dir(EncryptionConformance) if name.startswith("test_"))


@pytest.mark.parametrize("promise", PROMISES)
def test_encrypted_volumes(promise: str, tmp_path: Path) -> None:
    getattr(Encrypted(tmp_path, thin=True, encryption="plain"), promise)()


@pytest.fixture(params=["luks2", "plain"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> LvmBackend:
    return make_backend(tmp_path, thin=False, keys=MemoryKeys(), encryption=request.param)


def reboot(*names: str) -> None:
    """What the kernel has forgotten afterwards: mappings, then volumes."""
    for name in names:
        cryptsetup.close(name)
        lvm.deactivate(GROUP, name)
        assert block.size(lvm.node(GROUP, name)) is None


def test_a_disk_opens_again_after_a_reboot(backend: LvmBackend) -> None:
    """imagebackend D6: the classic backend opens the mapping when it creates the disk, and never again."""
    made = new(backend)
    made.create(4 * MiB, encrypt=True)
    write(made, DATA)
    volume = lvm.disk_volume(GROUP, made.instance, "disk")
    assert DATA[:4096] not in lvm.node(GROUP, volume).read_bytes()
    made.deactivate()
    assert not cryptsetup.is_open(volume)
    reboot(volume)
    again = backend.disk(made.instance, "disk")
    assert again.exists()
    again.activate()
    again.activate()
    assert read(again) == DATA + bytes(3 * MiB)
    assert again.info().virtual_size == 4 * MiB
    again.deactivate()
    again.deactivate()


def test_other_defaults_do_not_change_how_a_disk_opens(backend: LvmBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """imagebackend D7: plain mode has no header, so an unpinned default that changes turns the disk into noise."""
    made = new(backend)
    made.create(4 * MiB, encrypt=True)
    write(made, DATA)
    made.deactivate()
    scheme = made.info().encryption
    assert scheme
    assert {"cipher", "key-size", "hash"} <= scheme.parameters.keys()
    other = {**cryptsetup.PARAMETERS[scheme.format], "hash": "ripemd160", "key-size": "256"}
    monkeypatch.setattr(cryptsetup, "PARAMETERS", {scheme.format: other})
    again = backend.disk(made.instance, "disk")
    assert read(again, MiB) == DATA
    again.deactivate()


def test_a_key_is_on_nobodys_command_line(backend: LvmBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    real = privilege.run

    def run(words: list[str], **options: object) -> object:
        said.append(" ".join(words))
        return real(words, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(privilege, "run", run)
    made = new(backend)
    made.create(4 * MiB, encrypt=True)
    made.activate()
    made.resize(6 * MiB)
    made.deactivate()
    (key,) = backend.keys.held.values()  # type: ignore[union-attr]
    assert any("cryptsetup open" in line for line in said)
    assert not any(key.decode() in line for line in said)
    made.delete()
    assert backend.keys.held == {}  # type: ignore[union-attr]


def test_a_wrong_key_is_said_to_be_wrong(tmp_path: Path) -> None:
    keys = MemoryKeys()
    backend = make_backend(tmp_path, thin=False, keys=keys)
    made = new(backend)
    made.create(4 * MiB, encrypt=True)
    (key_id,) = keys.held
    keys.held[key_id] = b"0" * 64
    with pytest.raises(OperatorError, match="does not open"):
        made.activate()
    keys.held.clear()
    with pytest.raises(NotFound):
        made.activate()
    made.delete()


def test_a_clone_of_a_kept_base_cannot_be_encrypted_so_it_is_copied(tmp_path: Path) -> None:
    backend = make_backend(tmp_path, thin=True, keys=MemoryKeys())
    assert isinstance(backend, ThinLvmBackend)
    name = f"encrypted-{uuid.uuid4().hex[:8]}"
    base = backend.add_base(name, "test", filled(DATA))
    made = new(backend)
    made.create(4 * MiB, base, encrypt=True)
    scheme = made.info().encryption
    assert scheme
    assert scheme.format == EncryptionFormat.LUKS2
    assert read(made) == DATA + bytes(3 * MiB)
    made.deactivate()
    volume = lvm.disk_volume(GROUP, made.instance, "disk")
    assert DATA[:4096] not in lvm.node(GROUP, volume).read_bytes()
    assert lvm.node(GROUP, volume).read_bytes()[:6] == b"LUKS\xba\xbe"
    target = tmp_path / "extract"
    made.extract(target, DiskFormat.QCOW2)
    assert DATA[:4096] not in target.read_bytes()
    made.delete()
    backend.remove_base(name)
