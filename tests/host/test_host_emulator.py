"""The emulator of the configuration: what is no QEMU is told from what is one, and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from cowshed.host import doctor, emulator
from cowshed.tools import run

pytestmark = pytest.mark.host


def fake(tmp_path: Path, script: str) -> Path:
    path = tmp_path / "emulator"
    path.write_text(script)
    path.chmod(0o755)
    return path


def test_what_cannot_be_one(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("")
    expected = {
        "qemu-system-x86_64": "qemu-system-x86_64 is no absolute path",
        str(tmp_path / "nothing"): f"{tmp_path}/nothing does not exist",
        str(tmp_path): f"{tmp_path} is no program",
        str(plain): f"{plain} is no program",
    }
    assert {path: emulator.unusable(path) for path in expected} == expected


@pytest.mark.parametrize(
    "script",
    [
        "#!/bin/sh\necho hello\n",
        "#!/bin/sh\nexit 3\n",
        "#!/bin/sh\necho qemu-img version 7.2.0\n",
        "\x7fELF of nothing",
    ],
    ids=["another", "fails", "another of QEMU's", "no program at all"],
)
def test_a_program_that_is_none(tmp_path: Path, script: str) -> None:
    path = str(fake(tmp_path, script))
    assert emulator.unusable(path) == f"{path} is no QEMU system emulator"
    (finding,) = doctor.emulator(path, configured=True)
    assert (finding.level, finding.subject) == ("error", "QEMU")
    assert finding.sentence == f"[host] emulator: {path} is no QEMU system emulator"
    assert "leave it out" in finding.remedy


def test_one_that_is(tmp_path: Path) -> None:
    found = run.find("qemu-system-x86_64")
    if found is None:
        pytest.skip("needs qemu-system-x86_64")
    wrapped = str(fake(tmp_path, f'#!/bin/sh\nexec {found} "$@"\n'))
    for path in (found, wrapped):
        assert emulator.unusable(path) == ""
        assert [one.level for one in doctor.emulator(path, configured=True)] == ["ok"]
