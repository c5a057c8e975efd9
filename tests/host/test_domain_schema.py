"""The kept domains follow libvirt's own schema."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.golden.domains import FILES

SCHEMA = Path("/usr/share/libvirt/schemas/domain.rng")


@pytest.mark.skipif(shutil.which("xmllint") is None, reason="needs xmllint: see scripts/packages.sh test")
@pytest.mark.skipif(not SCHEMA.exists(), reason="needs libvirt's schemas: see scripts/packages.sh")
@pytest.mark.parametrize("path", sorted(FILES.glob("*.xml")), ids=lambda path: path.stem)
def test_schema(path: Path) -> None:
    command = ["xmllint", "--noout", "--relaxng", str(SCHEMA), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
