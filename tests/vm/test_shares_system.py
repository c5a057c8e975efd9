"""Directories that a guest mounts through virtiofs, served by the system's libvirt; through the command, as a user would."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm import lab

INSIDE = r"""#!/bin/sh
for tag in data fixed; do
    mkdir -p /mnt/$tag
    mount -t virtiofs $tag /mnt/$tag && echo "inside: $tag: $(cat /mnt/$tag/hello)"
    echo "of the guest" 2>/dev/null >/mnt/$tag/answer || echo "inside: $tag is read-only"
    touch /mnt/$tag/of-another && chown 1000 /mnt/$tag/of-another
done
"""

_WORK = r"""
cowshed() { "$python" -m cowshed.cli --connect qemu:///system "$@"; }
for name in data fixed more; do mkdir "$place/$name"; echo "hello from $name" >"$place/$name/hello"; done
! cowshed run "$image" --name lost --share "$place/missing" 2>"$place/refused" || exit 3
cowshed run "$image" --name one --memory 160M --network none --user-data "$place/inside" \
    --share "$place/data" --share "$place/fixed:ro" --wait 'log:inside: fixed is read-only' --timeout 150s
cowshed log one >"$place/console"
cowshed share ls -o json >"$place/shares"
grep -c /shares/ /proc/self/mountinfo >"$place/mounts"
! cowshed suspend one 2>"$place/suspended" || exit 3
! cowshed share attach one "$place/more" 2>"$place/hot" || exit 3
cowshed share ls one -q >"$place/two"
cowshed stop --force one
cowshed share attach one "$place/more"
cowshed share detach one fixed
! grep /shares/ /proc/self/mountinfo || exit 4
cowshed start one --quiet
cowshed share ls one -o json >"$place/left"
cowshed rm --yes one
! pgrep virtiofsd || exit 5
"""


@pytest.fixture
def place() -> Iterator[Path]:
    with lab.folder() as made:
        yield made


@pytest.mark.slow
def test_a_guest_reads_and_writes_what_the_host_shares(place: Path, guest_dir: Path) -> None:
    (place / "inside").write_text(INSIDE)
    lab.work(place, _WORK, timeout=220, image=guest_dir / "tiny.qcow2")
    assert "does not exist" in (place / "refused").read_text()
    log = (place / "console").read_text()
    assert "inside: data: hello from data" in log
    assert "inside: fixed: hello from fixed" in log
    assert (place / "data" / "answer").read_text() == "of the guest\n"
    assert (place / "data" / "of-another").stat().st_uid == 1000
    assert not (place / "fixed" / "answer").exists()
    shares = json.loads((place / "shares").read_text())["shares"]
    assert [(one["tag"], one["read_only"], one["status"]) for one in shares] == [
        ("data", False, "active"),
        ("fixed", True, "active"),
    ]
    assert (place / "mounts").read_text() == "1\n", "the one that is only read"
    assert "shares directories" in (place / "suspended").read_text()
    assert "control group" in (place / "hot").read_text(), "libvirtd 9 would crash here"
    assert len((place / "two").read_text().split()) == 2
    assert [one["tag"] for one in json.loads((place / "left").read_text())["shares"]] == ["data", "more"]
