"""The kept domains follow libvirt's own schema."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from cowshed.domain.secret import NAMED, Secret, SecretUsage, Usage
from tests.golden.domains import FILES

SCHEMA = Path("/usr/share/libvirt/schemas/domain.rng")


@pytest.mark.skipif(shutil.which("xmllint") is None, reason="needs xmllint: see scripts/packages.sh test")
@pytest.mark.skipif(not SCHEMA.exists(), reason="needs libvirt's schemas: see scripts/packages.sh")
@pytest.mark.parametrize("path", sorted(FILES.glob("*.xml")), ids=lambda path: path.stem)
def test_schema(path: Path) -> None:
    command = ["xmllint", "--noout", "--relaxng", str(SCHEMA), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("xmllint") is None, reason="needs xmllint: see scripts/packages.sh test")
@pytest.mark.skipif(not SCHEMA.exists(), reason="needs libvirt's schemas: see scripts/packages.sh")
@pytest.mark.parametrize(
    ("usage", "name"),
    [(SecretUsage.VOLUME, "/cowshed/4d7d3a4c"), (SecretUsage.CEPH, "client.cow secret"), (SecretUsage.ISCSI, "chap")],
)
def test_secrets_follow_their_schema(usage: SecretUsage, name: str, tmp_path: Path) -> None:
    secret = Secret(
        ephemeral=True,
        private=True,
        uuid="4d7d3a4c-6f0e-4f43-9a5e-0a1d6c3b2f10",
        description="of a test",
        usage=Usage(type=usage, **{NAMED[usage]: name}),
    )
    path = tmp_path / "secret.xml"
    path.write_text(secret.to_xml())
    command = ["xmllint", "--noout", "--relaxng", str(SCHEMA.with_name("secret.rng")), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert Secret.parse(secret.to_xml()) == secret
