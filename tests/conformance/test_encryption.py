"""The promises of encrypted disks, on every backend whose disks are files."""

from __future__ import annotations

from pathlib import Path

import pytest

from cowshed.config import DisksSection
from cowshed.contract.storage import Backend
from cowshed.disks import BACKENDS
from cowshed.testing import MemoryKeys
from cowshed.testing.conformance import EncryptionConformance
from tests.conftest import LoopFs

PROMISES = sorted(name for name in dir(EncryptionConformance) if name.startswith("test_"))
SEALING = ("qcow2", "raw")  # what the others say is tried with their traits
QUICK = DisksSection(luks_iterations=1000)


class Files(EncryptionConformance):
    """``name`` in a directory of its own; a raw container has no map of what was never written."""

    def __init__(self, name: str, root: Path, section: DisksSection = QUICK) -> None:
        self.place = root / "place"
        self.place.mkdir(parents=True)
        self.keys = MemoryKeys()
        self.backend: Backend = BACKENDS[name](root / "instances", section, self.keys)
        self.blank_is_zero = name != "raw"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("promise", PROMISES)
@pytest.mark.parametrize("name", SEALING)
def test_encrypted_files(name: str, promise: str, tmp_path: Path) -> None:
    getattr(Files(name, tmp_path / "root"), promise)()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("preallocation", ["falloc", "full"])
@pytest.mark.parametrize("name", SEALING)
def test_preallocated_encrypted_files(name: str, preallocation: str, tmp_path: Path) -> None:
    section = DisksSection(luks_iterations=1000, preallocation=preallocation)
    suite = Files(name, tmp_path / "root", section)
    suite.test_growing_an_encrypted_disk_keeps_its_content()


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("name", "kind"), [("raw", "xfs"), ("qcow2", "btrfs")])
def test_encrypted_files_on_a_file_system(name: str, kind: str, loopfs: LoopFs) -> None:
    suite = Files(name, loopfs(kind, size="512M") / "root")
    suite.test_an_extract_is_encrypted_unless_asked_otherwise()
