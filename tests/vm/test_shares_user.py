"""Directories that a guest of an ordinary user mounts: virtiofsd runs in a user namespace, with subordinate numbers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.other_user import beside_the_project
from tests.vm.test_shares_system import INSIDE

_USER, _NUMBERS = 65534, 700000

# Processes are apart, so that the user's libvirt daemon ends with the test. $1: a directory of the user.
_AS_USER = r"""
mount --bind "$1/numbers" /etc/subuid && mount --bind "$1/numbers" /etc/subgid
exec setpriv --reuid 65534 --regid 65534 --groups 65534,100 -- bash -c "$2" work "$1" "$3" "$4"
"""
_WORK = r"""
set -e
place=$1 python=$2 image=$3
cowshed() { "$python" -m cowshed.cli "$@"; }
for name in data fixed; do mkdir "$place/$name"; echo "hello from $name" >"$place/$name/hello"; done
cowshed run "$image" --name one --memory 160M --network none --user-data "$place/inside" \
    --share "$place/data" --share "$place/fixed:ro" --wait 'log:inside: fixed is read-only' --timeout 150s
cowshed log one >"$place/console"
cowshed share ls -o json >"$place/shares"
cowshed doctor >"$place/doctor" || true
cowshed rm --yes one
! pgrep virtiofsd || exit 5
"""


@pytest.fixture
def place() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="cowshed-user-", dir="/tmp"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to become an ordinary user with subordinate numbers")
def test_a_guest_of_an_ordinary_user(place: Path, guest_dir: Path) -> None:
    if shutil.which("newuidmap") is None:
        pytest.skip("needs newuidmap: see scripts/packages.sh test")
    (place / "numbers").write_text(f"nobody:{_NUMBERS}:65536\n")
    (place / "inside").write_text(INSIDE)
    (place / "run").mkdir()
    for one in (place, *place.iterdir()):
        os.chown(one, _USER, _USER)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "COWSHED_", "LIBVIRT_"))}
    apart = ["unshare", "-m", "-p", "-f", "--kill-child", "--mount-proc", "--propagation", "private"]
    work = ["sh", "-ec", _AS_USER, "sh", str(place), _WORK, sys.executable, str(guest_dir / "tiny.qcow2")]
    done = subprocess.run(
        [*apart, *beside_the_project(*work)],
        cwd="/",
        stdin=subprocess.DEVNULL,
        env={**kept, "HOME": str(place), "XDG_RUNTIME_DIR": str(place / "run"), "COWSHED_HOST_VIRT_TYPE": "qemu"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    log = (place / "console").read_text()
    assert "inside: data: hello from data" in log
    assert "inside: fixed: hello from fixed" in log
    answer = place / "data" / "answer"
    assert answer.read_text() == "of the guest\n"
    assert answer.stat().st_uid == _USER, "the guest's root is the user"
    assert (place / "data" / "of-another").stat().st_uid == _NUMBERS + 999, "its other users are his other numbers"
    assert not (place / "fixed" / "answer").exists()
    shares = json.loads((place / "shares").read_text())["shares"]
    assert [(one["tag"], one["read_only"], one["status"]) for one in shares] == [
        ("data", False, "active"),
        ("fixed", True, "active"),
    ]
    assert "virtiofsd" in (place / "doctor").read_text()
